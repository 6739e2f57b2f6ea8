"""Who may do what: scopes, the grant a token stands for, and the store that knows tokens."""

from __future__ import annotations

import hmac
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol, runtime_checkable

from msgspec import Struct, field

from shared.errors import AuthenticationError, ConfigError, PermissionDeniedError

ADMIN = "ADMIN"
DATASOURCES_APPEND = "DATASOURCES:APPEND"
DATASOURCES_READ = "DATASOURCES:READ"
PIPES_READ = "PIPES:READ"

_QUARANTINE_SUFFIX = "_quarantine"
_MIN_TOKEN_CHARS = 16
_TOKEN_FILE = "admin_token"


class Scope(Struct, frozen=True, kw_only=True):
    """One permission.

    ``resource`` is a data source or pipe, None for scopes that have none. ``filter`` is an SQL
    condition on the rows of a data source; ``fixed_params`` are parameters of an endpoint that
    the caller cannot change.
    """

    type: str
    resource: str | None = None
    filter: str | None = None
    fixed_params: Mapping[str, str] = field(default_factory=dict)

    def covers(self, type_: str, resource: str | None) -> bool:
        """Whether this permission allows that kind of access to the resource."""
        if self.type == ADMIN:
            return True
        if self.type != type_:
            return False
        if self.resource == resource:
            return True
        return (
            type_ == DATASOURCES_READ
            and resource is not None
            and resource.removesuffix(_QUARANTINE_SUFFIX) == self.resource
        )


class Grant(Struct, frozen=True, kw_only=True):
    """What the holder of a token may do; ``name`` is for logs, the token itself is not kept."""

    name: str
    scopes: tuple[Scope, ...]

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

    def fixed_params(self, pipe: str) -> Mapping[str, str]:
        """The parameters of an endpoint that this token sets, whatever the caller says."""
        fixed: dict[str, str] = {}
        for scope in self.scopes:
            if scope.type == PIPES_READ and scope.resource == pipe:
                fixed.update(scope.fixed_params)
        return fixed

    def row_filters(self) -> Mapping[str, tuple[str, ...]]:
        """SQL conditions by data source; a row is visible when any of its conditions holds.

        A data source that some scope opens without a condition is not listed, and an
        administrator sees everything.
        """
        if self.allows(ADMIN):
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
        """What the token stands for.

        Raises:
            AuthenticationError: The token is unknown or expired.
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
        return _checked(setting, "PIPEHOUSE_ADMIN_TOKEN")
    path = data_folder / _TOKEN_FILE
    try:
        if not path.exists():
            _create(path, "p." + secrets.token_urlsafe(32))
        path.chmod(0o600)
        return _checked(path.read_text("utf-8").strip(), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"The admin token cannot be kept in {path}: {error}.") from error


def _checked(token: str, origin: str) -> str:
    if len(token) < _MIN_TOKEN_CHARS:
        raise ConfigError(
            f"The token in {origin} has {len(token)} characters, "
            f"expected at least {_MIN_TOKEN_CHARS}."
        )
    if any(char.isspace() for char in token):
        raise ConfigError(f"The token in {origin} has white space in it.")
    return token


def _create(path: Path, token: str) -> None:
    """Write the file whole or not at all; one that appeared meanwhile stays."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(token + "\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(draft, path)
        except FileExistsError:
            return
    finally:
        draft.unlink()
