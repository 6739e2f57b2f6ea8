"""Scopes as text (``DATASOURCES:READ:events:tenant = 1``) and as objects of JSON; pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import msgspec
from msgspec import Struct, field

from shared.auth.tokens import (
    ADMIN,
    ANY_RESOURCE,
    DATASOURCES_APPEND,
    DATASOURCES_CREATE,
    DATASOURCES_DROP,
    DATASOURCES_READ,
    PIPES_READ,
    TOKENS,
    WORKSPACE_DEPLOY,
    WORKSPACE_READ_ALL,
    Scope,
)
from shared.errors import BadRequestError
from shared.model.workspace import did_you_mean

_WITHOUT_RESOURCE = frozenset(
    {ADMIN, TOKENS, WORKSPACE_READ_ALL, WORKSPACE_DEPLOY, "ORG_DATASOURCES:READ", "PIPES:CREATE"}
)
_WITH_RESOURCE = frozenset(
    {DATASOURCES_READ, DATASOURCES_APPEND, DATASOURCES_DROP, PIPES_READ, "PIPES:DROP"}
)
# With a resource they are about that one only.
_EITHER = frozenset({DATASOURCES_CREATE})

SCOPE_TYPES = tuple(sorted(_WITHOUT_RESOURCE | _WITH_RESOURCE | _EITHER))

JWT_SCOPE_TYPES = frozenset({PIPES_READ, DATASOURCES_READ, DATASOURCES_APPEND})

_RESOURCE = re.compile(r"\*|[A-Za-z_][A-Za-z0-9_.-]*")


class ScopeObject(Struct, frozen=True, kw_only=True):
    """A scope as JSON says it; an empty resource counts as not given."""

    type: str
    resource: str | None = None
    filter: str | None = None
    fixed_params: dict[str, object] | None = field(default_factory=dict)


def parse_scope(text: str) -> Scope:
    """Read ``TYPE[:resource[:filter]]``; the filter may have colons of its own.

    Raises:
        BadRequestError: It is not a scope that exists.
    """
    parts = text.split(":", 2)
    type_ = next((t for t in (":".join(parts[:2]), parts[0]) if t in SCOPE_TYPES), None)
    if type_ is None:
        raise _unknown_type(":".join(parts[:2]))
    rest = text[len(type_) + 1 :]
    resource, colon, condition = rest.partition(":")
    return checked_scope(
        Scope(type=type_, resource=resource or None, filter=condition if colon else None)
    )


def scope_text(scope: Scope) -> str:
    """The text form; what ``parse_scope`` reads. Fixed parameters have none."""
    parts = (scope.type, scope.resource, scope.filter)
    return ":".join(part for part in parts if part is not None)


def scope_from_object(value: ScopeObject) -> Scope:
    """Read the JSON form.

    Raises:
        BadRequestError: It is not a scope that exists.
    """
    return checked_scope(
        Scope(
            type=value.type,
            resource=value.resource or None,
            filter=_given_filter(value),
            fixed_params=value.fixed_params or {},
        )
    )


def _given_filter(value: ScopeObject) -> str | None:
    """The filter; an empty one is kept, and refused, where taking it for none would open rows."""
    return value.filter if value.type == DATASOURCES_READ else value.filter or None


def scope_object(scope: Scope) -> dict[str, object]:
    """The JSON form, without what the scope does not say."""
    found = msgspec.to_builtins(scope)
    return {name: value for name, value in found.items() if value not in (None, {})}


def checked_scope(scope: Scope) -> Scope:
    """The scope, where its parts fit together.

    Raises:
        BadRequestError: They do not.
    """
    if scope.type not in SCOPE_TYPES:
        raise _unknown_type(scope.type)
    if scope.resource is None:
        if scope.type in _WITH_RESOURCE:
            raise BadRequestError(
                f"The scope {scope.type} needs a resource.", hint=f"Write {scope.type}:<name>."
            )
    elif scope.type in _WITHOUT_RESOURCE:
        raise BadRequestError(f"The scope {scope.type} takes no resource.")
    elif not _RESOURCE.fullmatch(scope.resource):
        raise BadRequestError(f"'{scope.resource}' is not the name of a resource.")
    _check_filter(scope)
    if scope.fixed_params and scope.type != PIPES_READ:
        raise BadRequestError(f"The scope {scope.type} takes no fixed_params, {PIPES_READ} does.")
    for name, value in scope.fixed_params.items():
        if value is None:
            # To a template it would be a parameter that was not sent: every row, mostly.
            raise BadRequestError(f"The fixed parameter '{name}' of '{scope.resource}' is null.")
    return scope


def merge_scopes(scopes: Iterable[Scope]) -> tuple[Scope, ...]:
    """The scopes in order, each once."""
    found: list[Scope] = []
    for scope in scopes:
        if scope not in found:
            found.append(scope)
    return tuple(found)


def unknown_resources(
    scopes: Iterable[Scope], datasources: Mapping[str, object], pipes: Mapping[str, object]
) -> list[str]:
    """What is wrong with the resources that scopes name: one line for each that does not exist."""
    problems = []
    for scope in scopes:
        name = scope.resource
        if name is None or name == ANY_RESOURCE or scope.type == DATASOURCES_CREATE:
            continue
        known, kind = (
            (pipes, "Pipe") if scope.type.startswith("PIPES") else (datasources, "Data source")
        )
        if name not in known and name.removesuffix("_quarantine") not in datasources:
            hint = did_you_mean(name, known)
            problems.append(f"{kind} '{name}' not found." + (f" {hint}" if hint else ""))
    return problems


def _check_filter(scope: Scope) -> None:
    if scope.filter is None:
        return
    if scope.type != DATASOURCES_READ:
        raise BadRequestError(f"The scope {scope.type} takes no row filter.")
    if scope.resource == ANY_RESOURCE:
        raise BadRequestError("A row filter needs a data source by name, not '*'.")
    if not scope.filter.strip():
        raise BadRequestError(f"The row filter of '{scope.resource}' is empty.")


def _unknown_type(text: str) -> BadRequestError:
    hint = did_you_mean(text.upper(), SCOPE_TYPES) or f"There are {', '.join(SCOPE_TYPES)}."
    return BadRequestError(f"'{text}' is not a scope.", hint=hint)
