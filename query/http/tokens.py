"""``/v0/tokens``: who may do what, read and changed over HTTP.

``<ref>`` is a name or an id. Arguments come in the query string, a form or a JSON object.

- ``GET /v0/tokens`` → ``{"tokens": [<token>, …]}``, by name; the admin token is the first.
- ``GET /v0/tokens/<ref>`` → ``<token>``; every token may read itself, also as ``<ref>`` ``me``.
- ``POST /v0/tokens?name=&scope=&scope=…[&description=]`` → ``<token>``; 409 if the name is taken.
- ``POST /v0/tokens?name=&expiration_time=<unix seconds>`` with a JSON body
  ``{"scopes": [{"type", "resource", "fixed_params"?, "filter"?}], "limits"?: {"rps": n}}``
  → ``{"token": "<jwt>"}``. A JWT is not kept, so it is never listed and cannot be taken back.
- ``PUT /v0/tokens/<ref>?[name=][&description=][&scope=…]`` → ``<token>``; what is not given stays.
- ``DELETE /v0/tokens/<ref>`` → ``{"ok": true}``.
- ``POST /v0/tokens/<ref>/refresh`` → ``<token>`` with a new secret; the old one is void.

A scope in text is ``TYPE[:resource[:row filter]]``. ``<token>`` is ``{"id", "token", "name",
"description", "scopes": [{"type", "resource"?, "filter"?, "fixed_params"?}], "origin": {"type",
"resource_name"?}, "host", "is_internal", "limits"?, "created_at", "updated_at"}``; the origin's
type is ``C`` (this API), ``DS`` or ``P`` (a datafile of a data source or pipe) or ``ADMIN``.

The scope ADMIN is needed, or TOKENS for tokens without ADMIN, TOKENS and WORKSPACE:DEPLOY. What
datafiles gave a token stays whatever this API changes; a deleted one comes back with the next
release, with another secret.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Iterable
from typing import cast

import msgspec
import structlog
from litestar import asgi
from litestar.handlers import ASGIRouteHandler
from litestar.types import HTTPScope, Receive, Scope, Send
from msgspec import structs

from query.client import ClientLeftError
from query.http.body import read_small_body, refuse_unreadable
from query.http.token_requests import Draft, read_draft, token_object
from query.row_filters import check_row_filter
from query.serving import Serving
from shared.auth.records import SELF, Details, TokenRecord, checked_description, checked_name
from shared.auth.scopes import unknown_resources
from shared.auth.stored import StoredTokens
from shared.auth.tokens import ADMIN, TOKENS, WORKSPACE_DEPLOY, Grant, GrantLimits
from shared.auth.tokens import Scope as TokenScope
from shared.clock import Clock
from shared.errors import BadRequestError, NotFoundError, PermissionDeniedError
from shared.web.errors import JSON_MEDIA_TYPE, require_method
from shared.web.guards import authenticate

PATH = "/v0/tokens"

# Whoever could give or read these could do everything.
_POWERS = frozenset({ADMIN, TOKENS, WORKSPACE_DEPLOY})

_REFRESH = "refresh"

_log = structlog.get_logger(__name__)


def tokens_route(tokens: StoredTokens, serving: Serving, clock: Clock) -> ASGIRouteHandler:
    """The routes of the tokens.

    Args:
        tokens: What is shown and changed.
        serving: The live project, which says what scopes may name.
        clock: Says whether a JWT would be expired already.
    """
    api = _TokensApi(tokens, serving, clock)

    @asgi(PATH, is_mount=True, copy_scope=False)
    async def route(scope: Scope, receive: Receive, send: Send) -> None:
        http = cast(HTTPScope, scope)
        try:
            answer = await api.answer(http, receive)
        except ClientLeftError:
            return
        await _send(send, answer, is_head=http["method"] == "HEAD")

    return route


class _TokensApi:
    def __init__(self, tokens: StoredTokens, serving: Serving, clock: Clock) -> None:
        self._tokens = tokens
        self._serving = serving
        self._clock = clock

    async def answer(self, scope: HTTPScope, receive: Receive) -> object:
        """Carry out one request."""
        # One segment is a name, and decoded already; a second one can only be a verb.
        ref, slash, verb = scope["path"].removeprefix(PATH).strip("/").partition("/")
        if slash and verb != _REFRESH:
            raise NotFoundError("Nothing is served at this path.")
        require_method(cast(Scope, scope), *_methods(ref, verb))
        grant = authenticate(cast(Scope, scope), self._tokens)
        method = scope["method"]
        show = functools.partial(self._shown, host=_host(scope))
        if verb:
            return show(await self._renew(grant, ref))
        if method in ("GET", "HEAD"):
            return self._read(grant, ref, show)
        if method == "DELETE":
            return await self._delete(grant, ref)
        refuse_unreadable(scope)
        draft = read_draft(scope["query_string"], await read_small_body(receive))
        if ref:
            return show(await self._update(grant, ref, draft))
        if draft.expires_at_s is not None:
            return {"token": await self._sign(grant, draft, draft.expires_at_s)}
        return show(await self._create(grant, draft))

    def _read(self, grant: Grant, ref: str, show: Callable[[TokenRecord], object]) -> object:
        if not ref:
            _require_manager(grant)
            known = (self._tokens.admin, *self._tokens.records())
            return {"tokens": [show(r) for r in known if _may_manage(grant, r.scopes)]}
        return show(self._found(grant, ref))

    async def _create(self, grant: Grant, draft: Draft) -> TokenRecord:
        _require_manager(grant)
        name = checked_name(draft.name or "")
        if not draft.scopes:
            raise BadRequestError(
                "The token has no scopes.", hint="Add scope=TYPE:resource, for instance."
            )
        await self._check(grant, draft.scopes)
        details = Details(
            scopes=draft.scopes,
            description=checked_description(draft.description or ""),
            limits=draft.limits or GrantLimits(),
        )
        record = await self._tokens.create(name, details)
        _log.info("token_created", name=name, by=grant.name)
        return record

    async def _sign(self, grant: Grant, draft: Draft, expires_at_s: int) -> str:
        _require_manager(grant)
        if not draft.scopes:
            raise BadRequestError("A JWT needs scopes.", hint='Send {"scopes": [...]} as JSON.')
        if expires_at_s * 1000 <= self._clock.now_ms():
            raise BadRequestError("The expiration_time is in the past.")
        await self._check(grant, draft.scopes)
        name = (draft.name or "").strip()
        if not name:
            raise BadRequestError("The token has no name.", hint="Add name=….")
        limits = draft.limits or GrantLimits()
        return self._tokens.sign(Grant(name=name, scopes=draft.scopes, limits=limits), expires_at_s)

    async def _update(self, grant: Grant, ref: str, draft: Draft) -> TokenRecord:
        record = self._managed(grant, ref)
        if draft.scopes is not None:
            await self._check(grant, draft.scopes)

        change = functools.partial(_updated, draft=draft)
        return await self._logged("token_changed", grant, self._tokens.change(record.id, change))

    async def _renew(self, grant: Grant, ref: str) -> TokenRecord:
        record = self._managed(grant, ref)
        return await self._logged("token_refreshed", grant, self._tokens.renew(record.id))

    async def _delete(self, grant: Grant, ref: str) -> object:
        record = self._managed(grant, ref)
        await self._tokens.remove(record.id)
        _log.info("token_deleted", name=record.name, by=grant.name)
        return {"ok": True}

    async def _logged(
        self, event: str, grant: Grant, change: Awaitable[TokenRecord]
    ) -> TokenRecord:
        record = await change
        _log.info(event, name=record.name, by=grant.name)
        return record

    async def _check(self, grant: Grant, scopes: Iterable[TokenScope]) -> None:
        """Refuse scopes that are more than the caller's to give, or that name what is not there."""
        scopes = tuple(scopes)
        if not _may_manage(grant, scopes):
            raise PermissionDeniedError("Only an administrator can give these scopes.")
        workspace = self._serving.workspace
        problems = unknown_resources(scopes, workspace.datasources, workspace.pipes)
        if problems:
            raise NotFoundError(" ".join(problems))
        for scope in scopes:
            if scope.filter is not None and scope.resource is not None:
                await check_row_filter(
                    self._serving.parse, scope.resource, scope.filter, workspace.datasources
                )

    def _managed(self, grant: Grant, ref: str) -> TokenRecord:
        _require_manager(grant)
        return self._found(grant, ref)

    def _found(self, grant: Grant, ref: str) -> TokenRecord:
        """A token that the caller may see: its own, or any that it may manage."""
        if not (grant.allows(ADMIN) or grant.allows(TOKENS)):
            # Whoever manages nothing learns nothing of other tokens, not even whether they exist.
            if not grant.id or ref not in (SELF, grant.id, grant.name):
                _require_manager(grant)
            return self._tokens.find(grant.id)
        record = self._tokens.find(grant.id if ref == SELF and grant.id else ref)
        if record.id != grant.id and not _may_manage(grant, record.scopes):
            raise PermissionDeniedError("Only an administrator can see or change this token.")
        return record

    def _shown(self, record: TokenRecord, host: str) -> dict[str, object]:
        return token_object(record, self._tokens.reveal(record), host)


def _updated(before: TokenRecord, draft: Draft) -> TokenRecord:
    """The token with what the draft says; what datafiles say of it stays."""
    details = before.details
    own = details.scopes
    if draft.scopes is not None:
        own = tuple(scope for scope in draft.scopes if scope not in details.file_scopes)
    return structs.replace(
        before,
        name=before.name if draft.name in (None, before.name) else checked_name(draft.name or ""),
        details=structs.replace(
            details,
            scopes=own,
            description=details.description
            if draft.description is None
            else checked_description(draft.description),
            limits=details.limits if draft.limits is None else draft.limits,
        ),
    )


def _require_manager(grant: Grant) -> None:
    if not grant.allows(TOKENS):
        grant.require(ADMIN)


def _may_manage(grant: Grant, scopes: Iterable[TokenScope]) -> bool:
    return grant.allows(ADMIN) or not any(scope.type in _POWERS for scope in scopes)


def _methods(ref: str, verb: str) -> tuple[str, ...]:
    if verb:
        return ("POST",)
    return ("GET", "HEAD", "PUT", "DELETE") if ref else ("GET", "HEAD", "POST")


def _host(scope: HTTPScope) -> str:
    host = next((value for name, value in scope["headers"] if name == b"host"), b"")
    return f"{scope['scheme']}://{host.decode('latin-1')}"


async def _send(send: Send, answer: object, *, is_head: bool) -> None:
    body = msgspec.json.encode(answer)
    headers = [
        (b"content-type", JSON_MEDIA_TYPE.encode()),
        (b"content-length", b"%d" % len(body)),
        # The answer holds secrets.
        (b"cache-control", b"no-store"),
    ]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if is_head else body, "more_body": False})
