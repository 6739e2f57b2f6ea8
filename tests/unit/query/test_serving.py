from __future__ import annotations

import pytest

from query.serving import Serving
from shared.clickhouse.allowlist import Analysis
from shared.errors import NotFoundError
from shared.model.resources import Node, Pipe
from shared.model.workspace import Workspace


async def parse(sql: str) -> Analysis:
    raise AssertionError("nothing is parsed here")


def pipe(name: str, kind: str = "endpoint") -> Pipe:
    return Pipe(name=name, nodes=(Node(name="n", sql="SELECT 1", kind=kind),))  # type: ignore[arg-type]


def serving() -> Serving:
    found = Serving(parse)
    pipes = {"pages": pipe("pages"), "plain": pipe("plain", "standard")}
    found.replace(Workspace(pipes=pipes), {"broken": "broken.pipe:3:7: Unknown column."})
    return found


def test_an_endpoint_is_found_with_its_node() -> None:
    assert serving().endpoint("pages")[1].name == "n"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("page", r"Pipe 'page' not found. Did you mean 'pages'\?"),
        ("plain", "Pipe 'plain' has no endpoint. Add TYPE endpoint"),
        ("broken", "Pipe 'broken' is not served: broken.pipe:3:7: Unknown column. Mend"),
    ],
)
def test_what_cannot_be_served_says_why(name: str, message: str) -> None:
    with pytest.raises(NotFoundError, match=message):
        serving().endpoint(name)


def test_a_last_good_version_is_served_although_its_file_is_broken() -> None:
    found = serving()
    found.replace(Workspace(pipes={"pages": pipe("pages")}), {"pages": "pages.pipe:1:1: bad"})
    assert found.endpoint("pages")[0].name == "pages"


def test_every_planner_has_the_bounds_of_the_service() -> None:
    found = Serving(parse, max_threads=4)
    found.replace(Workspace(), {})
    assert found.planner.max_threads == 4
