"""``GET|POST /v0/sql``: one free SELECT for administrators, under the allow-list."""

from __future__ import annotations

from typing import cast

import msgspec
from litestar import asgi
from litestar.handlers import ASGIRouteHandler
from litestar.types import HTTPScope, Receive, Scope, Send

from query.formats import DEFAULT_SQL_FORMAT, sql_media_type
from query.http.pipes import QueryServices, answer, read_small_body, run
from shared.auth.tokens import ADMIN
from shared.errors import BadRequestError
from shared.web.errors import require_method
from shared.web.guards import authenticate, query_pairs


def sql_route(services: QueryServices) -> ASGIRouteHandler:
    """The route of free SQL."""

    @asgi("/v0/sql", is_mount=False, copy_scope=False)
    async def sql(scope: Scope, receive: Receive, send: Send) -> None:
        require_method(scope, "GET", "POST")
        http = cast(HTTPScope, scope)
        authenticate(scope, services.tokens).require(ADMIN)
        text = await _read_sql(http, receive)
        planned, own_format = await services.serving.planner.plan_sql(text)
        media_type = sql_media_type(own_format or DEFAULT_SQL_FORMAT)
        if media_type is None:
            raise BadRequestError(f"FORMAT {own_format} is not offered.")
        # A FORMAT in the text stays where it is.
        result = await run(services, planned, None if own_format else DEFAULT_SQL_FORMAT)
        await answer(send, result, media_type)

    return sql


async def _read_sql(scope: HTTPScope, receive: Receive) -> str:
    """The SQL of a request: ``q`` in the query string, a form or a JSON object, or the body."""
    query = dict(query_pairs(scope["query_string"])).get("q")
    if query is None and scope["method"] == "POST":
        query = _from_body(await read_small_body(receive))
    if not query or not query.strip():
        raise BadRequestError("The request has no SQL.", hint="Send it as ?q=… or as the body.")
    return query.strip().rstrip(";").rstrip()


def _from_body(body: bytes) -> str:
    if body.lstrip()[:1] == b"{":
        try:
            return msgspec.json.decode(body, type=dict[str, str]).get("q", "")
        except msgspec.MsgspecError as error:
            raise BadRequestError(f"The body is not a JSON object with 'q': {error}.") from error
    if body[:2] == b"q=":
        return dict(query_pairs(body)).get("q", "")
    return body.decode("utf-8", "replace")
