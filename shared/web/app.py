"""The assembly that every HTTP app of the product shares.

Plain ASGI handlers (``@asgi``) are called directly: the router and its layers would cost them as
much as a small query. Everything else goes through Litestar. Both have the same request ids, error
envelope and CORS, because all of that is put around both here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import structlog
from litestar import Litestar, MediaType, get
from litestar.datastructures import State
from litestar.enums import ScopeType
from litestar.handlers import ASGIRouteHandler
from litestar.types import ASGIApp, ControllerRouterHandler, Message, Receive, Scope, Send

from shared.errors import AppError
from shared.web.cors import ANY_ORIGIN, Cors, Headers
from shared.web.errors import answer_error, error_answer, error_page
from shared.web.limits import rate_headers
from shared.web.request_id import HEADER, request_id

log = structlog.get_logger(__name__)

_PATH_PARAMETER = re.compile(r"\\\{[^/]*?\\\}")


def create_app(
    routes: Sequence[ControllerRouterHandler],
    *,
    state: Iterable[tuple[str, object]] = (),
    max_body_bytes: int = 10 << 20,
    cors_origins: Iterable[str] = (ANY_ORIGIN,),
) -> ASGIApp:
    """An app with our error envelope, request ids, CORS and ``/docs/errors``.

    Trailing slashes are tolerated on every path. A mounted plain handler gets the paths below its
    own that no other route has.

    Args:
        routes: Handlers; plain ASGI handlers too, for routes where each microsecond counts.
        state: What handlers find in ``request.app.state``.
        max_body_bytes: Limit for handlers that let the framework read the body.
        cors_origins: Web pages that may call from a browser; ``*`` is every one.
    """

    @get("/docs/errors", media_type=MediaType.HTML, sync_to_thread=False)
    def docs_errors() -> str:
        return error_page()

    plain = [route for route in routes if isinstance(route, ASGIRouteHandler)]
    framework = Litestar(
        route_handlers=[*(r for r in routes if not isinstance(r, ASGIRouteHandler)), docs_errors],
        state=State(dict(state)),
        exception_handlers={Exception: answer_error},
        request_max_body_size=max_body_bytes,
        openapi_config=None,
        logging_config=None,
        debug=False,
    )
    return _App(framework, plain, Cors(cors_origins))


class _App:
    """Request id, CORS and the last resort for errors around plain handlers and the framework."""

    def __init__(self, framework: Litestar, plain: Sequence[ASGIRouteHandler], cors: Cors) -> None:
        self._framework = framework
        self._cors = cors
        self._exact: dict[str, ASGIApp] = {}
        self._mounts: list[tuple[str, ASGIApp]] = []
        for handler in plain:
            for path in handler.paths:
                self._exact[path] = handler.fn
                if handler.is_mount:
                    self._mounts.append((path.rstrip("/") + "/", handler.fn))
        # The longest first, so that the nearest mount wins.
        self._mounts.sort(key=lambda mount: -len(mount[0]))
        self._framework_paths = re.compile(
            "|".join(_PATH_PARAMETER.sub("[^/]+", re.escape(r.path)) for r in framework.routes)
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP:
            await self._framework(scope, receive, send)
            return
        scope.setdefault("state", {})
        id_ = request_id(scope)
        structlog.contextvars.bind_contextvars(request_id=id_)
        added = ((HEADER, id_.encode("ascii")), *self._cors.answer_headers(scope))
        has_started = False

        async def send_with_headers(message: Message) -> None:
            nonlocal has_started
            if message["type"] == "http.response.start":
                has_started = True
                message["headers"] = [*message["headers"], *added, *rate_headers(scope)]
            await send(message)

        try:
            await self._answer(scope, receive, send_with_headers)
        except Exception as error:
            if has_started:
                # Without its end the answer is visibly cut: the server closes the connection.
                ours = None if isinstance(error, AppError) else error
                log.error("answer_broken_off", path=scope["path"], error=str(error), exc_info=ours)
            else:
                await _send(send_with_headers, *error_answer(scope, error))

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope.get("method") == "OPTIONS":
            preflight = self._cors.preflight_headers(scope)
            if preflight is not None:
                await _send(send, 204, preflight, b"")
                return
        await self._handler(scope["path"])(scope, receive, send)

    def _handler(self, path: str) -> ASGIApp:
        exact = self._exact.get(path)
        if exact is not None:
            return exact
        trimmed = path.rstrip("/")
        if trimmed in self._exact and not self._framework_paths.fullmatch(trimmed or "/"):
            return self._exact[trimmed]
        for prefix, handler in self._mounts:
            if path.startswith(prefix) and not self._framework_paths.fullmatch(trimmed):
                return handler
        return self._framework


async def _send(send: Send, status: int, headers: Headers, body: bytes) -> None:
    length = (b"content-length", b"%d" % len(body))
    own = headers if status == 204 else (*headers, length)
    await send({"type": "http.response.start", "status": status, "headers": own})
    await send({"type": "http.response.body", "body": body, "more_body": False})
