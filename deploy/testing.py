"""``pipehouse test``: the cases of ``tests/<pipe>.yaml`` against an engine with the fixtures in it.

A case compares exact text: the NDJSON body of the endpoint, or for an error its ``error`` text.
The engine is told to be deterministic, which serving does not need to be.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from urllib.parse import parse_qsl

import yaml
from msgspec import Struct

from query.parameters import merge_arguments
from query.plan import Planner
from shared.clickhouse.contract import ClickHouse, Limits, SettingValue, Statement
from shared.errors import AppError, DatafileError
from shared.model.workspace import Workspace

# Row order without a full ORDER BY depends on these.
DETERMINISTIC: Mapping[str, SettingValue] = {
    "max_threads": 1,
    "join_algorithm": "hash",
    "enable_packed_string_keys_in_aggregation": 0,
}


class Case(Struct, frozen=True, kw_only=True):
    """One request and what it must answer; ``status`` is None where success is expected."""

    path: Path
    pipe: str
    name: str
    parameters: str
    expected: str
    status: int | None = None


class Outcome(Struct, frozen=True, kw_only=True):
    """What a case came to; ``difference`` is empty when it passed."""

    case: Case
    difference: str

    @property
    def passed(self) -> bool:
        """Whether the answer was the expected one."""
        return not self.difference


def find_cases(folder: Path) -> Iterator[Case]:
    """Every case of a project, by file and position.

    Raises:
        DatafileError: A file is not YAML, or not a list of cases.
    """
    for path in sorted((folder / "tests").rglob("*.y*ml")):
        try:
            entries = yaml.safe_load(path.read_text("utf-8"))
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark
            place = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else f"{path}"
            raise DatafileError(f"{place}: cannot be read: {error.problem}.") from error
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            # The library tells in several lines, and calls the file "<unicode string>".
            text = str(error).partition("\n")[0]
            raise DatafileError(f"{path}: cannot be read: {text}.") from error
        if not isinstance(entries, list):
            raise DatafileError(f"{path}: is not a list of cases.")
        for number, entry in enumerate(entries, start=1):
            yield _case(path, number, entry)


def _case(path: Path, number: int, entry: object) -> Case:
    if not isinstance(entry, dict):
        raise DatafileError(f"{path}: case {number} is not a mapping.")
    missing = [k for k in ("name", "parameters", "expected_result") if k not in entry]
    if missing:
        raise DatafileError(f"{path}: case {number} lacks {', '.join(missing)}.")
    texts = {k: "" if entry[k] is None else entry[k] for k in ("parameters", "expected_result")}
    for key, value in texts.items():
        if not isinstance(value, str):
            raise DatafileError(f"{path}: case {number}: {key} is not a text.", hint="Quote it.")
    status = entry.get("expected_http_status")
    if status is not None and (not isinstance(status, int) or isinstance(status, bool)):
        raise DatafileError(f"{path}: case {number}: expected_http_status is not a number.")
    return Case(
        path=path,
        pipe=path.stem,
        name=str(entry["name"]),
        parameters=_query_string(texts["parameters"]),
        expected=texts["expected_result"],
        status=status,
    )


def _query_string(parameters: str) -> str:
    """Without the address that may stand before it; a value may hold a question mark too."""
    address, mark, query = parameters.partition("?")
    return query if mark and "=" not in address else parameters


async def run_case(
    clickhouse: ClickHouse, planner: Planner, workspace: Workspace, case: Case
) -> Outcome:
    """Ask the pipe and compare."""
    status, text = await _answer(clickhouse, planner, workspace, case)
    if status >= 400 and case.status is None:
        return Outcome(case=case, difference=f"expected an answer but got {status}: {text}")
    if case.status is not None and status != case.status:
        return Outcome(case=case, difference=f"expected status {case.status} but got {status}")
    return Outcome(case=case, difference=_difference(case.expected, text))


async def _answer(
    clickhouse: ClickHouse, planner: Planner, workspace: Workspace, case: Case
) -> tuple[int, str]:
    arguments = merge_arguments(parse_qsl(case.parameters, keep_blank_values=True), {}, {})
    try:
        pipe = workspace.pipe(case.pipe)
        planned = await planner.plan(pipe, pipe.answer, arguments)
        result = await clickhouse.fetch(
            Statement(
                sql=planned.sql,
                parameters=planned.bindings,
                format="JSONEachRow" if pipe.endpoint else "TSV",
                readonly=True,
                limits=Limits(max_time_s=60),
                settings=DETERMINISTIC,
            )
        )
    except AppError as error:
        return error.http_status, str(error)
    return 200, result.body.decode("utf-8", "replace")


def _difference(expected: str, found: str) -> str:
    # Not splitlines: it would hide differences between kinds of line ends inside a value.
    wanted, got = (text.rstrip("\n").split("\n") for text in (expected, found))
    return "\n".join(difflib.unified_diff(wanted, got, "expected", "found", lineterm=""))


def summarise(outcomes: Sequence[Outcome]) -> str:
    """One line that counts."""
    failed = sum(not o.passed for o in outcomes)
    return f"{len(outcomes) - failed} passed, {failed} failed"
