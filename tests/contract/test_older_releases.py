"""Older releases that are supported: they lack what came later."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator
from pathlib import Path

import pytest
from msgspec import structs

from deploy.record import DeploymentRecord
from deploy.rollout import Rollout, plan_rollout
from deploy.throwaway import throwaway
from shared.clickhouse.contract import Insert, Statement
from shared.clickhouse.server import OLDEST, open_server
from shared.clickhouse.serverengine import ServerClickHouse
from shared.clock import SystemClock
from shared.datafile.project import load_project
from shared.errors import QueryError
from tests.standin.process import Standin

PROJECTS = Path(__file__).parents[2] / "deploy" / "projects"
DB = "older"


OLDEST_RELEASE = f"{OLDEST[0]}.{OLDEST[1]}.1"


@pytest.fixture(scope="module", params=[OLDEST_RELEASE, "26.1.1"])
def standin(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Standin]:
    options = ("--version", request.param)
    with Standin(tmp_path_factory.mktemp("older"), options=options) as running:
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


class Lines:
    """Rows in a form that only INSERT … SELECT … FROM input() can bring to a server."""

    row_count = 3

    def json_lines(self) -> Iterable[bytes]:
        return (b'{"n":1}\n{"n":2}\n{"n":3}\n',)


async def test_rows_that_are_selected_from_what_is_sent_are_stored_once(
    server: ServerClickHouse,
) -> None:
    window = "SETTINGS non_replicated_deduplication_window = 100"
    for sql in (
        f"CREATE OR REPLACE TABLE {DB}.t (n UInt32) ENGINE = MergeTree ORDER BY n {window}",
        f"CREATE OR REPLACE TABLE {DB}.v (n UInt32) ENGINE = MergeTree ORDER BY n {window}",
        f"CREATE MATERIALIZED VIEW IF NOT EXISTS {DB}.m TO {DB}.v AS SELECT n FROM {DB}.t",
    ):
        await server.execute(Statement(sql=sql))
    block = Insert(database=DB, table="t", columns=(("n", "UInt32"),), block=Lines(), token="once")
    for _ in range(2):
        await server.insert(block)
    await server.insert(structs.replace(block, token="twice"))
    counted = f"SELECT (SELECT count() FROM {DB}.t), (SELECT count() FROM {DB}.v)"
    assert (await server.fetch(Statement(sql=counted))).body == b"6\t6\n"


async def test_an_answer_that_fails_after_its_first_rows_says_why(server: ServerClickHouse) -> None:
    sql = "SELECT throwIf(number = 3000000, 'late') FROM numbers(4000000)"
    stream = await server.stream(Statement(sql=sql, format="TSV", settings={"max_threads": 1}))
    with pytest.raises(QueryError, match="late"):
        async for _ in stream:
            pass
    assert (await server.fetch(Statement(sql="SELECT 1"))).body == b"1\n"
