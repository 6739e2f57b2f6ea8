from __future__ import annotations

import pytest

from shared.clickhouse.failures import (
    InsertFailureError,
    InsertFatalError,
    InsertRefusedError,
    InsertRetriableError,
    InsertViewError,
    insert_error,
    parse_failure,
    query_error,
)
from shared.errors import (
    AppError,
    ClickHouseUnavailableError,
    QueryError,
    QueryTimeoutError,
    TooLargeError,
)


def text(code: int, name: str, body: str = "Something") -> str:
    return f"Code: {code}. DB::Exception: {body}. ({name})"


@pytest.mark.parametrize(
    ("raw", "kind"),
    [
        (text(241, "MEMORY_LIMIT_EXCEEDED"), InsertRetriableError),
        (text(159, "TIMEOUT_EXCEEDED"), InsertRetriableError),
        (text(243, "NOT_ENOUGH_SPACE"), InsertRetriableError),
        (text(242, "TABLE_IS_READ_ONLY"), InsertRetriableError),
        (text(999, "KEEPER_EXCEPTION"), InsertRetriableError),
        (text(285, "TOO_FEW_LIVE_REPLICAS"), InsertRetriableError),
        (text(210, "NETWORK_ERROR"), InsertRetriableError),
        (text(252, "TOO_MANY_PARTS", "Too many parts (300 …)"), InsertRetriableError),
        (
            text(252, "TOO_MANY_PARTS", "Too many partitions for single INSERT block"),
            InsertFatalError,
        ),
        (text(27, "CANNOT_PARSE_INPUT_ASSERTION_FAILED"), InsertRefusedError),
        (text(469, "VIOLATED_CONSTRAINT"), InsertRefusedError),
        (text(306, "TOO_DEEP_RECURSION"), InsertRefusedError),
        (text(563, "CANNOT_READ_MAP_FROM_TEXT"), InsertRefusedError),
        (text(60, "UNKNOWN_TABLE"), InsertFatalError),
        (text(16, "NO_SUCH_COLUMN_IN_TABLE"), InsertFatalError),
        (text(27, "X_Y_Z", "Cannot parse: while pushing to view db.mv (uuid)"), InsertViewError),
        (text(241, "X_Y_Z", "Memory: while pushing to view db.mv"), InsertViewError),
        (text(60, "X_Y_Z", "No table: while pushing to view db.mv: more"), InsertViewError),
        (text(987654, "NEVER_SEEN"), InsertRetriableError),
        ("the connection was lost", InsertRetriableError),
        ("", InsertRetriableError),
    ],
)
def test_an_insert_failure_is_told_by_number_text_and_place(
    raw: str, kind: type[InsertFailureError]
) -> None:
    assert type(insert_error(raw)) is kind


@pytest.mark.parametrize(
    ("kind", "stored", "retriable"),
    [
        (InsertRetriableError, "unknown", True),
        (InsertRefusedError, "no", False),
        (InsertViewError, "unknown", True),
        (InsertFatalError, "no", False),
    ],
)
def test_the_policy_is_data_on_the_class(
    kind: type[InsertFailureError], stored: str, retriable: bool
) -> None:
    assert (kind.stored, kind.retriable) == (stored, retriable)


def test_a_view_error_names_the_view_first() -> None:
    error = insert_error(
        text(6, "CANNOT_PARSE_TEXT", "Cannot parse 'x': while pushing to view `a b`.mv")
    )
    assert isinstance(error, InsertViewError)
    assert error.clickhouse_code == 6


@pytest.mark.parametrize(
    ("raw", "kind"),
    [
        (text(62, "SYNTAX_ERROR"), QueryError),
        (text(159, "TIMEOUT_EXCEEDED"), QueryTimeoutError),
        (text(160, "TOO_SLOW"), QueryTimeoutError),
        (text(396, "TOO_MANY_ROWS_OR_BYTES"), TooLargeError),
        (text(158, "TOO_MANY_ROWS"), TooLargeError),
        (text(241, "MEMORY_LIMIT_EXCEEDED"), TooLargeError),
        (
            text(516, "AUTHENTICATION_FAILED", "me: Authentication failed"),
            ClickHouseUnavailableError,
        ),
        (
            text(241, "MEMORY_LIMIT_EXCEEDED", "(total) memory limit exceeded: would use 8 GiB"),
            ClickHouseUnavailableError,
        ),
        (text(202, "TOO_MANY_SIMULTANEOUS_QUERIES"), ClickHouseUnavailableError),
        (text(210, "NETWORK_ERROR"), ClickHouseUnavailableError),
        ("no code at all", QueryError),
    ],
)
def test_a_query_failure_becomes_the_error_a_caller_understands(
    raw: str, kind: type[AppError]
) -> None:
    assert type(query_error(raw)) is kind


@pytest.mark.parametrize(
    ("raw", "message", "name"),
    [
        (
            "Code: 164. DB::Exception: Code: 164. DB::Exception: Cannot modify 'a' setting in"
            " readonly mode. (READONLY) (version 26.9.2.1). (READONLY)",
            "Cannot modify 'a' setting in readonly mode.",
            "READONLY",
        ),
        (
            "Code: 60. DB::Exception: Table a.b does not exist. (UNKNOWN_TABLE)"
            " (version 25.8.3.66 (official build))",
            "Table a.b does not exist.",
            "UNKNOWN_TABLE",
        ),
        (
            "Code: 60. DB::Exception: Table a.b does not exist. Stack trace:\n\n0. ./x.cpp:1\n1. y",
            "Table a.b does not exist.",
            "",
        ),
        (
            "Code: 469. DB::Exception: Constraint `c` for table w.t"
            " (9ca58ef4-408f-4bf8-a718-8e7ca8ec5daa) is violated at row 1. Expression: (a < 100)."
            " Column values: a = 111. (VIOLATED_CONSTRAINT)",
            "Constraint `c` for table w.t is violated at row 1. Expression: (a < 100). Column"
            " values: a = 111.",
            "VIOLATED_CONSTRAINT",
        ),
        (
            "Code: 33. DB::Exception: Unexpected end of stream: (at row 1)\n: (in file/uri"
            " /proc/self/fd/30): While executing File. (CANNOT_READ_ALL_DATA)",
            "Unexpected end of stream: (at row 1).",
            "CANNOT_READ_ALL_DATA",
        ),
        (
            "Code: 47. DB::Exception: Unknown identifier `a`. In scope SELECT a. Maybe you meant:"
            " ['b']. (UNKNOWN_IDENTIFIER)",
            "Unknown identifier `a`. Maybe you meant: ['b'].",
            "UNKNOWN_IDENTIFIER",
        ),
        ("something else\nover two lines", "something else over two lines.", ""),
    ],
)
def test_noise_is_taken_from_messages(raw: str, message: str, name: str) -> None:
    failure = parse_failure(raw)
    assert (failure.message, failure.name) == (message, name)


def test_a_message_is_bounded() -> None:
    assert len(parse_failure("x" * 100_000).message) < 700


@pytest.mark.parametrize(
    ("position", "place"),
    [
        ("failed at position 20 (x) (line 2, col 13): x", {"line": 2, "column": 13}),
        ("failed at position 7 (1): 1", {"line": 1, "column": 7}),
    ],
)
def test_the_place_of_a_syntax_error_is_kept(position: str, place: dict[str, int]) -> None:
    error = query_error(text(62, "SYNTAX_ERROR", f"Syntax error: {position}"))
    assert error.errors == (place,)
