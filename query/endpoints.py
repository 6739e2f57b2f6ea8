"""The endpoints that a token can read, with what their templates say of them; pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from msgspec import Struct, field

from query.columns import OutputColumn
from query.formats import FORMATS, OutputFormat
from query.parameters import merge_arguments
from query.template.compile import Template
from query.template.describe import Parameter, parameters
from shared.auth.tokens import (
    ADMIN,
    DATASOURCES_READ,
    PIPES_READ,
    WORKSPACE_READ_ALL,
    Grant,
)
from shared.model.resources import Node, Pipe
from shared.model.workspace import Workspace

TemplateOf = Callable[[Pipe, Node], Template]

_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_OWN_ERROR = re.compile(r"\bcustom_error\s*\(")
_PROMETHEUS_COLUMNS = frozenset({"name", "value"})


class Endpoint(Struct, frozen=True, kw_only=True):
    """What is known about one endpoint; ``columns`` is None where the engine did not tell.

    ``used_in`` has the nodes that ask for each parameter, those of other pipes as ``pipe.node``.
    ``has_own_errors``: a template of it chooses the body of some of its errors.
    """

    name: str
    description: str = ""
    tags: tuple[str, ...] = ()
    parameters: tuple[Parameter, ...] = ()
    used_in: Mapping[str, Sequence[str]] = field(default_factory=dict)
    columns: tuple[OutputColumn, ...] | None = None
    has_own_errors: bool = False


def readable_endpoints(workspace: Workspace, grant: Grant) -> list[Pipe]:
    """The pipes with an endpoint that a token can read, by name."""
    return [
        pipe
        for name, pipe in sorted(workspace.pipes.items())
        if pipe.endpoint is not None and grant.allows(PIPES_READ, name)
    ]


def describe_endpoint(
    workspace: Workspace,
    pipe: Pipe,
    template_of: TemplateOf,
    fixed: Iterable[str] = (),
) -> Endpoint:
    """What the templates say about an endpoint.

    Args:
        workspace: Where the pipes it reads are found.
        pipe: One that has an endpoint.
        template_of: Compiles the SQL of a node.
        fixed: Parameters that the token sets.
    """
    steps = list(_closure(workspace, pipe, pipe.answer))
    found = parameters(*(template_of(p, n) for p, n in steps if n.is_template))
    # A name that requests use for themselves never reaches a template.
    sendable = merge_arguments([(p.name, "") for p in found], None, {})
    hidden = set(fixed)
    used_in: dict[str, list[str]] = {}
    for owner, node in steps:
        place = node.name if owner is pipe else f"{owner.name}.{node.name}"
        for parameter in parameters(template_of(owner, node)) if node.is_template else ():
            used_in.setdefault(parameter.name, []).append(place)
    return Endpoint(
        name=pipe.name,
        description=pipe.description or pipe.answer.description,
        tags=pipe.tags,
        parameters=tuple(p for p in found if p.name in sendable and p.name not in hidden),
        used_in=used_in,
        has_own_errors=any(n.is_template and _OWN_ERROR.search(n.sql) for _, n in steps),
    )


def _closure(workspace: Workspace, pipe: Pipe, node: Node) -> Iterator[tuple[Pipe, Node]]:
    """The node and everything it may read, in the order of the files.

    A word of the SQL that is the name of a node or pipe counts as read. That is more than what is
    read at times, but it holds whatever branch a template takes.
    """
    waiting, seen = [(pipe, node)], {(pipe.name, node.name)}
    while waiting:
        pipe, node = waiting.pop(0)
        yield pipe, node
        local = {n.name: n for n in pipe.nodes}
        for word in dict.fromkeys(_WORD.findall(node.sql)):
            if word in local:
                read = (pipe, local[word])
            elif word in workspace.pipes:
                read = (workspace.pipes[word], workspace.pipes[word].answer)
            else:
                continue
            key = (read[0].name, read[1].name)
            if key not in seen:
                seen.add(key)
                waiting.append(read)


def may_use_sql(grant: Grant) -> bool:
    """Whether a token can read anything by free SQL."""
    readable = (ADMIN, WORKSPACE_READ_ALL, DATASOURCES_READ, PIPES_READ)
    return any(scope.type in readable for scope in grant.scopes)


def endpoint_formats(endpoint: Endpoint) -> list[OutputFormat]:
    """The formats an endpoint answers in; Prometheus asks for columns of certain names."""
    names = None if endpoint.columns is None else {c.name for c in endpoint.columns}
    return [
        format_
        for format_ in FORMATS.values()
        if format_.ending != "prometheus" or (names is not None and names >= _PROMETHEUS_COLUMNS)
    ]
