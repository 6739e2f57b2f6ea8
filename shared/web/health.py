"""What orchestrators and scrapers ask: alive, ready, metrics."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping

from litestar import HttpMethod, Request, Response, route
from litestar.datastructures import State
from litestar.handlers import HTTPRouteHandler

from shared.auth.tokens import ADMIN, TokenStore
from shared.errors import AppError
from shared.observe.metrics import EXPOSITION_MEDIA_TYPE, Metrics
from shared.web.guards import authenticate

Check = Callable[[], Awaitable[None]]
"""Returns when what it stands for answers; raises an AppError when not."""

_METHODS = [HttpMethod.GET, HttpMethod.HEAD]
_CHECK_TIMEOUT_S = 2.0


def health_routes(checks: Mapping[str, Check]) -> list[HTTPRouteHandler]:
    """``/health`` (this process runs) and ``/ready`` (what it needs answers).

    All checks run at the same time and each has two seconds.
    """

    @route("/health", http_method=_METHODS, sync_to_thread=False)
    def health() -> dict[str, str]:
        return {"status": "ok"}

    @route("/ready", http_method=_METHODS)
    async def ready() -> Response[dict[str, object]]:
        answers = await asyncio.gather(*(_ask(check) for check in checks.values()))
        is_ready = all(answer == "ok" for answer in answers)
        return Response(
            {
                "status": "ok" if is_ready else "unavailable",
                "checks": dict(zip(checks, answers, strict=True)),
            },
            status_code=200 if is_ready else 503,
        )

    return [health, ready]


def metrics_route(
    metrics: Metrics, tokens: TokenStore, *, need_token: bool = False
) -> HTTPRouteHandler:
    """``/metrics`` in the Prometheus text format, for administrators only where asked."""

    @route("/metrics", http_method=_METHODS, sync_to_thread=False)
    def exposition(request: Request[object, object, State]) -> Response[bytes]:
        if need_token:
            authenticate(request.scope, tokens).require(ADMIN)
        return Response(metrics.exposition(), media_type=EXPOSITION_MEDIA_TYPE)

    return exposition


async def _ask(check: Check) -> str:
    try:
        async with asyncio.timeout(_CHECK_TIMEOUT_S):
            await check()
    except AppError as error:
        return str(error)
    except TimeoutError:
        return f"No answer within {_CHECK_TIMEOUT_S:g} s."
    return "ok"
