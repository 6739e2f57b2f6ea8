"""The assembly that every HTTP app of the product shares."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from litestar import Litestar, MediaType, get
from litestar.config.cors import CORSConfig
from litestar.datastructures import State
from litestar.types import ControllerRouterHandler

from shared.web.errors import answer_error, error_page
from shared.web.request_id import add_request_id

_CORS = CORSConfig(
    allow_origins=["*"],
    allow_headers=["authorization", "content-type", "content-encoding", "x-request-id"],
    expose_headers=["x-request-id", "retry-after"],
)


def create_app(
    routes: Sequence[ControllerRouterHandler],
    *,
    state: Iterable[tuple[str, object]] = (),
    max_body_bytes: int = 10 << 20,
) -> Litestar:
    """An app with our error envelope, request ids, CORS and ``/docs/errors``.

    Trailing slashes are tolerated on every path.

    Args:
        routes: Handlers; plain ASGI handlers too, for routes where each microsecond counts.
        state: What handlers find in ``request.app.state``.
        max_body_bytes: Limit for handlers that let the framework read the body.
    """

    @get("/docs/errors", media_type=MediaType.HTML, sync_to_thread=False)
    def docs_errors() -> str:
        return error_page()

    return Litestar(
        route_handlers=[*routes, docs_errors],
        state=State(dict(state)),
        exception_handlers={Exception: answer_error},
        before_send=[add_request_id],
        cors_config=_CORS,
        request_max_body_size=max_body_bytes,
        openapi_config=None,
        logging_config=None,
        debug=False,
    )
