"""A token as it is kept, and what becomes of it; pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from msgspec import Struct, field, structs

from shared.auth.scopes import merge_scopes
from shared.auth.tokens import (
    DATASOURCES_APPEND,
    DATASOURCES_READ,
    PIPES_READ,
    Grant,
    GrantLimits,
    Scope,
)
from shared.errors import BadRequestError
from shared.model.workspace import Workspace

ADMIN_NAME = "workspace admin token"
SELF = "me"

_RESERVED = frozenset({ADMIN_NAME, SELF, "admin"})
_MAX_NAME_CHARS = 200
_MAX_DESCRIPTION_CHARS = 2000


class Origin(Struct, frozen=True):
    """Where a token comes from: ``C`` the API, ``DS`` or ``P`` a datafile, with its resource."""

    type: str = "C"
    resource_name: str | None = None


class Details(Struct, frozen=True, kw_only=True):
    """The part of a token that can be changed; times are milliseconds since 1970.

    ``scopes`` were given through the API, ``file_scopes`` by datafiles: each side changes its own.
    """

    description: str = ""
    scopes: tuple[Scope, ...] = ()
    file_scopes: tuple[Scope, ...] = ()
    origin: Origin = Origin()
    limits: GrantLimits = GrantLimits()
    created_at_ms: int = 0
    updated_at_ms: int = 0


class TokenRecord(Struct, frozen=True, kw_only=True):
    """One token; the name is unique in its workspace, the id stays for good.

    ``sealed`` is the token encrypted and bound to the id, ``digest`` what it is looked up by.
    """

    id: str
    name: str
    digest: str
    sealed: str
    details: Details = field(default_factory=Details)

    @property
    def scopes(self) -> tuple[Scope, ...]:
        """Everything the token may do."""
        return merge_scopes((*self.details.scopes, *self.details.file_scopes))

    @property
    def grant(self) -> Grant:
        """What its holder may do."""
        return Grant(name=self.name, scopes=self.scopes, id=self.id, limits=self.details.limits)


class FileToken(Struct, frozen=True):
    """What the datafiles say of one token: its scopes, and the resource that named it first."""

    scopes: tuple[Scope, ...]
    origin: Origin


def checked_name(name: str) -> str:
    """The name of a new token.

    Raises:
        BadRequestError: It is empty, too long, reserved, or would not fit into a path.
    """
    plain = name.strip()
    if not plain:
        raise BadRequestError("The token has no name.", hint="Add name=….")
    if len(plain) > _MAX_NAME_CHARS:
        raise BadRequestError(f"The name of a token has at most {_MAX_NAME_CHARS} characters.")
    if is_reserved(plain):
        raise BadRequestError(f"The name '{plain}' is reserved.", hint="Choose another.")
    if "/" in plain or not plain.isprintable():
        raise BadRequestError("The name of a token has neither slashes nor control characters.")
    return plain


def checked_description(description: str) -> str:
    """A description of bearable length.

    Raises:
        BadRequestError: It is too long.
    """
    if len(description) > _MAX_DESCRIPTION_CHARS:
        raise BadRequestError(f"A description has at most {_MAX_DESCRIPTION_CHARS} characters.")
    return description


def is_reserved(name: str) -> bool:
    """Whether the name means something else already."""
    return name in _RESERVED


def file_tokens(workspace: Workspace) -> dict[str, FileToken]:
    """The tokens that datafiles name, each with the scopes of all its lines."""
    found: dict[str, FileToken] = {}

    def add(name: str, scope: Scope, kind: str) -> None:
        before = found.get(name) or FileToken((), Origin(kind, scope.resource))
        found[name] = FileToken(merge_scopes((*before.scopes, scope)), before.origin)

    for datasource in workspace.datasources.values():
        for line in datasource.tokens:
            type_ = DATASOURCES_APPEND if line.permission == "APPEND" else DATASOURCES_READ
            add(line.name, Scope(type=type_, resource=datasource.name), "DS")
    for pipe in workspace.pipes.values():
        for line in pipe.tokens:
            add(line.name, Scope(type=PIPES_READ, resource=pipe.name), "P")
    return found


def changed_by_files(
    known: Iterable[TokenRecord], wanted: Mapping[str, FileToken]
) -> list[TokenRecord]:
    """The known tokens whose lines in datafiles have changed, with the scopes they have now.

    One that no file names any more keeps its secret and what the API gave it, nothing else.
    """
    changed = []
    for record in known:
        lines = wanted.get(record.name)
        scopes = lines.scopes if lines is not None else ()
        if set(map(repr, scopes)) != set(map(repr, record.details.file_scopes)):
            details = structs.replace(record.details, file_scopes=scopes)
            changed.append(structs.replace(record, details=details))
    return changed
