"""What callers read: ``/v0/pipes/openapi.json`` for programs, ``/docs`` for people.

The page comes with the package and loads nothing from anywhere else. It has no secrets in it: it
asks for a token and reads the document with it.
"""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import structlog
from litestar import HttpMethod, Request, Response, route
from litestar.datastructures import State
from litestar.handlers import HTTPRouteHandler
from litestar.response import Redirect
from msgspec import structs

from query.columns import OutputColumn, output_columns
from query.endpoints import Endpoint, describe_endpoint, may_use_sql, readable_endpoints
from query.openapi import openapi
from query.plan import Planner
from query.serving import Serving
from shared.auth.tokens import Grant, TokenStore
from shared.clickhouse.contract import ClickHouse
from shared.errors import UserError
from shared.model.resources import Pipe
from shared.web.guards import authenticate

AnyRequest = Request[object, object, State]

ASSETS = Path(__file__).parent / "assets"

_METHODS = [HttpMethod.GET, HttpMethod.HEAD]
_MEDIA_TYPES = {
    "index.html": "text/html",
    "docs.js": "text/javascript",
    "docs.css": "text/css",
    "icon.svg": "image/svg+xml",
}
_PAGE_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self';"
        " img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cache-Control": "no-cache",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_HOST = re.compile(r"[A-Za-z0-9._-]+(:[0-9]{1,5})?|\[[0-9A-Fa-f:.]+\](:[0-9]{1,5})?")

_log = structlog.get_logger(__name__)


class EndpointDocs:
    """What is known about the endpoints of the live workspace; asked of the engine once a release.

    Args:
        serving: What is live.
        clickhouse: Which columns the answers have.
    """

    def __init__(self, serving: Serving, clickhouse: ClickHouse) -> None:
        self._serving = serving
        self._clickhouse = clickhouse
        self._planner: Planner | None = None
        self._columns: dict[str, tuple[OutputColumn, ...] | None] = {}

    async def document(self, grant: Grant, server: str) -> dict[str, object]:
        """OpenAPI of what the grant can read.

        Raises:
            ClickHouseUnavailableError: The engine does not answer.
        """
        return openapi(await self.endpoints(grant), server=server, has_free_sql=may_use_sql(grant))

    async def endpoints(self, grant: Grant) -> list[Endpoint]:
        """The endpoints that the grant can read, by name; errors as in ``document``."""
        # One planner for the whole answer: another release may come meanwhile.
        planner = self._serving.planner
        found = []
        for pipe in readable_endpoints(planner.workspace, grant):
            fixed = grant.fixed_params(pipe.name)
            said = describe_endpoint(planner.workspace, pipe, planner.template, fixed)
            found.append(structs.replace(said, columns=await self._columns_of(planner, pipe)))
        return found

    async def _columns_of(self, planner: Planner, pipe: Pipe) -> tuple[OutputColumn, ...] | None:
        """The columns of the answer, None where the engine refuses to tell them."""
        if self._planner is not planner:
            self._planner, self._columns = planner, {}
        known = self._columns
        if pipe.name not in known:
            known[pipe.name] = await self._ask(planner, pipe)
        return known[pipe.name]

    async def _ask(self, planner: Planner, pipe: Pipe) -> tuple[OutputColumn, ...] | None:
        try:
            planned = await planner.plan(pipe, pipe.answer, {}, test_mode=True)
            return await output_columns(self._clickhouse, planned)
        except UserError as error:
            # It passed the check when it was released: a table was changed behind our back.
            _log.warning("columns_unknown", pipe=pipe.name, error=str(error), code=error.code)
            return None


def docs_routes(
    tokens: TokenStore, serving: Serving, clickhouse: ClickHouse
) -> list[HTTPRouteHandler]:
    """The document, the page and what the page loads."""
    docs = EndpointDocs(serving, clickhouse)

    @route("/v0/pipes/openapi.json", http_method=_METHODS)
    async def document(request: AnyRequest) -> Response[bytes]:
        grant = authenticate(request.scope, tokens)
        found = await docs.document(grant, _server(request))
        return Response(
            msgspec.json.encode(found),
            media_type="application/json",
            # It differs from token to token.
            headers={"Cache-Control": "private, no-cache"},
        )

    @route(["/docs", *(f"/docs/{name}" for name in _MEDIA_TYPES)], http_method=_METHODS)
    async def page(request: AnyRequest) -> Response[bytes]:
        name = request.scope["path"].removeprefix("/docs").strip("/") or "index.html"
        return Response(_FILES[name], media_type=_MEDIA_TYPES[name], headers=dict(_PAGE_HEADERS))

    @route("/", http_method=_METHODS)
    async def root(request: AnyRequest) -> Redirect:
        # Relative, for whoever put a path in front of ours.
        return Redirect("docs", status_code=302)

    return [document, page, root]


def _server(request: AnyRequest) -> str:
    """Where the caller reached us, empty where its Host header is not to be repeated."""
    host = request.headers.get("host", "")
    if not _HOST.fullmatch(host):
        return ""
    forwarded = request.headers.get("x-forwarded-proto", "")
    scheme = forwarded if forwarded in ("http", "https") else request.scope["scheme"]
    return f"{scheme}://{host}"


# Read once: a broken installation shows at the start, not at the first visit.
_FILES = {name: (ASSETS / name).read_bytes() for name in _MEDIA_TYPES}
