"""What a ClickHouse error text means: for an insert and for a query.

ClickHouse reports ``Code: N. DB::Exception: … (NAME)``. The number alone does not decide: 252 is
"too many parts" (wait) and "too many partitions in one block" (never works), and any number means
something else when it was raised while pushing to a view. The tables below are the whole policy.
"""

from __future__ import annotations

import re
from typing import ClassVar, Literal

from msgspec import Struct

from shared.clickhouse.insert import LATE
from shared.errors import (
    AppError,
    ClickHouseUnavailableError,
    InsertError,
    QueryError,
    QueryTimeoutError,
    TooLargeError,
)

Stored = Literal["no", "unknown"]


class InsertFailureError(InsertError):
    """Root of what an engine raises from ``insert``.

    ``stored`` says whether rows may be in the table: ``no`` only where the engine answered and
    refused the block before anything of it was written.

    Args:
        message: ClickHouse's own text, without version and stack.
        clickhouse_code: Its error number, 0 where there is none.
        clickhouse_name: Its error name.
    """

    stored: ClassVar[Stored] = "unknown"

    def __init__(
        self,
        message: str,
        *,
        clickhouse_code: int = 0,
        clickhouse_name: str = "",
        hint: str | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.clickhouse_code = clickhouse_code
        self.clickhouse_name = clickhouse_name


class InsertRetriableError(InsertFailureError):
    """The same block under the same token may work later; what is stored is not known."""

    code = "insert_retriable"
    http_status = 503
    retriable = True


class InsertRefusedError(InsertFailureError):
    """The rows were refused and nothing is stored: guilty rows may be searched for."""

    code = "insert_refused"
    stored = "no"


class InsertViewError(InsertFailureError):
    """A materialized view failed; the table and other views may hold the block already.

    Never split the block: hold the partition and repeat it under the same token until the view
    is mended.
    """

    code = "insert_view_failed"
    retriable = True


class InsertFatalError(InsertFailureError):
    """The table does not fit what we send; repeating it is useless until somebody mends that."""

    code = "insert_fatal"
    stored = "no"


class Failure(Struct, frozen=True, kw_only=True):
    """An error text taken apart; ``message`` is short and fit for users."""

    code: int
    name: str
    message: str
    view: str | None = None


# Transient: resources, keeper, replicas, network, a cancelled or timed-out statement.
_RETRIABLE_CODES = frozenset(
    {
        3,  # UNEXPECTED_END_OF_FILE
        159,  # TIMEOUT_EXCEEDED
        160,  # TOO_SLOW
        164,  # READONLY, while a server is put into read-only mode
        173,  # CANNOT_ALLOCATE_MEMORY
        198,  # DNS_ERROR
        202,  # TOO_MANY_SIMULTANEOUS_QUERIES
        203,  # NO_FREE_CONNECTION
        209,  # SOCKET_TIMEOUT
        210,  # NETWORK_ERROR
        225,  # NO_ZOOKEEPER
        236,  # ABORTED
        241,  # MEMORY_LIMIT_EXCEEDED
        242,  # TABLE_IS_READ_ONLY
        243,  # NOT_ENOUGH_SPACE
        244,  # UNEXPECTED_ZOOKEEPER_ERROR
        279,  # ALL_CONNECTION_TRIES_FAILED
        285,  # TOO_FEW_LIVE_REPLICAS
        286,  # UNSATISFIED_QUORUM_FOR_PREVIOUS_WRITE
        287,  # UNKNOWN_FORMAT_VERSION of a part being fetched
        289,  # REPLICA_IS_NOT_IN_QUORUM
        319,  # UNKNOWN_STATUS_OF_INSERT
        394,  # QUERY_WAS_CANCELLED
        415,  # ALL_REPLICAS_LOST
        425,  # SYSTEM_ERROR
        439,  # CANNOT_SCHEDULE_TASK
        473,  # DEADLOCK_AVOIDED
        499,  # S3_ERROR
        700,  # USER_SESSION_LIMIT_EXCEEDED
        722,  # ASYNC_LOAD_WAIT_FAILED
        734,  # CANNOT_WRITE_AFTER_BUFFER_CANCELED
        735,  # QUERY_WAS_CANCELLED_BY_CLIENT
        745,  # SERVER_OVERLOADED
        999,  # KEEPER_EXCEPTION
    }
)

# The table, a column or a type is not what we were told; no row is to blame.
_FATAL_CODES = frozenset(
    {
        8,  # THERE_IS_NO_COLUMN
        10,  # NOT_FOUND_COLUMN_IN_BLOCK
        16,  # NO_SUCH_COLUMN_IN_TABLE
        20,  # NUMBER_OF_COLUMNS_DOESNT_MATCH
        36,  # BAD_ARGUMENTS
        42,  # NUMBER_OF_ARGUMENTS_DOESNT_MATCH
        43,  # ILLEGAL_TYPE_OF_ARGUMENT
        44,  # ILLEGAL_COLUMN
        46,  # UNKNOWN_FUNCTION
        47,  # UNKNOWN_IDENTIFIER
        48,  # NOT_IMPLEMENTED
        50,  # UNKNOWN_TYPE
        60,  # UNKNOWN_TABLE
        62,  # SYNTAX_ERROR
        70,  # CANNOT_CONVERT_TYPE
        80,  # INCORRECT_QUERY
        81,  # UNKNOWN_DATABASE
        115,  # UNKNOWN_SETTING
        192,  # UNKNOWN_USER
        193,  # WRONG_PASSWORD
        218,  # TABLE_IS_DROPPED
        291,  # DATABASE_ACCESS_DENIED
        497,  # ACCESS_DENIED
        516,  # AUTHENTICATION_FAILED
    }
)

# What the values of a row can cause; only these may lead to a search for guilty rows.
_REFUSED_CODES = frozenset(
    {
        6,  # CANNOT_PARSE_TEXT
        11,  # POSITION_OUT_OF_BOUND
        12,  # PARAMETER_OUT_OF_BOUND
        25,  # CANNOT_PARSE_ESCAPE_SEQUENCE
        26,  # CANNOT_PARSE_QUOTED_STRING
        27,  # CANNOT_PARSE_INPUT_ASSERTION_FAILED
        33,  # CANNOT_READ_ALL_DATA
        38,  # CANNOT_PARSE_DATE
        41,  # CANNOT_PARSE_DATETIME
        53,  # TYPE_MISMATCH
        69,  # ARGUMENT_OUT_OF_BOUND
        72,  # CANNOT_PARSE_NUMBER
        117,  # INCORRECT_DATA
        120,  # CANNOT_INSERT_VALUE_OF_DIFFERENT_SIZE_INTO_TUPLE
        130,  # CANNOT_READ_ARRAY_FROM_TEXT
        131,  # TOO_LARGE_STRING_SIZE
        128,  # TOO_LARGE_ARRAY_SIZE
        135,  # ZERO_ARRAY_OR_TUPLE_INDEX
        153,  # ILLEGAL_DIVISION
        190,  # SIZES_OF_ARRAYS_DONT_MATCH
        306,  # TOO_DEEP_RECURSION, of a value
        321,  # VALUE_IS_OUT_OF_RANGE_OF_DATA_TYPE
        349,  # CANNOT_INSERT_NULL_IN_ORDINARY_COLUMN
        366,  # SIZES_OF_NESTED_COLUMNS_ARE_INCONSISTENT
        376,  # CANNOT_PARSE_UUID
        395,  # FUNCTION_THROW_IF_VALUE_IS_NON_ZERO
        407,  # DECIMAL_OVERFLOW
        441,  # CANNOT_PARSE_DOMAIN_VALUE_FROM_STRING
        467,  # CANNOT_PARSE_BOOL
        469,  # VIOLATED_CONSTRAINT
        490,  # CANNOT_FORMAT_DATETIME
        563,  # CANNOT_READ_MAP_FROM_TEXT
        632,  # UNEXPECTED_DATA_AFTER_PARSED_VALUE
        636,  # CANNOT_EXTRACT_TABLE_STRUCTURE
        645,  # NUMBER_OF_DIMENSIONS_MISMATCHED
        675,  # CANNOT_PARSE_IPV4
        676,  # CANNOT_PARSE_IPV6
        691,  # UNKNOWN_ELEMENT_OF_ENUM
        760,  # UNICODE_ERROR
    }
)

_QUERY_TIMEOUT_CODES = frozenset({159, 160})
_QUERY_TOO_LARGE_CODES = frozenset({158, 241, 307, 396})
_QUERY_UNAVAILABLE_CODES = frozenset({202, 209, 210, 225, 236, 279, 425, 439, 722, 745, 999})

_LOGIN_CODES = frozenset({192, 193, 516})
# With one code: the query uses too much, or all that run on the server together do.
_MEMORY_LIMIT, _OF_THE_SERVER = 241, "(total) memory limit exceeded"

_HEAD = re.compile(r"Code: (\d+)\.\s*(?:DB::\w*Exception: )?")
_NAME = re.compile(r"\(([A-Z][A-Z0-9_]{2,})\)\s*\.?\s*\Z")
_VERSION = re.compile(r"\s*\(version [^()]*(?:\([^()]*\))?[^()]*\)")
_VIEW = re.compile(r"while pushing to view (\S+?)(?=[\s.:,(]*(?:[\s,:(]|\Z))", re.IGNORECASE)
_STACK = re.compile(r"\.?\s*Stack trace:.*", re.DOTALL)
_NOISE = re.compile(
    r"\s*(?:: )?(?:In scope .*?(?:\.(?= Maybe you meant)|\Z)|while executing .*|While executing .*|"
    r"\(?in file/uri /(?:proc|dev)/\S+|"
    r"\. ?Expected one of: .*|Large number of partitions is .*)",
    re.DOTALL,
)
# What a statement is found by in the engine's lists.
_MARKER = re.compile(r"\s*(?:-- |SETTINGS log_comment = '(?:[^']* )?)ph:\d+'?")
_UUID = re.compile(r" \([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\)")
_POSITION = re.compile(r"failed at position (\d+)[^\n]*?\(line (\d+), col (\d+)\)")
_POSITION_ON_FIRST_LINE = re.compile(r"failed at position (\d+)")
_MAX_MESSAGE = 600


def parse_failure(text: str) -> Failure:
    """Take an error text apart; a text without a code gives code 0 and itself as message."""
    head = _HEAD.search(text)
    if head is None:
        return Failure(code=0, name="", message=_shorten(text))
    body = text[head.end() :]
    # A nested exception repeats the head; the innermost number is the cause.
    while (nested := _HEAD.match(body)) is not None:
        head, body = nested, body[nested.end() :]
    body = _VERSION.sub("", _STACK.sub("", body)).strip()
    name = ""
    while (match := _NAME.search(body)) is not None:
        name = name or match.group(1)
        body = body[: match.start()].rstrip(" .\n")
    view = _VIEW.search(body)
    return Failure(
        code=int(head.group(1)),
        name=name,
        message=_shorten(_NOISE.sub("", _MARKER.sub("", _UUID.sub("", body)))),
        view=view.group(1) if view else None,
    )


def _shorten(text: str) -> str:
    line = " ".join(text.split()).rstrip(" .:,")
    if len(line) > _MAX_MESSAGE:
        line = line[: _MAX_MESSAGE - 1] + "…"
    return line + "."


def insert_error(text: str) -> InsertFailureError:
    """The error that ``insert`` raises for an engine's text.

    An error that is in no table counts as retriable: repeating a block under its token is safe,
    splitting it is not.
    """
    failure = parse_failure(text)
    kind: type[InsertFailureError] = InsertRetriableError
    message = failure.message
    if failure.view is not None:
        kind = InsertViewError
        message = f"View {failure.view}: {message}"
    elif failure.code == 252:
        kind = InsertRetriableError if "Too many parts" in text else InsertFatalError
    elif failure.code in _RETRIABLE_CODES or LATE in text:
        kind = InsertRetriableError
    elif failure.code in _FATAL_CODES:
        kind = InsertFatalError
    elif failure.code in _REFUSED_CODES:
        kind = InsertRefusedError
    return kind(message, clickhouse_code=failure.code, clickhouse_name=failure.name)


_TOO_LONG = "Max query size exceeded"


def query_error(text: str) -> AppError:
    """The error that ``execute``, ``fetch`` and ``stream`` raise for an engine's text."""
    failure = parse_failure(text)
    if failure.code in _QUERY_TIMEOUT_CODES:
        return QueryTimeoutError(
            failure.message, clickhouse_code=failure.code, clickhouse_name=failure.name
        )
    is_overloaded = failure.code == _MEMORY_LIMIT and _OF_THE_SERVER in failure.message
    if failure.code in _QUERY_TOO_LARGE_CODES and not is_overloaded:
        return TooLargeError(failure.message)
    if failure.message.startswith(_TOO_LONG):
        return TooLargeError(
            "The SQL is longer than ClickHouse takes, 256 KB by default; nodes and pipes that it"
            " reads count.",
            hint="Send long lists as the value of a parameter.",
        )
    if failure.code in _LOGIN_CODES:
        # Callers of endpoints see this text, and cannot help it.
        return ClickHouseUnavailableError(
            "ClickHouse refuses the user of this process: unknown user or wrong password."
        )
    if failure.code in _QUERY_UNAVAILABLE_CODES or is_overloaded:
        return ClickHouseUnavailableError(failure.message)
    return QueryError(
        failure.message,
        clickhouse_code=failure.code,
        clickhouse_name=failure.name,
        errors=_position(text),
    )


def _position(text: str) -> tuple[dict[str, object], ...]:
    match = _POSITION.search(text)
    if match is not None:
        return ({"line": int(match.group(2)), "column": int(match.group(3))},)
    match = _POSITION_ON_FIRST_LINE.search(text)
    return ({"line": 1, "column": int(match.group(1))},) if match else ()
