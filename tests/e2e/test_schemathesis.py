"""Requests made from our own OpenAPI: good and bad ones, none of which may break the server."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from openapi_spec_validator import OpenAPIV31SpecValidator
from schemathesis import GenerationMode, Response
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.e2e.conftest import PROJECT_NAMES, PROJECTS, Server

# The cases of each operation and kind of data; the usual number of rounds gives a few.
CASES = max(4, int(os.environ.get("PIPEHOUSE_TEST_ROUNDS", "15")) // 5)

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folders = [PROJECTS / name for name in PROJECT_NAMES]
    server = Server(folders, tmp_path_factory.mktemp("filled") / "data", "--fixtures")
    server.wait_for_rows("user_events", 1)
    yield server
    server.stop()


@pytest.fixture(scope="module")
def document(filled: Server) -> dict[str, Any]:
    answer = filled.client.get("/v0/pipes/openapi.json")
    assert answer.status_code == 200
    found: dict[str, Any] = answer.json()
    return found


def test_the_document_of_a_real_server_is_valid_and_complete(
    filled: Server, document: dict[str, Any]
) -> None:
    assert [error.message for error in OpenAPIV31SpecValidator(document).iter_errors()] == []
    assert document["servers"] == [{"url": filled.url}]
    pipes = {p.stem for p in PROJECTS.glob("*/endpoints/*.pipe")}
    described = {path.split("/")[-1].partition(".")[0] for path in document["paths"]}
    assert described == pipes | {"sql"}
    for path, item in document["paths"].items():
        answer = item["get"]["responses"]["200"]["content"]
        if "application/json" in answer:
            row = answer["application/json"]["schema"]["properties"]["data"]["items"]
            assert row["properties"], path


def test_the_document_needs_a_token(filled: Server) -> None:
    answer = requests.get(f"{filled.url}/v0/pipes/openapi.json", timeout=10)
    assert answer.status_code == 403
    assert answer.json()["code"] == "bad_token"


def run_cases(
    server: Server,
    document: dict[str, Any],
    mode: GenerationMode,
    check: Callable[[schemathesis.Case[Any], Response], None],
) -> int:
    """Send cases of every operation; how many were sent."""
    sent = 0
    schema = schemathesis.openapi.from_dict(document)
    with requests.Session() as session:
        # The environment's proxies and passwords are not for this server.
        session.trust_env = False
        session.headers["Authorization"] = f"Bearer {server.token}"
        for found in schema.get_all_operations():
            assert isinstance(found, Ok)
            operation = found.ok()

            @settings(
                max_examples=CASES,
                database=None,
                derandomize=True,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
            @given(case=operation.as_strategy(generation_mode=mode))
            def one(case: schemathesis.Case[Any]) -> None:
                nonlocal sent
                sent += 1
                # The token of the header counts, whatever is made up for the query.
                case.query.pop("token", None)
                case.headers.pop("Authorization", None)
                answer = case.call(base_url=server.url, session=session)
                check(case, answer)

            one()
    return sent


def test_requests_as_described_are_answered_as_described(
    filled: Server, document: dict[str, Any]
) -> None:
    statuses: set[int] = set()

    def check(case: schemathesis.Case[Any], answer: Response) -> None:
        statuses.add(answer.status_code)
        case.validate_response(answer, checks=CHECKS)

    sent = run_cases(filled, document, GenerationMode.POSITIVE, check)
    assert sent >= len(document["paths"]) * 2
    assert 200 in statuses


def test_requests_not_as_described_break_nothing(filled: Server, document: dict[str, Any]) -> None:
    def check(case: schemathesis.Case[Any], answer: Response) -> None:
        assert answer.status_code < 500, (case.as_curl_command(), answer.text)
        if answer.status_code >= 400:
            assert {"error", "code"} <= set(answer.json()), (case.as_curl_command(), answer.text)

    run_cases(filled, document, GenerationMode.NEGATIVE, check)
    assert filled.client.get("/ready").status_code == 200
