"""What ``GET /v0/pipes`` and ``GET /v0/pipes/<name>`` say of pipes; pure.

Names, parameters and URLs are shown to whoever may read an endpoint. The SQL behind it is shown to
those only who may read everything.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from query.endpoints import Endpoint, TemplateOf, describe_endpoint, readable_endpoints
from query.template.describe import Parameter
from shared.auth.tokens import ANY_RESOURCE, PIPES_READ, Grant
from shared.errors import NotFoundError, PermissionDeniedError
from shared.model.resources import Node, Pipe
from shared.model.workspace import Workspace

_ID_PREFIX = "t_"
_TYPES = {"standard": "default", "materialized": "materialized", "copy": "copy", "sink": "sink"}


def resource_id(kind: str, name: str) -> str:
    """An id that stays the same for as long as the name does."""
    return _ID_PREFIX + hashlib.blake2b(f"{kind}:{name}".encode(), digest_size=16).hexdigest()


def pipe_name(workspace: Workspace, name_or_id: str) -> str:
    """The name of a pipe that is given by name or id; what is no id is taken for a name."""
    if not name_or_id.startswith(_ID_PREFIX) or name_or_id in workspace.pipes:
        return name_or_id
    ids = {resource_id("pipe", found): found for found in workspace.pipes}
    return ids.get(name_or_id, name_or_id)


def pipe_list(
    workspace: Workspace, grant: Grant, template_of: TemplateOf
) -> dict[str, list[dict[str, object]]]:
    """Every pipe that the token may know of, by name."""
    readable = (
        [pipe for _, pipe in sorted(workspace.pipes.items())]
        if _sees_all(grant)
        else readable_endpoints(workspace, grant)
    )
    return {"pipes": [_pipe(workspace, pipe, grant, template_of) for pipe in readable]}


def pipe_details(
    workspace: Workspace, name: str, grant: Grant, template_of: TemplateOf
) -> dict[str, object]:
    """One pipe, by name or id.

    Raises:
        PermissionDeniedError: The token may not know of it; said before whether there is one.
        NotFoundError: There is none.
    """
    name = pipe_name(workspace, name)
    if not grant.allows(PIPES_READ, name):
        raise PermissionDeniedError(f"The token lacks the scope {PIPES_READ}:{name}.")
    pipe = workspace.pipe(name)
    if pipe.endpoint is None and not _sees_all(grant):
        raise NotFoundError(f"Pipe '{name}' has no endpoint.")
    return _pipe(workspace, pipe, grant, template_of)


def _sees_all(grant: Grant) -> bool:
    return grant.allows(PIPES_READ, ANY_RESOURCE)


def _pipe(
    workspace: Workspace, pipe: Pipe, grant: Grant, template_of: TemplateOf
) -> dict[str, object]:
    endpoint = pipe.endpoint
    said = describe_endpoint(workspace, pipe, template_of, grant.fixed_params(pipe.name))
    nodes: Sequence[Node] = pipe.nodes if _sees_all(grant) else (pipe.answer,)
    return {
        "id": resource_id("pipe", pipe.name),
        "name": pipe.name,
        "description": pipe.description,
        "type": "endpoint" if endpoint else _TYPES.get(pipe.answer.kind, pipe.answer.kind),
        "endpoint": _node_id(pipe, endpoint) if endpoint else None,
        "url": f"/v0/pipes/{pipe.name}.json" if endpoint else None,
        "tags": list(pipe.tags),
        "nodes": [_node(pipe, node, said, grant) for node in nodes],
    }


def _node(pipe: Pipe, node: Node, said: Endpoint, grant: Grant) -> dict[str, object]:
    parameters = said.parameters if node is pipe.answer else ()
    # Where else a parameter is used tells names of pipes that not everybody may know.
    used_in = said.used_in if _sees_all(grant) else {}
    shown: dict[str, object] = {
        "id": _node_id(pipe, node),
        "name": node.name,
        "description": node.description,
        "node_type": node.kind,
        "params": [_parameter(p, used_in.get(p.name, ())) for p in parameters],
    }
    if _sees_all(grant):
        shown["sql"] = f"%\n{node.sql}" if node.is_template else node.sql
    return shown


def _parameter(parameter: Parameter, used_in: Sequence[str]) -> Mapping[str, object]:
    return {
        "name": parameter.name,
        "type": parameter.type,
        "default": parameter.default,
        "required": parameter.required,
        "description": parameter.description,
        "enum": list(parameter.enum) or None,
        "example": parameter.example,
        "format": parameter.format,
        "used_in": list(used_in),
    }


def _node_id(pipe: Pipe, node: Node) -> str:
    return resource_id("node", f"{pipe.name}.{node.name}")
