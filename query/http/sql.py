"""``GET|POST /v0/sql``: one free SELECT over what the token may read.

The SQL is ``q`` of the query string, a form or a JSON object, or the whole body. Every other
parameter reaches the templates: the SQL's own where it starts with ``%``, and those of the pipes
it reads. ``pipeline`` names the pipe that ``_`` stands for.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import cast

import msgspec
from litestar import asgi
from litestar.handlers import ASGIRouteHandler
from litestar.types import HTTPScope, Receive, Scope, Send
from msgspec import Struct, field

from query.client import ClientLeftError
from query.formats import DEFAULT_SQL_FORMAT, output_settings, sql_format
from query.http.body import (
    form_parameters,
    json_parameters,
    read_small_body,
    refuse_unreadable,
)
from query.http.pipes import METHODS, QueryServices, accepted_encoding, send_methods, tightened
from query.parameters import merge_arguments
from query.planned import Planned, Request
from query.respond import Order, Responder
from query.serving import Serving
from query.template.sql_context import START, scan
from shared.auth.tokens import PIPES_READ, Grant
from shared.errors import BadRequestError
from shared.web.errors import require_method
from shared.web.guards import authenticate, query_pairs

_SETTING = r"\w+\s*=\s*(?:[\w.]+|'\w*')"
# ClickHouse takes SETTINGS on either side of FORMAT.
_FORMAT = re.compile(
    rf"\sFORMAT\s+([A-Za-z]\w*)(\s+SETTINGS\s+{_SETTING}(?:\s*,\s*{_SETTING})*)?\s*\Z",
    re.IGNORECASE,
)
_DESCRIBE = re.compile(r"DESC(?:RIBE)?\s+(?:TABLE\s+)?(?=\S)", re.IGNORECASE)
_QUERY = re.compile(r"\(|SELECT\b|WITH\b|FROM\b", re.IGNORECASE)
# Longer texts are long lists of values; reading one for comments would hold up other requests.
_MAX_SCANNED = 64 << 10
_PACKED = frozenset({"Parquet", "Native"})


class FreeSql(Struct, frozen=True, kw_only=True):
    """What a request asks for: one SELECT, whether only its columns are asked for, the format."""

    select: str
    describes: bool = False
    format: str = DEFAULT_SQL_FORMAT


class SqlRequest(Struct, frozen=True, kw_only=True):
    """The SQL of a request and the parameters beside it, by name."""

    sql: str
    pairs: tuple[tuple[str, str], ...] = ()
    body: Mapping[str, object] = field(default_factory=dict)

    @property
    def sent(self) -> Mapping[str, object]:
        """Every parameter; the body wins over the query string."""
        return {**dict(self.pairs), **self.body}


def sql_route(services: QueryServices) -> ASGIRouteHandler:
    """The route of free SQL."""
    responder = Responder(services.clickhouse)

    @asgi("/v0/sql", is_mount=False, copy_scope=False)
    async def sql(scope: Scope, receive: Receive, send: Send) -> None:
        if scope.get("method") == "OPTIONS":
            await send_methods(send)
            return
        require_method(scope, *METHODS)
        http = cast(HTTPScope, scope)
        grant = authenticate(scope, services.tokens)
        request = await _read_request(http, receive)
        free = read_free_sql(request.sql)
        format_, media_type = sql_format(free.format)
        planned = await plan_free_sql(services.serving, grant, request, free)
        order = Order(
            statement=planned.statement(
                format_,
                limits=tightened(services.limits, grant.limits),
                settings=output_settings(request.sent),
            ),
            media_type=media_type,
            encoding=accepted_encoding(http),
            is_packable=format_ not in _PACKED,
            is_head=http["method"] == "HEAD",
        )
        try:
            await responder.respond(order, receive, send)
        except ClientLeftError:
            return

    return sql


def read_free_sql(text: str) -> FreeSql:
    """Take the FORMAT clause and DESCRIBE off a text; what is left is checked as a SELECT.

    Raises:
        BadRequestError: There is nothing.
    """
    sql = _without_end(text)
    found = _FORMAT.search(sql)
    if found and _in_comment(sql, found.start() + 1):
        found = None
    output_format = DEFAULT_SQL_FORMAT
    if found:
        # On a line of their own: the text may end in a comment.
        settings = f"\n{found[2].strip()}" if found[2] else ""
        sql, output_format = sql[: found.start()].rstrip() + settings, found[1]
    describe = _DESCRIBE.match(sql)
    if describe:
        sql = sql[describe.end() :]
        if _QUERY.match(sql) is None:
            sql = f"SELECT * FROM {sql}"
    if not sql:
        raise BadRequestError("The request has no SQL.", hint="Send it as ?q=… or as the body.")
    return FreeSql(select=sql, describes=describe is not None, format=output_format)


def _without_end(text: str) -> str:
    """The text without what says nothing behind a FORMAT clause: semicolons, a comment."""
    sql = text.strip().rstrip(";").rstrip()
    start = sql.find("--", sql.rfind("\n") + 1)
    if start < 0 or len(sql) > _MAX_SCANNED:
        return sql
    before = sql[:start].rstrip().rstrip(";").rstrip()
    is_comment = _FORMAT.search(before) and not scan(START, before).mode
    return before if is_comment else sql


def _in_comment(sql: str, at: int) -> bool:
    has_comments = any(mark in sql for mark in ("--", "/*", "#"))
    return has_comments and len(sql) <= _MAX_SCANNED and bool(scan(START, sql[:at]).mode)


async def plan_free_sql(
    serving: Serving, grant: Grant, request: SqlRequest, free: FreeSql
) -> Planned:
    """The statement for a request.

    Raises:
        UserError: The SQL, a name or a parameter is not good, or the token may not read it.
    """
    arguments = merge_arguments(request.pairs, request.body, {})
    pipeline = request.sent.get("pipeline")
    result_of = None
    if pipeline:
        name = str(pipeline)
        grant.require(PIPES_READ, name)
        pipe = serving.workspace.pipe(name)
        result_of = (pipe, pipe.answer)
    planned = await serving.planner.plan_sql(
        free.select, Request(arguments=arguments, grant=grant), result_of=result_of
    )
    if not free.describes:
        return planned
    return msgspec.structs.replace(planned, sql=f"DESCRIBE TABLE (\n{planned.sql}\n)")


async def _read_request(scope: HTTPScope, receive: Receive) -> SqlRequest:
    pairs = tuple(query_pairs(scope["query_string"]))
    query = dict(pairs).get("q", "")
    refuse_unreadable(scope)
    sent = await read_small_body(receive) if scope["method"] == "POST" else b""
    is_form = any(
        name == b"content-type" and value.startswith(b"application/x-www-form-urlencoded")
        for name, value in scope["headers"]
    )
    body = body_parameters(sent, sql_is_known=bool(query), is_form=is_form)
    return SqlRequest(sql=str(body.get("q") or query), pairs=pairs, body=body)


def body_parameters(
    body: bytes, *, sql_is_known: bool, is_form: bool = False
) -> Mapping[str, object]:
    """What a body says: a JSON object or a form, else SQL as it stands, under ``q``.

    Clients that send plain SQL often call it a form, so a form is one only where it has ``q``, or
    where the SQL is known already.

    Raises:
        BadRequestError: It begins as a JSON object and is none, or is not text.
    """
    start = body.lstrip()[:1]
    if not start:
        return {}
    if start == b"{":
        return json_parameters(body)
    if body.startswith(b"q=") or (is_form and (sql_is_known or b"&q=" in body)):
        return form_parameters(body)
    try:
        return {"q": body.decode()}
    except UnicodeDecodeError as error:
        raise BadRequestError("The SQL is not UTF-8 text.") from error
