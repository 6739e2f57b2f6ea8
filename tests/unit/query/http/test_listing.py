from __future__ import annotations

from typing import Any

import pytest

from query.http.listing import pipe_details, pipe_list, resource_id
from query.template.compile import Template, compile_template
from shared.auth.tokens import ADMIN, PIPES_READ, Grant, Scope
from shared.errors import NotFoundError, PermissionDeniedError
from shared.model.resources import Node, Pipe
from shared.model.workspace import Workspace


def pipe(name: str, kind: str = "endpoint") -> Pipe:
    first = Node(name="first", sql="SELECT {{Int32(a, 1)}} AS a", is_template=True)
    last = Node(name="last", sql="SELECT * FROM first", kind=kind)  # type: ignore[arg-type]
    return Pipe(name=name, nodes=(first, last), description="Text.", tags=("t",))


WORKSPACE = Workspace(pipes={"b": pipe("b"), "a": pipe("a"), "view": pipe("view", "materialized")})
ALL = Grant(name="admin", scopes=(Scope(type=ADMIN),))


def template(pipe: Pipe, node: Node) -> Template:
    return compile_template(node.sql)


def reader(*pipes: str) -> Grant:
    return Grant(name="r", scopes=tuple(Scope(type=PIPES_READ, resource=p) for p in pipes))


def test_who_may_read_everything_sees_every_pipe_with_its_sql() -> None:
    pipes = pipe_list(WORKSPACE, ALL, template)["pipes"]
    assert [(p["name"], p["type"], p["url"]) for p in pipes] == [
        ("a", "endpoint", "/v0/pipes/a.json"),
        ("b", "endpoint", "/v0/pipes/b.json"),
        ("view", "materialized", None),
    ]
    nodes: object = pipes[0]["nodes"]
    assert isinstance(nodes, list)
    assert [n["sql"] for n in nodes] == ["%\nSELECT {{Int32(a, 1)}} AS a", "SELECT * FROM first"]
    assert [[p["name"] for p in n["params"]] for n in nodes] == [[], ["a"]]


def test_a_parameter_is_listed_with_what_its_template_says_and_where() -> None:
    sql = "SELECT {{Int32(a, 1, description='How many', enum=[1, 2], example='2', format='n')}}"
    nodes = (
        Node(name="first", sql=sql, is_template=True),
        Node(
            name="last", sql="SELECT {{Int32(a, 1)}} FROM first", is_template=True, kind="endpoint"
        ),
    )
    reading = Node(name="n", sql="SELECT * FROM own", kind="endpoint")
    workspace = Workspace(
        pipes={
            "own": Pipe(name="own", nodes=nodes),
            "reading": Pipe(name="reading", nodes=(reading,)),
        }
    )

    def listed(name: str, grant: Grant) -> dict[str, object]:
        shown: Any = pipe_details(workspace, name, grant, template)
        return dict(shown["nodes"][-1]["params"][0])

    expected = {
        "name": "a",
        "type": "Int32",
        "default": 1,
        "required": False,
        "description": "How many",
        "enum": ["1", "2"],
        "example": "2",
        "format": "n",
    }
    assert listed("own", ALL) == {**expected, "used_in": ["last", "first"]}
    assert listed("reading", ALL) == {**expected, "used_in": ["own.last", "own.first"]}
    assert listed("reading", reader("reading")) == {**expected, "used_in": []}


def test_who_may_read_one_endpoint_sees_that_one_without_its_sql() -> None:
    (shown,) = pipe_list(WORKSPACE, reader("b", "view"), template)["pipes"]
    assert shown["name"] == "b"
    assert "SELECT" not in str(shown)


def test_a_pipe_is_found_by_its_id_as_well() -> None:
    shown = pipe_details(WORKSPACE, resource_id("pipe", "a"), ALL, template)
    assert shown == pipe_details(WORKSPACE, "a", ALL, template)


def test_what_the_token_may_not_read_is_refused_before_it_is_looked_for() -> None:
    for name in ("b", "nothing", resource_id("pipe", "b")):
        with pytest.raises(PermissionDeniedError):
            pipe_details(WORKSPACE, name, reader("a"), template)
    with pytest.raises(NotFoundError, match="Did you mean"):
        pipe_details(WORKSPACE, "vieww", ALL, template)
    with pytest.raises(NotFoundError, match="no endpoint"):
        pipe_details(WORKSPACE, "view", reader("view"), template)
