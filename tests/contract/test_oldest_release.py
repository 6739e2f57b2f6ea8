"""Example projects on the oldest release that is supported: it lacks what came later."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from deploy.record import DeploymentRecord
from deploy.rollout import Rollout, plan_rollout
from deploy.throwaway import throwaway
from shared.clickhouse.contract import Statement
from shared.clickhouse.server import OLDEST, open_server
from shared.clickhouse.serverengine import ServerClickHouse
from shared.clock import SystemClock
from shared.datafile.project import load_project
from tests.standin.process import Standin

PROJECTS = Path(__file__).parents[2] / "deploy" / "projects"
DB = "oldest"


@pytest.fixture(scope="module")
def standin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Standin]:
    version = f"{OLDEST[0]}.{OLDEST[1]}.1"
    with Standin(tmp_path_factory.mktemp("oldest"), options=("--version", version)) as running:
        yield running


@pytest.fixture
async def server(standin: Standin) -> AsyncIterator[ServerClickHouse]:
    outer = await open_server(standin.url())
    await outer.execute(Statement(sql=f"CREATE DATABASE IF NOT EXISTS {DB} ENGINE = Atomic"))
    await outer.close()
    server = await open_server(standin.url(database=DB))
    yield server
    await server.close()


async def test_the_example_projects_are_deployed(server: ServerClickHouse) -> None:
    folders = sorted(path for path in PROJECTS.iterdir() if path.is_dir())
    project = load_project(folders, {})
    async with throwaway(folders, {}) as checked:
        assert checked.released.is_clean, checked.released.diagnostics
        views = checked.released.views
    plan = await plan_rollout(server, project.workspace, views)
    assert "AggregatingMergeTree" in " ".join(step.sql for step in plan.steps)
    rollout = Rollout(server, DeploymentRecord(server), SystemClock(), lambda text: None)
    assert (await rollout.run(project, plan, views=views)).id is not None
    again = await plan_rollout(server, project.workspace, views)
    assert again.steps == ()
