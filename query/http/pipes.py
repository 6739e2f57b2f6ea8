"""``GET|POST /v0/pipes/{name}.{format}``: parameters in, ClickHouse's own bytes out.

1. The token, and the scope for the pipe.
2. The pipe and its endpoint node, from the live workspace.
3. Parameters from query string and body; the token's own win.
4. The plan: rendered SQL and bindings, nodes and pipes as CTEs.
5. One read-only query under limits; its formatted bytes are the body of the answer.

The handler is plain ASGI below the router: an endpoint's own query may take less than a
millisecond.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TypeVar, cast

import msgspec
from litestar import asgi
from litestar.handlers import ASGIRouteHandler
from litestar.types import HTTPScope, Receive, Scope, Send
from msgspec import Struct

from query.formats import OutputFormat, output_settings, split_name
from query.http.body import read_arguments
from query.http.body import read_small_body as read_small_body
from query.http.listing import pipe_details, pipe_list
from query.over import over_result
from query.parameters import merge_arguments
from query.planned import Planned
from query.respond import ClientLeftError, Headers, Order, Responder
from query.serving import Serving
from shared.auth.tokens import PIPES_READ, Grant, GrantLimits, TokenStore
from shared.clickhouse.contract import ClickHouse, Limits, Result, SettingValue, Statement
from shared.errors import AppError, TooLargeError
from shared.observe.metrics import Metrics
from shared.web.compression import Encoding, negotiate
from shared.web.errors import JSON_MEDIA_TYPE, require_method
from shared.web.guards import authenticate, query_pairs

METHODS = ("GET", "POST", "HEAD")

T = TypeVar("T", int, float)

# What web servers commonly log for a caller that is gone; it is never sent.
_CLIENT_LEFT = 499


class QueryServices(Struct, frozen=True, kw_only=True):
    """What the query routes work with."""

    tokens: TokenStore
    serving: Serving
    clickhouse: ClickHouse
    metrics: Metrics
    limits: Limits


def pipes_route(services: QueryServices) -> ASGIRouteHandler:
    """The route of the endpoints."""
    api = _PipesApi(services)

    # A mount: plain ASGI handlers cannot have path parameters.
    @asgi("/v0/pipes", is_mount=True, copy_scope=False)
    async def pipes(scope: Scope, receive: Receive, send: Send) -> None:
        http = cast(HTTPScope, scope)
        if scope.get("method") == "OPTIONS":
            await _send_plain(send, 204, b"", ((b"allow", b"GET, HEAD, POST, OPTIONS"),))
            return
        require_method(scope, *METHODS)
        try:
            await api.answer(http, receive, send)
        except ClientLeftError:
            return

    return pipes


class _PipesApi:
    def __init__(self, services: QueryServices) -> None:
        self._services = services
        self._responder = Responder(services.clickhouse)

    async def answer(self, scope: HTTPScope, receive: Receive, send: Send) -> None:
        """Answer one request and count it."""
        path = scope["path"].removeprefix("/v0/pipes").strip("/")
        if "." not in path:
            await self._describe(path, scope, send)
            return
        metrics = self._services.metrics
        started_s = time.perf_counter()
        name, status = "", 500
        try:
            grant = authenticate(cast(Scope, scope), self._services.tokens)
            name, format_ = split_name(path)
            grant.require(PIPES_READ, name)
            await self._run(scope, receive, send, grant=grant, name=name, format_=format_)
            status = 200
        except AppError as error:
            status = error.http_status
            raise
        except ClientLeftError:
            status = _CLIENT_LEFT
            raise
        finally:
            known = name if name in self._services.serving.workspace.pipes else ""
            metrics.endpoint_requests.labels(known, str(status)).inc()
            metrics.endpoint_seconds.labels(known).observe(time.perf_counter() - started_s)

    async def _run(
        self,
        scope: HTTPScope,
        receive: Receive,
        send: Send,
        *,
        grant: Grant,
        name: str,
        format_: OutputFormat,
    ) -> None:
        body = await read_arguments(scope, receive)
        pairs = query_pairs(scope["query_string"])
        planned = await self._plan(grant, name, pairs, body)
        sent = {**dict(pairs), **body}
        await self._responder.respond(
            Order(
                statement=Statement(
                    sql=planned.sql,
                    parameters=planned.bindings,
                    format=format_.clickhouse,
                    readonly=True,
                    limits=tightened(self._services.limits, grant.limits),
                    settings={**output_settings(sent), **settings_of(planned)},
                ),
                media_type=format_.media_type,
                size_key=f"{name}.{format_.ending}",
                encoding=accepted_encoding(scope),
                is_packable=not format_.is_packed,
                is_head=scope["method"] == "HEAD",
            ),
            receive,
            send,
        )

    async def _plan(
        self,
        grant: Grant,
        name: str,
        pairs: list[tuple[str, str]],
        body: Mapping[str, object],
    ) -> Planned:
        # The grant came first, so that nobody learns names of pipes that are not theirs.
        serving = self._services.serving
        pipe, node = serving.endpoint(name)
        arguments = merge_arguments(pairs, body, grant.fixed_params(name))
        planned = await serving.planner.plan(pipe, node, arguments, grant=grant)
        over = body.get("q", dict(pairs).get("q"))
        if over is not None:
            planned = await over_result(serving.parse, planned, str(over))
        return planned

    async def _describe(self, name: str, scope: HTTPScope, send: Send) -> None:
        require_method(cast(Scope, scope), "GET", "HEAD")
        grant = authenticate(cast(Scope, scope), self._services.tokens)
        planner = self._services.serving.planner
        said: object = (
            pipe_details(planner.workspace, name, grant, planner.template)
            if name
            else pipe_list(planner.workspace, grant, planner.template)
        )
        body = msgspec.json.encode(said, enc_hook=str)
        await _send_plain(send, 200, body, ((b"content-type", JSON_MEDIA_TYPE.encode()),))


def settings_of(planned: Planned) -> dict[str, SettingValue]:
    """The settings that the statement must run under: row filters, and what templates asked for."""
    return dict(planned.settings)


def tightened(limits: Limits, own: GrantLimits) -> Limits:
    """The limits of the service, or of the token where those are stricter."""
    if own.timeout_s is own.max_memory_bytes is own.max_result_bytes is None:
        return limits
    return msgspec.structs.replace(
        limits,
        max_time_s=_least(limits.max_time_s, own.timeout_s),
        max_memory_bytes=_least(limits.max_memory_bytes, own.max_memory_bytes),
        max_result_bytes=_least(limits.max_result_bytes, own.max_result_bytes),
    )


def _least(one: T | None, other: T | None) -> T | None:
    given = [value for value in (one, other) if value is not None]
    return min(given) if given else None


def accepted_encoding(scope: HTTPScope) -> Encoding | None:
    """How the answer may be compressed."""
    for name, value in scope["headers"]:
        if name == b"accept-encoding":
            return negotiate(value)
    return None


async def _send_plain(send: Send, status: int, body: bytes, headers: Headers) -> None:
    own = headers if status == 204 else (*headers, (b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", "status": status, "headers": own})
    await send({"type": "http.response.body", "body": body, "more_body": False})


async def run(services: QueryServices, planned: Planned, format_: str | None) -> Result:
    """Run a planned statement, read-only and under the limits of the service.

    Raises:
        TooLargeError: The answer has more bytes than the limit.
    """
    result = await services.clickhouse.fetch(
        Statement(
            sql=planned.sql,
            parameters=planned.bindings,
            format=format_,
            readonly=True,
            limits=services.limits,
            settings=settings_of(planned),
        )
    )
    most_bytes = services.limits.max_result_bytes
    # The engine counts columns before they are formatted, and a constant only once.
    if most_bytes is not None and len(result.body) > most_bytes:
        raise TooLargeError(
            f"The answer has {len(result.body)} bytes, at most {most_bytes} are sent.",
            hint="Ask for fewer rows or columns.",
        )
    return result


async def answer(send: Send, result: Result, media_type: str, *, body: bool = True) -> None:
    """Send formatted bytes as they are."""
    headers = ((b"content-type", media_type.encode()),)
    await _send_plain(send, 200, result.body if body else b"", headers)
