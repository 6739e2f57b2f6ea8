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

import contextlib
import time
from collections.abc import Mapping
from typing import TypeVar, cast
from urllib.parse import urlencode

import msgspec
from litestar import asgi
from litestar.handlers import ASGIRouteHandler
from litestar.types import HTTPScope, Receive, Scope, Send
from msgspec import Struct
from prometheus_client import Counter, Histogram

from query.cache import AnswerCache
from query.client import ClientLeftError
from query.explain import Explanation
from query.formats import OutputFormat, output_settings, split_name
from query.http.body import read_arguments
from query.http.cached import CachedAnswers
from query.http.explain import SUFFIX as EXPLAIN_SUFFIX
from query.http.explain import explain_endpoint
from query.http.listing import pipe_details, pipe_list, pipe_name
from query.over import over_result
from query.parameters import merge_arguments
from query.plan import Planner
from query.planned import Planned
from query.respond import Headers, Order, Responder
from query.serving import Serving
from shared.auth.tokens import PIPES_READ, Grant, GrantLimits, TokenStore
from shared.clickhouse.contract import ClickHouse, Limits
from shared.errors import AppError
from shared.observe.metrics import Metrics
from shared.web.compression import Encoding, negotiate
from shared.web.errors import JSON_MEDIA_TYPE, require_method
from shared.web.guards import authenticate, query_parameters, url_pairs

METHODS = ("GET", "HEAD", "POST")

T = TypeVar("T", int, float)

# What web servers commonly log for a caller that is gone; it is never sent.
_CLIENT_LEFT = 499


class QueryServices(Struct, frozen=True, kw_only=True):
    """What the query routes work with; without a cache every request is a query."""

    tokens: TokenStore
    serving: Serving
    clickhouse: ClickHouse
    metrics: Metrics
    limits: Limits
    cache: AnswerCache | None = None


def pipes_route(services: QueryServices) -> ASGIRouteHandler:
    """The route of the endpoints."""
    api = _PipesApi(services)

    # A mount: plain ASGI handlers cannot have path parameters.
    @asgi("/v0/pipes", is_mount=True, copy_scope=False)
    async def pipes(scope: Scope, receive: Receive, send: Send) -> None:
        if scope.get("method") == "OPTIONS":
            await send_methods(send)
            return
        require_method(scope, *METHODS)
        http = cast(HTTPScope, scope)
        path = http["path"].removeprefix("/v0/pipes").strip("/")
        if "." in path:
            # Who has left gets no answer; it has been counted.
            with contextlib.suppress(ClientLeftError):
                await api.answer(path, http, receive, send)
        else:
            await api.describe(path, http, send)

    return pipes


class _PipesApi:
    def __init__(self, services: QueryServices) -> None:
        self._services = services
        self._responder = Responder(services.clickhouse)
        self._cached = (
            CachedAnswers(services.cache, services.clickhouse) if services.cache else None
        )
        self._requests: dict[tuple[str, int], Counter] = {}
        self._seconds: dict[str, Histogram] = {}

    async def answer(self, path: str, scope: HTTPScope, receive: Receive, send: Send) -> None:
        """Answer one request for rows and count it."""
        started_s = time.perf_counter()
        name, status = "", 500
        try:
            body = await read_arguments(scope, receive)
            grant = authenticate(with_token(scope, body), self._services.tokens)
            planner = self._services.serving.planner
            kept = await self._cached.recall(scope, grant, planner) if self._cached else None
            if self._cached is not None and kept is not None:
                name = kept[0].name
                status = await self._cached.send(*kept, scope, send)
                return
            name, format_ = split_name(path)
            name = pipe_name(planner.workspace, name)
            grant.require(PIPES_READ, name)
            planned, order = await self._order(name, format_, grant, scope, body)
            status = await self._respond(
                planned, order, scope, receive, send, (name, grant, planner)
            )
        except AppError as error:
            status = error.http_status
            raise
        except ClientLeftError:
            status = _CLIENT_LEFT
            raise
        finally:
            self._count(name, status, time.perf_counter() - started_s)

    async def _respond(
        self,
        planned: Planned,
        order: Order,
        scope: HTTPScope,
        receive: Receive,
        send: Send,
        remember: tuple[str, Grant, Planner],
    ) -> int:
        if self._cached is not None:
            status = await self._cached.respond(
                planned, order, scope, receive, send, remember=remember
            )
            if status is not None:
                return status
        await self._responder.respond(order, receive, send)
        return 200

    def _count(self, name: str, status: int, elapsed_s: float) -> None:
        known = name if name in self._services.serving.workspace.pipes else ""
        metrics = self._services.metrics
        # Finding a number by its labels costs more than counting.
        requests = self._requests.get((known, status))
        if requests is None:
            requests = metrics.endpoint_requests.labels(known, str(status))
            self._requests[known, status] = requests
        seconds = self._seconds.get(known)
        if seconds is None:
            seconds = self._seconds[known] = metrics.endpoint_seconds.labels(known)
        requests.inc()
        seconds.observe(elapsed_s)

    async def _order(
        self,
        name: str,
        format_: OutputFormat,
        grant: Grant,
        scope: HTTPScope,
        body: Mapping[str, object],
    ) -> tuple[Planned, Order]:
        query_string = scope["query_string"]
        planned = await self._plan(grant, name, query_string, body)
        return planned, Order(
            statement=planned.statement(
                format_.clickhouse,
                limits=tightened(self._services.limits, grant.limits),
                settings=output_settings({**query_parameters(query_string), **body}),
            ),
            media_type=format_.media_type,
            size_key=f"{name}.{format_.ending}",
            encoding=accepted_encoding(scope),
            is_packable=not format_.is_packed,
            is_head=scope["method"] == "HEAD",
        )

    async def _plan(
        self,
        grant: Grant,
        name: str,
        query_string: bytes,
        body: Mapping[str, object],
    ) -> Planned:
        # The grant came first, so that nobody learns names of pipes that are not theirs.
        serving = self._services.serving
        pipe, node = serving.endpoint(name)
        arguments = merge_arguments(url_pairs(query_string), body, grant.fixed_params(name))
        planned = await serving.planner.plan(pipe, node, arguments, grant=grant)
        over = body.get("q", query_parameters(query_string).get("q"))
        # Forms send fields that nobody has filled in.
        if over not in (None, ""):
            planned = await over_result(
                serving.parse, planned, str(over), max_threads=serving.planner.max_threads
            )
        return planned

    async def _explain(self, name: str, grant: Grant, scope: HTTPScope) -> Explanation:
        services = self._services
        limits = tightened(services.limits, grant.limits)
        pairs = url_pairs(scope["query_string"])
        return await explain_endpoint(
            services.serving, services.clickhouse, limits, grant, name, pairs
        )

    async def describe(self, name: str, scope: HTTPScope, send: Send) -> None:
        """Say what a pipe is, or what pipes there are."""
        require_method(cast(Scope, scope), "GET", "HEAD")
        grant = authenticate(cast(Scope, scope), self._services.tokens)
        planner = self._services.serving.planner
        said: object
        if name.endswith(EXPLAIN_SUFFIX):
            said = await self._explain(name.removesuffix(EXPLAIN_SUFFIX), grant, scope)
        elif name:
            said = pipe_details(planner.workspace, name, grant, planner.template)
        else:
            said = pipe_list(planner.workspace, grant, planner.template)
        body = msgspec.json.encode(said, enc_hook=str)
        await _send_plain(send, 200, body, ((b"content-type", JSON_MEDIA_TYPE.encode()),))


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


def with_token(scope: HTTPScope, body: Mapping[str, object]) -> Scope:
    """The request as if a token in its body had been sent like any other."""
    token = body.get("token")
    if not isinstance(token, str):
        return cast(Scope, scope)
    # The last of several wins, so that a token in the URL stays the one that counts.
    query_string = urlencode({"token": token}).encode() + b"&" + scope["query_string"]
    return cast(Scope, {**scope, "query_string": query_string})


def accepted_encoding(scope: HTTPScope) -> Encoding | None:
    """How the answer may be compressed."""
    for name, value in scope["headers"]:
        if name == b"accept-encoding":
            return negotiate(value)
    return None


async def send_methods(send: Send) -> None:
    """Say what is possible at a path of queries."""
    allowed = ", ".join((*METHODS, "OPTIONS")).encode()
    await _send_plain(send, 204, b"", ((b"allow", allowed),))


async def _send_plain(send: Send, status: int, body: bytes, headers: Headers) -> None:
    own = headers if status == 204 else (*headers, (b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", "status": status, "headers": own})
    await send({"type": "http.response.body", "body": body, "more_body": False})
