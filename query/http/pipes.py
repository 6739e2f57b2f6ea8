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
from typing import cast

import msgspec
from litestar import asgi
from litestar.handlers import ASGIRouteHandler
from litestar.types import HTTPScope, Receive, Scope, Send
from msgspec import Struct

from query.formats import split_name
from query.parameters import merge_arguments
from query.plan import Planned
from query.serving import Serving
from shared.auth.tokens import PIPES_READ, TokenStore
from shared.clickhouse.contract import ClickHouse, Limits, Result, Statement
from shared.errors import AppError, BadRequestError, TooLargeError
from shared.observe.metrics import Metrics
from shared.web.errors import require_method
from shared.web.guards import authenticate, query_pairs

MAX_BODY_BYTES = 1 << 20


class QueryServices(Struct, frozen=True, kw_only=True):
    """What the query routes work with."""

    tokens: TokenStore
    serving: Serving
    clickhouse: ClickHouse
    metrics: Metrics
    limits: Limits


def pipes_route(services: QueryServices) -> ASGIRouteHandler:
    """The route of the endpoints."""

    # A mount: plain ASGI handlers cannot have path parameters.
    @asgi("/v0/pipes", is_mount=True, copy_scope=False)
    async def pipes(scope: Scope, receive: Receive, send: Send) -> None:
        require_method(scope, "GET", "POST", "HEAD")
        http = cast(HTTPScope, scope)
        started_s = time.perf_counter()
        name, status = "", 500
        try:
            grant = authenticate(scope, services.tokens)
            name, format_ = split_name(http["path"].strip("/"))
            grant.require(PIPES_READ, name)
            # The grant came first, so that nobody learns names of pipes that are not theirs.
            pipe, node = services.serving.endpoint(name)
            arguments = merge_arguments(
                query_pairs(http["query_string"]),
                await read_arguments(http, receive),
                grant.fixed_params(name),
            )
            planned = await services.serving.planner.plan(pipe, node, arguments)
            result = await run(services, planned, format_.clickhouse)
            status = 200
            await answer(send, result, format_.media_type, body=http["method"] != "HEAD")
        except AppError as error:
            status = error.http_status
            raise
        finally:
            known = name if name in services.serving.workspace.pipes else ""
            services.metrics.endpoint_requests.labels(known, str(status)).inc()
            services.metrics.endpoint_seconds.labels(known).observe(time.perf_counter() - started_s)

    return pipes


async def run(services: QueryServices, planned: Planned, format_: str | None) -> Result:
    """Run a planned statement, read-only and under the limits of the service.

    Raises:
        TooLargeError: The answer has more bytes than the limit.
    """
    settings = {} if planned.max_threads is None else {"max_threads": planned.max_threads}
    result = await services.clickhouse.fetch(
        Statement(
            sql=planned.sql,
            parameters=planned.bindings,
            format=format_,
            readonly=True,
            limits=services.limits,
            settings=settings,
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
    await send(
        {
            "type": "http.response.start",
            "status": 200,
            "headers": [
                (b"content-type", media_type.encode()),
                (b"content-length", b"%d" % len(result.body)),
            ],
        }
    )
    await send(
        {
            "type": "http.response.body",
            "body": result.body if body else b"",
            "more_body": False,
        }
    )


async def read_arguments(scope: HTTPScope, receive: Receive) -> Mapping[str, object]:
    """Parameters in the body of a POST, as a form or as a JSON object.

    Raises:
        BadRequestError: The body is neither.
        TooLargeError: It is longer than a megabyte.
    """
    if scope["method"] != "POST":
        return {}
    body = await read_small_body(receive)
    if not body.strip():
        return {}
    if body.lstrip()[:1] != b"{":
        return dict(query_pairs(body))
    try:
        return msgspec.json.decode(body, type=dict[str, object])
    except msgspec.MsgspecError as error:
        raise BadRequestError(
            f"The body is not a JSON object: {error}.",
            hint="Send parameters as a JSON object or as a form.",
        ) from error


async def read_small_body(receive: Receive) -> bytes:
    """The whole body of a request that has no reason to be large.

    Raises:
        TooLargeError: It is longer than a megabyte.
    """
    parts = []
    size = 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise BadRequestError("The body ended too early.")
        parts.append(message["body"])
        size += len(message["body"])
        if size > MAX_BODY_BYTES:
            raise TooLargeError(f"The body is larger than {MAX_BODY_BYTES} bytes.")
        if not message.get("more_body"):
            return b"".join(parts)
