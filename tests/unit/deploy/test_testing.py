"""Test files as cases, and what a case comes to."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploy.testing import Case, Outcome, find_cases, run_case, summarise
from query.planned import Planned
from shared.clickhouse.contract import Result, Statement
from shared.errors import DatafileError, QueryError
from shared.model.resources import Node, Pipe
from shared.model.workspace import Workspace

PIPE = Pipe(name="top", nodes=(Node(name="top_0", sql="SELECT 1", kind="endpoint"),))
WORKSPACE = Workspace(pipes={"top": PIPE})


def project(tmp_path: Path, text: str, name: str = "top.yaml") -> Path:
    path = tmp_path / "tests" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return tmp_path


def only_case(tmp_path: Path, text: str) -> Case:
    (case,) = find_cases(project(tmp_path, text))
    return case


def test_a_case_is_named_after_its_file_and_keeps_its_text(tmp_path: Path) -> None:
    text = "- name: one\n  description: x\n  parameters: a=1&b=2\n  expected_result: |\n"
    text += '    {"n":1}\n    {"n":2}\n- name: 2\n  parameters: ""\n  expected_result: ""\n'
    first, second = find_cases(project(tmp_path, text))
    assert (first.pipe, first.name, first.parameters) == ("top", "one", "a=1&b=2")
    assert (first.expected, first.status) == ('{"n":1}\n{"n":2}\n', None)
    assert (second.name, second.parameters, second.expected) == ("2", "", "")


def test_cases_come_by_file_and_position(tmp_path: Path) -> None:
    case = "- {{name: {0}, parameters: '', expected_result: ''}}\n"
    project(tmp_path, case.format("b1") + case.format("b0"), "b.yml")
    project(tmp_path, case.format("c"), "deeper/c.yaml")
    project(tmp_path, case.format("a"), "a.yaml")
    assert [case.name for case in find_cases(tmp_path)] == ["a", "b1", "b0", "c"]


def test_a_project_without_tests_has_no_cases(tmp_path: Path) -> None:
    assert list(find_cases(tmp_path)) == []


@pytest.mark.parametrize(
    ("written", "sent"),
    [
        ("a=1&b=2", "a=1&b=2"),
        ("/v0/pipes/top.json?a=1&b=2", "a=1&b=2"),
        ("?a=1", "a=1"),
        ("a=what?&b=2", "a=what?&b=2"),
        ("/v0/pipes/top.json?a=what?", "a=what?"),
        ("", ""),
    ],
)
def test_what_stands_behind_the_question_mark_of_an_address_is_sent(
    tmp_path: Path, written: str, sent: str
) -> None:
    text = f"- name: one\n  parameters: {written!r}\n  expected_result: ''\n"
    assert only_case(tmp_path, text).parameters == sent


def test_nothing_behind_a_key_is_an_empty_text(tmp_path: Path) -> None:
    case = only_case(tmp_path, "- name: one\n  parameters:\n  expected_result:\n")
    assert (case.parameters, case.expected) == ("", "")


def test_an_expected_status_is_a_number(tmp_path: Path) -> None:
    text = "- {name: one, parameters: '', expected_result: no, expected_http_status: 400}"
    case = only_case(tmp_path, text.replace("no,", "'no',"))
    assert case.status == 400


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name: one", "not a list"),
        ("", "not a list"),
        ("- one", "case 1 is not a mapping"),
        ("- {name: a, parameters: ''}", "case 1 lacks expected_result"),
        ("- {parameters: ''}", "case 1 lacks name, expected_result"),
        ("- {name: a, parameters: {b: 1}, expected_result: ''}", "parameters is not a text"),
        ("- {name: a, parameters: '', expected_result: 0}", "expected_result is not a text"),
        (
            "- {name: a, parameters: '', expected_result: '', expected_http_status: bad}",
            "expected_http_status is not a number",
        ),
        ("- name: b\n- {name: a", r"top\.yaml:2:11: cannot be read: expected ',' or '}'"),
        ("a: \x00", "cannot be read"),
    ],
)
def test_a_bad_test_file_is_told_with_its_path(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(DatafileError, match=words) as caught:
        list(find_cases(project(tmp_path, text)))
    assert "top.yaml" in caught.value.message
    assert "\n" not in str(caught.value)


def test_a_test_file_that_is_no_text_is_told(tmp_path: Path) -> None:
    project(tmp_path, "")
    (tmp_path / "tests" / "top.yaml").write_bytes(b"- name: \xff\xfe\n")
    with pytest.raises(DatafileError, match="cannot be read"):
        list(find_cases(tmp_path))


# Running ----------------------------------------------------------------------------------------


class Answering:
    """Plans nothing and answers every statement with one text, or one error."""

    def __init__(self, answer: str | QueryError) -> None:
        self.answer = answer
        self.statements: list[Statement] = []
        self.arguments: list[object] = []

    async def plan(self, pipe: Pipe, node: Node, arguments: object) -> Planned:
        self.arguments.append(arguments)
        return Planned(sql=node.sql, bindings={}, tables=frozenset())

    async def fetch(self, statement: Statement) -> Result:
        self.statements.append(statement)
        if isinstance(self.answer, QueryError):
            raise self.answer
        return Result(body=self.answer.encode())


async def run(
    answer: str | QueryError,
    expected: str,
    *,
    status: int | None = None,
    pipe: str = "top",
    parameters: str = "",
) -> tuple[Outcome, Answering]:
    answering = Answering(answer)
    case = Case(
        path=Path("top.yaml"),
        pipe=pipe,
        name="one",
        parameters=parameters,
        expected=expected,
        status=status,
    )
    outcome = await run_case(
        answering,  # type: ignore[arg-type]  # only fetch is asked for
        answering,  # type: ignore[arg-type]  # only plan is asked for
        WORKSPACE,
        case,
    )
    return outcome, answering


@pytest.mark.parametrize("expected", ['{"n":1}\n', '{"n":1}', '{"n":1}\n\n'])
async def test_line_ends_at_the_end_do_not_count(expected: str) -> None:
    outcome, _ = await run('{"n":1}\n', expected)
    assert outcome.passed and outcome.difference == ""


async def test_a_difference_is_shown_line_by_line() -> None:
    outcome, _ = await run("a\nc\n", "a\nb\n")
    assert not outcome.passed
    lines = outcome.difference.splitlines()
    assert lines[:2] == ["--- expected", "+++ found"]
    assert {"-b", "+c", " a"} <= set(lines)


@pytest.mark.parametrize(
    ("expected", "found"), [("a\r\n", "a\n"), ("a\u2028b", "a\nb"), ("a\n", ""), ("", "a\n")]
)
async def test_no_difference_is_overlooked(expected: str, found: str) -> None:
    outcome, _ = await run(found, expected)
    assert not outcome.passed


async def test_an_endpoint_is_asked_read_only_for_ndjson_with_a_repeatable_order() -> None:
    _, answering = await run("", "", parameters="day=2025-01-01&empty=")
    (statement,) = answering.statements
    assert (statement.format, statement.readonly) == ("JSONEachRow", True)
    assert statement.settings["max_threads"] == 1
    (arguments,) = answering.arguments
    assert "day" in str(arguments) and "empty" in str(arguments)


async def test_an_error_nobody_expected_is_a_failure() -> None:
    outcome, _ = await run(QueryError("No such column."), "")
    assert outcome.difference == "expected an answer but got 400: No such column."


async def test_an_expected_error_is_compared_with_its_text() -> None:
    good, _ = await run(QueryError("No such column."), "No such column.", status=400)
    assert good.passed
    bad, _ = await run(QueryError("No such column."), "Something else.", status=400)
    assert "+No such column." in bad.difference


@pytest.mark.parametrize(("answer", "got"), [("a\n", 200), (QueryError("a"), 400)])
async def test_another_status_than_expected_is_a_failure(
    answer: str | QueryError, got: int
) -> None:
    outcome, _ = await run(answer, "a", status=403)
    assert outcome.difference.startswith(f"expected status 403 but got {got}")


async def test_a_test_file_of_no_pipe_fails_and_names_the_near_miss() -> None:
    outcome, _ = await run("", "", pipe="tops")
    assert "404" in outcome.difference and "'top'" in outcome.difference


async def test_outcomes_are_counted() -> None:
    good, _ = await run("a", "a")
    bad, _ = await run("a", "b")
    assert summarise([good, bad, good]) == "2 passed, 1 failed"
    assert summarise([]) == "0 passed, 0 failed"
