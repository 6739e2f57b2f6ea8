"""What a request to ``/v0/tokens`` asks for, and how a token is shown; pure."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

import msgspec
from msgspec import Struct

from shared.auth.records import TokenRecord
from shared.auth.scopes import (
    ScopeObject,
    merge_scopes,
    parse_scope,
    scope_from_object,
    scope_object,
)
from shared.auth.signed import checked_limits, limits_object
from shared.auth.tokens import GrantLimits, Scope
from shared.errors import BadRequestError
from shared.web.guards import query_pairs


class Draft(Struct, frozen=True, kw_only=True):
    """What a request says of a token; None where it says nothing."""

    name: str | None = None
    description: str | None = None
    scopes: tuple[Scope, ...] | None = None
    limits: GrantLimits | None = None
    expires_at_s: int | None = None


class _Body(Struct, frozen=True, kw_only=True):
    name: str | None = None
    description: str | None = None
    scope: str | list[str] | None = None
    scopes: list[ScopeObject | str] | None = None
    limits: GrantLimits | None = None
    expiration_time: int | float | str | None = None


def read_draft(query_string: bytes, body: bytes) -> Draft:
    """The draft of a request; what a JSON body says wins over the query string.

    Raises:
        BadRequestError: The body is no JSON object, or something in it is wrong.
    """
    is_json = body.lstrip()[:1] == b"{"
    pairs = query_pairs(query_string) + ([] if is_json else query_pairs(body))
    given = _body(body) if is_json else _Body()
    fields = dict(pairs)
    expiration = given.expiration_time
    if expiration is None:
        expiration = fields.get("expiration_time") or None
    return Draft(
        name=given.name or fields.get("name"),
        description=fields.get("description") if given.description is None else given.description,
        scopes=_scopes(given, [value for name, value in pairs if name == "scope"]),
        limits=None if given.limits is None else checked_limits(given.limits),
        expires_at_s=None if expiration is None else _seconds(expiration),
    )


def token_object(record: TokenRecord, token: str, host: str) -> dict[str, object]:
    """A token as the API shows it."""
    details = record.details
    origin = {"type": details.origin.type}
    if details.origin.resource_name is not None:
        origin["resource_name"] = details.origin.resource_name
    shown: dict[str, object] = {
        "id": record.id,
        "token": token,
        "name": record.name,
        "description": details.description,
        "scopes": [scope_object(scope) for scope in record.scopes],
        "origin": origin,
        "host": host,
        "is_internal": False,
        "created_at": _time(details.created_at_ms),
        "updated_at": _time(details.updated_at_ms),
    }
    limits = limits_object(details.limits)
    if limits:
        shown["limits"] = limits
    return shown


def _body(text: bytes) -> _Body:
    try:
        return msgspec.json.decode(text, type=_Body)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise BadRequestError(f"The body is not what describes a token: {error}.") from error


def _scopes(given: _Body, texts: Iterable[str]) -> tuple[Scope, ...] | None:
    found = [parse_scope(text) for text in texts if text]
    one_or_more = [given.scope] if isinstance(given.scope, str) else given.scope or []
    found += [parse_scope(text) for text in one_or_more]
    for item in given.scopes or []:
        found.append(parse_scope(item) if isinstance(item, str) else scope_from_object(item))
    is_said = bool(found) or given.scopes is not None or given.scope is not None
    return merge_scopes(found) if is_said else None


def _seconds(value: str | float) -> int:
    try:
        return int(float(value))
    except (ValueError, OverflowError):
        raise BadRequestError(
            f"The expiration_time is '{value}', expected seconds since 1970."
        ) from None


def _time(at_ms: int) -> str | None:
    """The form that clients cut the fraction from; None where nobody knows."""
    if not at_ms:
        return None
    return f"{datetime.fromtimestamp(at_ms / 1000, UTC):%Y-%m-%d %H:%M:%S.%f}"
