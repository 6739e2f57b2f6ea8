import json
import logging
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest
import structlog
from httpx import ASGITransport, AsyncClient
from litestar import asgi, get, post
from litestar.params import FromPath, FromQuery
from litestar.types import ASGIApp, ControllerRouterHandler, Receive, Scope, Send

from shared.auth.tokens import AdminTokenStore
from shared.errors import (
    ClickHouseUnavailableError,
    NotFoundError,
    ParameterError,
    QueryError,
    SaturatedError,
    UserError,
)
from shared.observe.metrics import Metrics
from shared.web.app import create_app
from shared.web.errors import error_codes
from shared.web.health import health_routes, metrics_route

TOKEN = "p.a-token-for-tests"


@get("/missing")
async def missing() -> None:
    raise NotFoundError("Pipe 'tpo' not found.", hint="Did you mean 'top'?")


@get("/parameters")
async def parameters() -> None:
    raise ParameterError("2 bad parameters.", errors=[{"parameter": "a"}, {"parameter": "b"}])


@get("/busy")
async def busy() -> None:
    raise SaturatedError("Too many queries.", retry_after_s=1.2)


@get("/down")
async def down() -> None:
    raise ClickHouseUnavailableError("ClickHouse does not answer.", retry_after_s=0.1)


@get("/query")
async def query() -> None:
    raise QueryError("Unknown identifier.", clickhouse_code=47)


class OwnBodyError(UserError):
    """Chooses what the caller sees."""

    code = "own_body_in_a_test"

    def __init__(self) -> None:
        super().__init__("unused")
        self.body = {"error": "teapot", "reason": 7}
        self.http_status = 418  # type: ignore[misc]


@get("/own")
async def own() -> None:
    raise OwnBodyError


@get("/bug")
async def bug() -> None:
    raise KeyError("internal detail")


@get("/typed")
async def typed(limit: FromQuery[int]) -> int:
    return limit


@post("/thing")
async def thing() -> dict[str, int]:
    return {"n": 1}


@asgi("/plain", is_mount=False, copy_scope=False)
async def plain(scope: Scope, receive: Receive, send: Send) -> None:
    raise NotFoundError("Nothing here.")


@asgi("/mounted", is_mount=True, copy_scope=False)
async def mounted(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    body = scope["path"].encode()
    await send({"type": "http.response.body", "body": body, "more_body": False})


@get("/mounted/page")
async def page() -> str:
    return "a page"


@get("/mounted/{name:str}/copy")
async def copy_of(name: FromPath[str]) -> str:
    return f"a copy of {name}"


@asgi("/half", is_mount=False, copy_scope=False)
async def half(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"begun", "more_body": True})
    raise QueryError("Failed late.")


async def answers() -> None:
    return


async def is_down() -> None:
    raise ClickHouseUnavailableError("ClickHouse does not answer.")


def build(*, is_ready: bool = True, need_token: bool = False) -> ASGIApp:
    handlers: list[ControllerRouterHandler] = [
        missing,
        parameters,
        busy,
        down,
        query,
        own,
        bug,
        typed,
        thing,
        plain,
    ]
    handlers += [mounted, page, copy_of, half]
    checks = {"log": answers, "clickhouse": answers if is_ready else is_down}
    return create_app(
        [
            *handlers,
            *health_routes(checks),
            metrics_route(Metrics(), AdminTokenStore(TOKEN), need_token=need_token),
        ]
    )


def client_of(app: ASGIApp) -> AsyncClient:
    return AsyncClient(transport=ASGITransport(cast(Any, app)), base_url="http://test")


@pytest.fixture
async def client() -> AsyncIterator[AsyncClient]:
    async with client_of(build()) as client:
        yield client


@pytest.mark.parametrize(
    ("path", "status", "code", "error"),
    [
        ("/missing", 404, "not_found", "Pipe 'tpo' not found. Did you mean 'top'?"),
        ("/plain", 404, "not_found", "Nothing here."),
        ("/nowhere", 404, "not_found", "Nothing is served at this path."),
        ("/thing", 405, "method_not_allowed", "The method is not allowed here."),
        ("/typed?limit=x&token=p.secret", 400, "bad_request", "The request is not valid."),
        ("/busy", 429, "saturated", "Too many queries."),
        ("/down", 503, "clickhouse_unavailable", "ClickHouse does not answer."),
    ],
)
async def test_every_refusal_has_the_same_envelope(
    client: AsyncClient, path: str, status: int, code: str, error: str
) -> None:
    response = await client.get(path)
    assert response.status_code == status
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert (body["code"], body["error"]) == (code, error)
    assert body["documentation"] == f"/docs/errors#{code}"
    assert response.headers["x-request-id"]


async def test_details_are_listed_one_by_one(client: AsyncClient) -> None:
    assert (await client.get("/parameters")).json()["errors"] == [
        {"parameter": "a"},
        {"parameter": "b"},
    ]
    (detail,) = (await client.get("/typed?limit=x")).json()["errors"]
    assert detail["parameter"] == "limit"


@pytest.mark.parametrize(("path", "seconds"), [("/busy", "2"), ("/down", "1")])
async def test_an_answer_to_come_back_later_says_when_in_whole_seconds(
    client: AsyncClient, path: str, seconds: str
) -> None:
    assert (await client.get(path)).headers["retry-after"] == seconds


async def test_an_error_of_the_engine_carries_its_number(client: AsyncClient) -> None:
    assert (await client.get("/query")).headers["x-db-exception-code"] == "47"


async def test_an_error_may_bring_its_own_body_and_status(client: AsyncClient) -> None:
    response = await client.get("/own")
    assert (response.status_code, response.json()) == (418, {"error": "teapot", "reason": 7})


async def test_a_mistake_of_ours_shows_nothing_but_an_id_that_the_log_has(
    client: AsyncClient,
) -> None:
    with structlog.testing.capture_logs() as logged:
        response = await client.get("/bug?token=p.secret")
    assert response.status_code == 500
    assert response.json()["code"] == "internal_error"
    assert "internal detail" not in response.text
    (line,) = logged
    assert line["request_id"] == response.headers["x-request-id"]
    assert line["path"] == "/bug"
    assert isinstance(line["exc_info"], KeyError)


async def test_refusals_are_not_logged_as_mistakes(
    client: AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    with structlog.testing.capture_logs() as logged, caplog.at_level(logging.DEBUG, "litestar"):
        await client.get("/missing")
        await client.get("/down")
    assert logged == []
    assert caplog.records == []


async def test_a_valid_request_id_of_the_caller_is_kept(client: AsyncClient) -> None:
    response = await client.get("/health", headers={"X-Request-Id": "trace-1.a_B"})
    assert response.headers.get_list("x-request-id") == ["trace-1.a_B"]


@pytest.mark.parametrize("sent", ["", "two words", "x" * 129, "a\tb", "é"])
async def test_an_invalid_request_id_is_replaced(client: AsyncClient, sent: str) -> None:
    response = await client.get("/health", headers={b"X-Request-Id": sent.encode()})
    assert response.headers["x-request-id"] != sent
    assert len(response.headers["x-request-id"]) == 24


async def test_two_requests_have_two_ids(client: AsyncClient) -> None:
    first, second = await client.get("/health"), await client.get("/health")
    assert first.headers["x-request-id"] != second.headers["x-request-id"]


@pytest.mark.parametrize("path", ["/health", "/health/"])
async def test_health_answers_with_and_without_a_trailing_slash(
    client: AsyncClient, path: str
) -> None:
    response = await client.get(path)
    assert (response.status_code, response.json()) == (200, {"status": "ok"})


async def test_ready_lists_what_answers(client: AsyncClient) -> None:
    response = await client.get("/ready")
    assert response.status_code == 200
    assert response.json() == {"status": "ok", "checks": {"log": "ok", "clickhouse": "ok"}}


async def test_not_ready_says_what_is_missing() -> None:
    async with client_of(build(is_ready=False)) as client:
        response = await client.get("/ready")
    assert response.status_code == 503
    assert response.json() == {
        "status": "unavailable",
        "checks": {"log": "ok", "clickhouse": "ClickHouse does not answer."},
    }


async def test_metrics_are_open_unless_set_behind_the_token() -> None:
    async with client_of(build()) as client:
        response = await client.get("/metrics")
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/plain")
        assert "# TYPE pipehouse_events_rows_total counter" in response.text
    async with client_of(build(need_token=True)) as client:
        assert (await client.get("/metrics")).status_code == 403
        assert (await client.get(f"/metrics?token={TOKEN}")).status_code == 200


async def test_browsers_of_other_origins_may_ask(client: AsyncClient) -> None:
    preflight = await client.options(
        "/thing",
        headers={
            "Origin": "https://app.example",
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization, content-type",
        },
    )
    assert preflight.status_code == 204
    assert preflight.headers["access-control-allow-origin"] == "*"
    allowed = preflight.headers["access-control-allow-headers"].lower()
    assert "authorization" in allowed
    assert "content-type" in allowed
    refused = await client.get("/missing", headers={"Origin": "https://app.example"})
    assert refused.headers["access-control-allow-origin"] == "*"


async def test_the_error_page_has_an_anchor_for_every_code(client: AsyncClient) -> None:
    page = (await client.get("/docs/errors")).text
    for row in error_codes():
        assert f'id="{row.code}"' in page


def test_error_codes_are_unique_and_say_what_they_mean() -> None:
    rows = error_codes()
    codes = [row.code for row in rows]
    assert codes == sorted(set(codes))
    by_code = {row.code: row for row in rows}
    assert by_code["bad_token"].status == 403
    assert by_code["internal_error"].status == 500
    assert by_code["bad_request"].meaning == "A malformed body, header or query string."
    assert all(row.meaning for row in rows)
    assert json.dumps(codes).count('"error"') == 0


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("/mounted", "/mounted"),
        ("/mounted/", "/mounted/"),
        ("/mounted/a/b.json", "/mounted/a/b.json"),
        ("/mounted/page", "a page"),
        ("/mounted/page/", "a page"),
        ("/mounted/x/copy", "a copy of x"),
    ],
)
async def test_a_mount_gets_what_no_other_route_has(
    client: AsyncClient, path: str, text: str
) -> None:
    response = await client.get(path)
    assert (response.status_code, response.text) == (200, text)
    assert response.headers["x-request-id"]


async def test_nothing_beside_a_mount_belongs_to_it(client: AsyncClient) -> None:
    assert (await client.get("/mountedpage")).status_code == 404


async def test_an_answer_that_fails_half_way_is_left_unfinished_and_logged() -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    scope = {"type": "http", "method": "GET", "path": "/half", "headers": []}
    with structlog.testing.capture_logs() as logged:
        await build()(cast(Any, scope), receive, send)
    assert [message.get("more_body") for message in sent] == [None, True]
    (line,) = logged
    assert (line["event"], line["log_level"]) == ("answer_broken_off", "error")
