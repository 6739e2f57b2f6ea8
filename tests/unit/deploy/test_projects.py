"""The example projects are whole: fixtures fit their data sources, every endpoint has its tests."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from urllib.parse import parse_qsl

import pytest
import yaml

import deploy

PROJECTS = Path(deploy.__file__).parent / "projects"
FIXTURES = sorted(PROJECTS.glob("*/fixtures/*"))
ENDPOINTS = sorted(PROJECTS.glob("*/endpoints/*.pipe"))
TESTS = sorted(PROJECTS.glob("*/tests/*"))

_JSONPATH = re.compile(r"`json:\$\.(\w+)(?:\[:\])?`")
_PARAMETER = re.compile(r"\{\{\s*\w+\(\s*(\w+)")


def _label(path: Path) -> str:
    return f"{path.parents[1].name}/{path.name}"


def _cases(path: Path) -> list[dict[str, object]]:
    cases = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert isinstance(cases, list)
    return cases


def _sent(cases: list[dict[str, object]]) -> set[str]:
    return {
        name
        for case in cases
        for name, _ in parse_qsl(str(case["parameters"]), strict_parsing=bool(case["parameters"]))
    }


def test_there_is_a_project_for_each_kind_of_event() -> None:
    found = {path.name for path in PROJECTS.iterdir() if path.is_dir()}
    assert found == {"user_behavior", "clickstream", "mobile", "messaging", "marketing"}
    for name in found:
        assert (PROJECTS / name / "README.md").is_file()


def test_every_data_source_that_takes_events_has_a_fixture() -> None:
    fed = {
        _label(path.with_suffix(".ndjson"))
        for path in PROJECTS.glob("*/datasources/*.datasource")
        if _JSONPATH.search(path.read_text(encoding="utf-8"))
    }
    assert fed == {_label(path) for path in FIXTURES}


@pytest.mark.parametrize("path", FIXTURES, ids=_label)
def test_every_fixture_row_has_exactly_the_keys_of_its_data_source(path: Path) -> None:
    datasource = path.parents[1] / "datasources" / f"{path.stem}.datasource"
    expected = Counter(_JSONPATH.findall(datasource.read_text(encoding="utf-8")))
    lines = path.read_text(encoding="utf-8").splitlines()
    assert 200 <= len(lines) <= 400
    for number, line in enumerate(lines, start=1):
        # Pairs, not a dict: a key written twice must not hide.
        pairs = json.loads(line, object_pairs_hook=list)
        assert Counter(key for key, _ in pairs) == expected, f"line {number}"


def test_every_endpoint_has_tests_and_every_test_file_an_endpoint() -> None:
    endpoints = {_label(path.with_suffix(".yaml")) for path in ENDPOINTS}
    assert {_label(path) for path in TESTS} == endpoints


@pytest.mark.parametrize("path", ENDPOINTS, ids=_label)
def test_every_parameter_of_an_endpoint_is_sent_by_some_test(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert re.search(r"^TYPE endpoint$", text, re.MULTILINE)
    taken = set(_PARAMETER.findall(text))
    sent = _sent(_cases(path.parents[1] / "tests" / f"{path.stem}.yaml"))
    assert taken <= sent
    # A misspelt parameter would be ignored; where an endpoint takes some, all must be known.
    assert not taken or sent <= taken


@pytest.mark.parametrize("path", TESTS, ids=_label)
def test_every_test_file_is_a_list_of_named_cases_with_ndjson_answers(path: Path) -> None:
    cases = _cases(path)
    assert cases
    assert max(Counter(str(case["name"]) for case in cases).values()) == 1
    columns = set()
    for case in cases:
        assert set(case) - {"expected_http_status"} == {"name", "parameters", "expected_result"}
        result = case["expected_result"]
        assert isinstance(result, str)
        if "expected_http_status" in case:
            continue
        assert result == "" or result.endswith("}\n")
        columns |= {tuple(json.loads(line)) for line in result.splitlines()}
    assert len(columns) == 1, "the answers of one endpoint differ in their columns"
