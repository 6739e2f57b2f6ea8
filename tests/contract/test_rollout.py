# ruff: noqa: ASYNC110 - what is waited for happens in the record

"""Deployments as other processes see them, on the real engine."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterable, Mapping

import pytest

from deploy.engine import Engine
from deploy.follow import Follower, NotDeployedError
from deploy.plan import Plan, Step
from deploy.record import Deployment, DeploymentRecord, DeploymentUnderWayError, hash_files
from deploy.rollout import DeploymentFailedError, RolledOut, Rollout, plan_rollout
from shared.clickhouse.contract import Statement
from shared.clock import Deadline, SystemClock
from shared.datafile.project import LoadedProject, parse_project
from shared.errors import DataLossRefusedError, UnavailableError
from shared.model.resources import Datasource
from shared.model.workspace import Workspace

CLOCK = SystemClock()


@pytest.fixture
def engine(each_engine: Engine) -> Engine:
    return each_engine


class RecordingIngestion:
    """Pauses and starts nothing, and remembers what runs."""

    def __init__(self, restless: Iterable[str] = ()) -> None:
        self.restless = set(restless)
        self.running: set[str] = set()

    async def pause(self, names: Iterable[str], deadline: Deadline) -> bool:
        names = set(names)
        self.running -= names
        return self.restless.isdisjoint(names)

    def start(self, datasources: Mapping[str, Datasource]) -> None:
        self.running |= datasources.keys()


class Installation:
    """A record, one process that follows it, and files to deploy; names of their own."""

    def __init__(self, engine: Engine, *, restless: bool = False) -> None:
        self.ev = "ev" + uuid.uuid4().hex[:8]
        self.engine = engine
        self.record = DeploymentRecord(engine)
        self.rollout = Rollout(engine, self.record, CLOCK, lambda text: None)
        self.ingestion = RecordingIngestion([self.ev] if restless else [])
        self.served = Workspace()
        self.follower = self.process("worker")

    def process(self, name: str) -> Follower:
        async def switch(workspace: Workspace, deployment: Deployment) -> None:
            self.served = workspace

        return Follower(
            self.record,
            {},
            switch,
            CLOCK,
            ingestion=self.ingestion,  # type: ignore[arg-type]
            name=name,
        )

    def project(self, columns: str = "n UInt32 `json:$.n`") -> LoadedProject:
        return parse_project([(f"{self.ev}.datasource", f"SCHEMA >\n    {columns}\n")])

    async def write_of_an_hour_ago(
        self, table: str, *, id: int = 0, worker: str = "", disturbs: Iterable[str] = ()
    ) -> None:
        """What a process said last that was killed then."""
        quoted = ",".join(f"'{name}'" for name in disturbs)
        columns, values = {
            "deployments": ("id, status, disturbs", f"{id}, 'applying', [{quoted}]"),
            "workers": ("worker", f"'{worker}'"),
        }[table]
        await self.engine.execute(
            Statement(
                sql=f"INSERT INTO pipehouse.{table} (database, at, {columns})"
                f" SELECT currentDatabase(), now64(3) - toIntervalHour(1), {values}"
            )
        )

    async def plan(self, project: LoadedProject) -> Plan:
        return await plan_rollout(self.engine, project.workspace, {})

    async def deploy(self, project: LoadedProject, *, take_over: bool = False) -> RolledOut:
        return await self.rollout.run(project, await self.plan(project), take_over=take_over)


@pytest.fixture
async def site(engine: Engine) -> AsyncIterator[Installation]:
    await engine.execute(Statement(sql="DROP DATABASE IF EXISTS pipehouse SYNC"))
    yield Installation(engine)


def wider(site: Installation) -> LoadedProject:
    return site.project("n UInt32 `json:$.n`, m String `json:$.m` DEFAULT ''")


async def test_before_the_first_deployment_nothing_is_served_and_that_is_said(
    site: Installation,
) -> None:
    follower = site.process("query")
    follower._ingestion = None
    await follower.turn()
    with pytest.raises(NotDeployedError, match="pipehouse deploy FOLDER"):
        await follower.check()


async def test_a_deployment_goes_live_in_a_process_at_its_next_look(site: Installation) -> None:
    await site.record.prepare()
    await site.follower.turn()
    done = await site.deploy(site.project())
    assert site.ev not in site.served.datasources
    await site.follower.turn()
    await site.follower.check()
    assert site.served.datasources[site.ev].columns[0].name == "n"
    assert site.follower.deployment == done.id
    assert site.ingestion.running == {site.ev}


async def test_deploying_the_same_files_again_does_nothing(site: Installation) -> None:
    assert (await site.deploy(site.project())).id is not None
    assert (await site.deploy(site.project())).id is None


async def test_the_record_has_files_hash_steps_and_time(site: Installation) -> None:
    project = site.project()
    await site.deploy(project)
    live = await site.record.live()
    assert live is not None
    assert live.files == project.files
    assert live.hash == hash_files(reversed(project.files))
    assert f"create table {site.ev}" in live.steps
    assert abs(live.at_ms - CLOCK.now_ms()) < 60_000


async def test_a_change_waits_until_the_worker_is_at_rest_and_it_goes_on_with_the_new_table(
    site: Installation,
) -> None:
    await site.record.prepare()
    await site.follower.turn()
    await site.deploy(site.project())
    await site.follower.turn()
    rolling = asyncio.create_task(site.deploy(wider(site)))
    while not await site.record.unfinished():
        await asyncio.sleep(0.01)
    assert not rolling.done()
    await site.follower.turn()
    assert site.ingestion.running == set()
    await rolling
    await site.follower.turn()
    assert site.ingestion.running == {site.ev}
    assert len(site.served.datasources[site.ev].columns) == 2


async def test_a_worker_that_does_not_come_to_rest_stops_the_deployment_and_goes_on(
    engine: Engine, site: Installation
) -> None:
    site = Installation(engine, restless=True)
    await site.record.prepare()
    await site.follower.turn()
    await site.deploy(site.project())
    await site.follower.turn()
    rolling = asyncio.create_task(site.deploy(wider(site)))
    while not await site.record.unfinished():
        await asyncio.sleep(0.01)
    await site.follower.turn()
    with pytest.raises(UnavailableError, match=site.ev):
        await rolling
    await site.follower.turn()
    assert site.ingestion.running == {site.ev}
    assert len(site.served.datasources[site.ev].columns) == 1


async def test_a_second_deployment_at_the_same_time_is_refused(site: Installation) -> None:
    await site.record.prepare()
    await site.record.write(Deployment(id=CLOCK.now_ms(), status="applying"))
    with pytest.raises(DeploymentUnderWayError, match="--take-over"):
        await site.deploy(site.project())
    assert (await site.deploy(site.project(), take_over=True)).id is not None


async def test_a_deployment_that_was_killed_half_way_keeps_its_data_sources_at_rest(
    site: Installation,
) -> None:
    await site.record.prepare()
    await site.follower.turn()
    await site.deploy(site.project())
    await site.follower.turn()
    await site.write_of_an_hour_ago("deployments", id=CLOCK.now_ms(), disturbs=[site.ev])
    await site.follower.turn()
    assert site.ingestion.running == set()
    # Run again, it does what is left, and everything goes on.
    await site.follower.turn()
    rolling = asyncio.create_task(site.deploy(wider(site)))
    while len(await site.record.unfinished()) < 2:
        await asyncio.sleep(0.01)
    await site.follower.turn()
    await rolling
    await site.follower.turn()
    assert site.ingestion.running == {site.ev}


async def test_a_step_that_clickhouse_refuses_is_told_and_what_it_disturbs_stays_at_rest(
    site: Installation,
) -> None:
    project = site.project()
    bad = Plan(
        steps=(Step(resource="x", summary="x", sql="ALTER TABLE nowhere ADD COLUMN a Int8"),)
    )
    with pytest.raises(DeploymentFailedError, match="nowhere"):
        await site.rollout.run(project, bad)
    (unfinished,) = await site.record.unfinished()
    assert unfinished.status == "halted"
    assert await site.record.live_id() == 0
    assert (await site.deploy(project)).id is not None
    assert await site.record.unfinished() == []


async def test_what_would_destroy_data_is_refused_before_anything_is_recorded(
    site: Installation,
) -> None:
    await site.deploy(site.project())
    with pytest.raises(DataLossRefusedError, match="n"):
        await site.deploy(site.project("n String `json:$.n`"))
    assert await site.record.unfinished() == []


async def test_a_worker_that_has_said_nothing_for_long_is_not_waited_for(
    site: Installation,
) -> None:
    await site.deploy(site.project())
    await site.write_of_an_hour_ago("workers", worker="gone")
    assert (await site.deploy(wider(site))).id is not None


async def test_a_worker_that_has_stopped_is_not_waited_for(site: Installation) -> None:
    await site.record.prepare()
    await site.follower.turn()
    await site.deploy(site.project())
    await site.follower.leave()
    assert await site.record.workers() == []
    assert (await site.deploy(wider(site))).id is not None
