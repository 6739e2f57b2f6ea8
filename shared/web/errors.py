"""Any exception as the one JSON envelope, and the page that explains every code.

    {"error": "<text>", "code": "<stable code>", "errors": [{…}]?,
     "documentation": "/docs/errors#<code>"}

This is the HTTP edge: the one place besides ``shared/supervise.py`` where every exception ends.
"""

from __future__ import annotations

import html
import inspect
import math
from collections.abc import Iterator, Mapping
from typing import Protocol, runtime_checkable

import msgspec
import structlog
from litestar import Request, Response
from litestar.datastructures import State
from litestar.exceptions import HTTPException, ValidationException
from litestar.types import Scope
from msgspec import Struct

from shared.errors import (
    AppError,
    BadRequestError,
    NotFoundError,
    QueryError,
    TooLargeError,
    UnavailableError,
    UserError,
)
from shared.web.request_id import request_id

JSON_MEDIA_TYPE = "application/json"

ErrorAnswer = tuple[int, tuple[tuple[bytes, bytes], ...], bytes]
"""Status, headers and body."""

_log = structlog.get_logger(__name__)


class MethodNotAllowedError(UserError):
    """The path exists, but not with this HTTP method.

    Args:
        message: Which method was refused.
        hint: Which one to use.
        allowed: What ``Allow`` says.
    """

    code = "method_not_allowed"
    http_status = 405

    def __init__(self, message: str, *, hint: str | None = None, allowed: str = "") -> None:
        super().__init__(message, hint=hint)
        self.allowed = allowed


class InternalError(AppError):
    """A mistake of ours; the log has the traceback under the request id of the answer."""

    code = "internal_error"


@runtime_checkable
class BringsBody(Protocol):
    """An error whose author chose the body of the answer, for instance inside a template."""

    body: Mapping[str, object]


class ErrorCode(Struct, frozen=True):
    """One row of the error table."""

    code: str
    status: int
    meaning: str


def error_codes() -> list[ErrorCode]:
    """Every stable code of the loaded exception tree with status and meaning, sorted by code."""
    found: dict[str, ErrorCode] = {}
    for kind in _tree(AppError):
        # The two roots only group others, which spell out what happened.
        if kind not in (AppError, UserError):
            meaning = inspect.getdoc(kind) or ""
            first_line = meaning.partition("\n")[0].replace("``", "")
            found.setdefault(kind.code, ErrorCode(kind.code, kind.http_status, first_line))
    return [found[code] for code in sorted(found)]


def envelope(error: AppError) -> dict[str, object]:
    """The JSON body that says what went wrong."""
    if isinstance(error, BringsBody) and not _is_text_only(error.body):
        return dict(error.body)
    body: dict[str, object] = {"error": str(error), "code": error.code}
    if error.errors:
        body["errors"] = list(error.errors)
    body["documentation"] = f"/docs/errors#{error.code}"
    return body


def _is_text_only(body: Mapping[str, object]) -> bool:
    """Whether an author gave a text and nothing more, so that a code can stand beside it."""
    return body.keys() == {"error"} and isinstance(body["error"], str)


def error_headers(error: AppError) -> dict[str, str]:
    """Headers that go with the envelope: when to try again, and ClickHouse's own number."""
    headers: dict[str, str] = {}
    if isinstance(error, MethodNotAllowedError) and error.allowed:
        headers["Allow"] = error.allowed
    if isinstance(error, UnavailableError):
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s)))
    if isinstance(error, QueryError) and error.clickhouse_code:
        headers["X-DB-Exception-Code"] = str(error.clickhouse_code)
    return headers


def error_answer(scope: Scope, error: Exception) -> ErrorAnswer:
    """Status, headers and body for any exception; mistakes of ours are logged here."""
    known, headers = _translate(error)
    if known.http_status >= 500 and not known.retriable:
        _log.error(
            "request failed",
            request_id=request_id(scope),
            method=scope.get("method", ""),
            path=scope["path"],
            exc_info=error,
        )
    all_headers = {"Content-Type": JSON_MEDIA_TYPE, **headers, **error_headers(known)}
    return (
        known.http_status,
        tuple((n.lower().encode("latin-1"), v.encode("latin-1")) for n, v in all_headers.items()),
        msgspec.json.encode(envelope(known), enc_hook=str),
    )


def answer_error(request: Request[object, object, State], error: Exception) -> Response[bytes]:
    """The handler for every exception that leaves a route of the framework."""
    status, headers, body = error_answer(request.scope, error)
    named = {name.decode("latin-1"): value.decode("latin-1") for name, value in headers}
    return Response(
        body,
        status_code=status,
        media_type=named.pop("content-type"),
        headers=named,
    )


def require_method(scope: Scope, *allowed: str) -> None:
    """Refuse other methods on a route that is plain ASGI and so gets them all.

    Raises:
        MethodNotAllowedError: The request has another method, or is no HTTP request.
    """
    method = str(scope.get("method", "WebSocket"))
    if method not in allowed:
        raise MethodNotAllowedError(
            f"{method} is not allowed here.",
            hint=f"Use {' or '.join(allowed)}.",
            allowed=", ".join(allowed),
        )


def error_page() -> str:
    """The HTML page behind ``documentation``, with an anchor for each code."""
    rows = "".join(
        f'<tr id="{html.escape(row.code)}"><td><code>{html.escape(row.code)}</code></td>'
        f"<td>{row.status}</td><td>{html.escape(row.meaning)}</td></tr>\n"
        for row in error_codes()
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>Error codes</title>'
        "<style>body{font-family:sans-serif;margin:2em}td,th{padding:.3em 1em;text-align:left}"
        ":target{background:#ffd}</style></head><body><h1>Error codes</h1>\n"
        "<table><tr><th>code</th><th>status</th><th>meaning</th></tr>\n"
        f"{rows}</table></body></html>\n"
    )


def _tree(root: type[AppError]) -> Iterator[type[AppError]]:
    yield root
    for child in root.__subclasses__():
        yield from _tree(child)


def _translate(error: Exception) -> tuple[AppError, Mapping[str, str]]:
    if isinstance(error, AppError):
        return error, {}
    if isinstance(error, HTTPException):
        return _from_framework(error), error.headers or {}
    return InternalError("Something went wrong on our side; the log has the request id."), {}


def _from_framework(error: HTTPException) -> AppError:
    """What the web framework refuses before a route of ours is called."""
    if error.status_code == 404:
        return NotFoundError("Nothing is served at this path.")
    if error.status_code == 405:
        return MethodNotAllowedError("The method is not allowed here.")
    if error.status_code == 413:
        return TooLargeError("The request body is too large.")
    if error.status_code < 500:
        return BadRequestError(_plain(error), errors=_details(error))
    return InternalError("Something went wrong on our side; the log has the request id.")


def _plain(error: HTTPException) -> str:
    # The framework's text for a failed validation names the URL with its query string, where the
    # token may stand.
    if isinstance(error, ValidationException):
        return "The request is not valid."
    return error.detail


def _details(error: HTTPException) -> tuple[Mapping[str, object], ...]:
    extra = error.extra if isinstance(error.extra, list) else []
    return tuple(
        {"parameter": str(item.get("key", "")), "error": str(item.get("message", ""))}
        for item in extra
        if isinstance(item, Mapping)
    )
