"""Who may do what: scopes, the grant a token stands for, and the store that knows tokens."""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol, runtime_checkable

from msgspec import Struct, field

from shared.auth.keyfile import checked_secret, kept_secret
from shared.errors import AuthenticationError, PermissionDeniedError

ADMIN = "ADMIN"
TOKENS = "TOKENS"
WORKSPACE_READ_ALL = "WORKSPACE:READ_ALL"
WORKSPACE_DEPLOY = "WORKSPACE:DEPLOY"
DATASOURCES_APPEND = "DATASOURCES:APPEND"
DATASOURCES_CREATE = "DATASOURCES:CREATE"
DATASOURCES_DROP = "DATASOURCES:DROP"
DATASOURCES_READ = "DATASOURCES:READ"
PIPES_READ = "PIPES:READ"

ANY_RESOURCE = "*"

_QUARANTINE_SUFFIX = "_quarantine"
_TOKEN_FILE = "admin_token"


class Scope(Struct, frozen=True, kw_only=True):
    """One permission.

    ``resource`` is a data source or pipe, ``*`` for all of them, None for scopes that have none.
    ``filter`` is an SQL condition on the rows of a data source, never together with ``*``;
    ``fixed_params`` are parameters of an endpoint that the caller cannot change.
    """

    type: str
    resource: str | None = None
    filter: str | None = None
    fixed_params: Mapping[str, object] = field(default_factory=dict)

    def covers(self, type_: str, resource: str | None) -> bool:
        """Whether this permission allows that kind of access to the resource."""
        if self.type == ADMIN:
            return True
        if self.type == WORKSPACE_READ_ALL and type_ in (DATASOURCES_READ, PIPES_READ):
            return True
        if self.type == DATASOURCES_CREATE and type_ == DATASOURCES_APPEND:
            return self.resource in (None, ANY_RESOURCE, resource)
        if self.type != type_:
            return False
        if self.resource == ANY_RESOURCE:
            return self.filter is None
        if self.resource == resource:
            return True
        if resource is None:
            return False
        # Quarantined rows have other columns, so a condition on rows cannot be put to them.
        return (
            type_ == DATASOURCES_READ
            and self.filter is None
            and resource.removesuffix(_QUARANTINE_SUFFIX) == self.resource
        )


class GrantLimits(Struct, frozen=True, kw_only=True):
    """What one token may use.

    None leaves it to the settings, which a token can tighten and not loosen. ``rps`` is requests
    a second.
    """

    rps: float | None = None
    timeout_s: float | None = None
    max_memory_bytes: int | None = None
    max_result_bytes: int | None = None


class Rate(Struct, frozen=True, kw_only=True):
    """How a rate limit stands after one request: requests at once, still free, seconds to full."""

    limit: int
    remaining: int
    reset_s: int


class Grant(Struct, frozen=True, kw_only=True):
    """What the holder of a token may do; ``name`` is for logs, the token itself is not kept.

    ``id`` names the token in the API and is empty for a JWT. ``rate`` is how its rate limit stands
    after this request, None where it has none.
    """

    name: str
    scopes: tuple[Scope, ...]
    id: str = ""
    limits: GrantLimits = GrantLimits()
    rate: Rate | None = None

    def allows(self, type_: str, resource: str | None = None) -> bool:
        """Whether any scope allows that kind of access to the resource."""
        return any(scope.covers(type_, resource) for scope in self.scopes)

    def require(self, type_: str, resource: str | None = None) -> None:
        """Refuse what ``allows`` does not allow.

        Raises:
            PermissionDeniedError: Names the scope that is missing.
        """
        if not self.allows(type_, resource):
            missing = type_ if resource is None else f"{type_}:{resource}"
            raise PermissionDeniedError(f"The token lacks the scope {missing}.")

    def fixed_params(self, pipe: str) -> Mapping[str, object]:
        """The parameters of an endpoint that this token sets, whatever the caller says."""
        fixed: dict[str, object] = {}
        for scope in self.scopes:
            if scope.type == PIPES_READ and scope.resource in (pipe, ANY_RESOURCE):
                fixed.update(scope.fixed_params)
        return fixed

    def row_filters(self) -> Mapping[str, tuple[str, ...]]:
        """SQL conditions by data source; a row is visible when any of its conditions holds.

        A data source that some scope opens without a condition is not listed, and who may read
        all of them sees everything.
        """
        if self.allows(DATASOURCES_READ, ANY_RESOURCE):
            return {}
        filters: dict[str, list[str]] = {}
        open_: set[str] = set()
        for scope in self.scopes:
            if scope.type != DATASOURCES_READ or scope.resource is None:
                continue
            if scope.filter is None:
                open_.add(scope.resource)
            else:
                filters.setdefault(scope.resource, []).append(scope.filter)
        return {name: tuple(found) for name, found in filters.items() if name not in open_}


@runtime_checkable
class TokenStore(Protocol):
    """Everything that knows tokens."""

    def grant(self, token: bytes) -> Grant:
        """What the token stands for; called once a request, because calls are counted.

        Raises:
            AuthenticationError: The token is unknown or expired.
            RateLimitedError: It has been used too often.
        """
        ...


class AdminTokenStore:
    """Knows one token, the administrator's."""

    def __init__(self, admin_token: str) -> None:
        self._admin_token = admin_token.encode()
        self._admin = Grant(name="admin", scopes=(Scope(type=ADMIN),))

    def __repr__(self) -> str:
        return "AdminTokenStore(***)"

    def grant(self, token: bytes) -> Grant:
        """See ``TokenStore``; takes the same time whatever the wrong token is."""
        if hmac.compare_digest(token, self._admin_token):
            return self._admin
        raise AuthenticationError("The token is not known.")


def load_or_create_admin_token(data_folder: Path, setting: str | None) -> str:
    """The administrator's token: the setting, else the file of the data folder, else a new one.

    A new token is written to ``admin_token`` in the data folder, readable by the owner only.
    Processes that start at the same moment agree on one token.

    Raises:
        ConfigError: The token is shorter than 16 characters or has white space in it, or the file
            cannot be read or written.
    """
    if setting is not None:
        return checked_secret(setting, "PIPEHOUSE_ADMIN_TOKEN")
    return kept_secret(data_folder / _TOKEN_FILE, "admin token", new_token())


def new_token() -> str:
    """A token that nobody can guess."""
    return "p." + secrets.token_urlsafe(32)
