"""Deployments and those who follow them, when processes are suspended, killed or misconfigured."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Collection, Iterable, Mapping

import pytest

from deploy.follow import Follower, IncompleteError
from deploy.open_ranges import open_ranges
from deploy.operate.services import Feed, prefixed_feed
from deploy.plan import Plan, Step
from deploy.record import Deployment, DeploymentRecord, DeploymentUnderWayError, Worker
from deploy.rollout import Rollout, plan_rollout
from ingest.chunk import Chunk, Partition
from ingest.log.facts import LogTraits, PartitionFacts, Position
from ingest.messages import Intent, Metadata
from shared.clickhouse.contract import Statement
from shared.clickhouse.embedded import EmbeddedClickHouse
from shared.clock import Deadline, SystemClock
from shared.datafile.project import LoadedProject, parse_project
from shared.errors import UnavailableError
from shared.model.resources import Datasource
from shared.model.workspace import Workspace

CLOCK = SystemClock()
CONNECTION = """TYPE kafka
KAFKA_BOOTSTRAP_SERVERS {servers}
KAFKA_SECURITY_PROTOCOL SASL_SSL
KAFKA_SASL_MECHANISM PLAIN
KAFKA_KEY key
KAFKA_SECRET {secret}
"""
FED = """SCHEMA >
    n UInt32 `json:$.n`

KAFKA_CONNECTION_NAME broker
KAFKA_TOPIC clicks
KAFKA_GROUP_ID {group}
"""


class StubbornIngestion:
    """Comes to rest only at the second try; remembers what runs and every pause."""

    def __init__(self, restless: Collection[str] = ()) -> None:
        self.restless = set(restless)
        self.running: dict[str, Datasource] = {}
        self.paused: list[str] = []

    async def pause(self, names: Iterable[str], deadline: Deadline) -> bool:
        names = set(names)
        self.paused += names
        was_running = names & self.running.keys()
        for name in names:
            self.running.pop(name, None)
        # A range is completed while its pipeline runs, never while it stands.
        came_to_rest = self.restless.isdisjoint(names)
        self.restless -= was_running
        return came_to_rest

    def start(self, datasources: Mapping[str, Datasource]) -> None:
        self.running.update(datasources)


class Site:
    """A record and one process that follows it; names of their own."""

    def __init__(self, engine: EmbeddedClickHouse) -> None:
        self.ev = "ev" + uuid.uuid4().hex[:8]
        self.engine = engine
        self.record = DeploymentRecord(engine)
        self.ingestion = StubbornIngestion()
        self.environ: dict[str, str] = {}
        self.served = Workspace()
        self.follower = self.process(self.ingestion, answers=False)

    def process(self, ingestion: StubbornIngestion | None, *, answers: bool = True) -> Follower:
        async def switch(workspace: Workspace, deployment: Deployment) -> None:
            self.served = workspace

        return Follower(
            self.record,
            self.environ,
            switch,
            CLOCK,
            ingestion=ingestion,  # type: ignore[arg-type]
            answers=answers,
            name="worker",
        )

    def rollout(self) -> Rollout:
        return Rollout(self.engine, self.record, CLOCK, lambda text: None)

    def project(self, columns: str = "n UInt32 `json:$.n`") -> LoadedProject:
        return parse_project([(f"{self.ev}.datasource", f"SCHEMA >\n    {columns}\n")])

    async def deploy(self, project: LoadedProject) -> int:
        plan = await plan_rollout(self.engine, project.workspace, {})
        done = await self.rollout().run(project, plan, views={})
        assert done.id is not None
        return done.id

    async def live(self, *files: tuple[str, str]) -> None:
        """Make files live as they stand, whatever can be made of them."""
        id_ = await self.record.last_id() + 1
        await self.record.write(Deployment(id=id_, status="live", files=files))


@pytest.fixture
async def site(engine: EmbeddedClickHouse) -> AsyncIterator[Site]:
    await engine.execute(Statement(sql="DROP DATABASE IF EXISTS pipehouse SYNC"))
    site = Site(engine)
    await site.record.prepare()
    yield site


WIDER = "n UInt32 `json:$.n`, m String `json:$.m` DEFAULT ''"


# Deploying ----------------------------------------------------------------------------------------


async def test_a_deployment_from_a_machine_whose_clock_is_behind_supersedes_those_before_it(
    site: Site,
) -> None:
    ahead = CLOCK.now_ms() + 3_600_000
    await site.record.write(Deployment(id=ahead, status="halted", disturbs=(site.ev,)))
    assert await site.deploy(site.project()) == ahead + 1
    assert await site.record.unfinished() == []


async def test_of_two_deployments_with_one_id_only_one_goes_on(site: Site) -> None:
    now = CLOCK.now_ms()
    for owner in ("a", "b"):
        await site.record.write(Deployment(id=now, owner=owner, status="begun"))
    await site.record.write(Deployment(id=now, owner="b", status="failed"))
    (left,) = await site.record.unfinished()
    assert (left.id, left.owner) == (now, "a")


async def test_a_deployment_that_slept_while_another_took_over_does_no_further_step(
    site: Site,
) -> None:
    project = site.project()
    taken: list[int] = []

    async def another_takes_over(names: Collection[str]) -> None:
        id_ = await site.record.last_id() + 1
        await site.record.write(Deployment(id=id_, status="applying"))
        taken.append(id_)

    rollout = Rollout(site.engine, site.record, CLOCK, lambda text: None, rest=another_takes_over)
    table = f"{site.ev}_made_too_late"
    step = Step(
        resource=table,
        summary="x",
        sql=f"CREATE TABLE {table} (a Int8) ENGINE = Null",
        disturbs=(site.ev,),
    )
    with pytest.raises(DeploymentUnderWayError, match=r"has taken over"):
        await rollout.run(project, Plan(steps=(step,)))
    found = await site.engine.fetch(Statement(sql=f"EXISTS TABLE {table}", format="TSV"))
    assert found.body.strip() == b"0"
    assert await site.record.live_id() == 0
    (other, own) = sorted(await site.record.unfinished(), key=lambda d: d.id not in taken)
    assert (other.status, own.status) == ("applying", "halted")


async def test_a_plan_that_is_out_of_date_is_not_carried_out(site: Site) -> None:
    project = site.project(WIDER)
    plan = await plan_rollout(site.engine, project.workspace, {})
    await site.deploy(site.project())
    with pytest.raises(DeploymentUnderWayError, match="run it again"):
        await site.rollout().run(project, plan, views={})
    assert await site.record.unfinished() == []


async def test_an_insert_that_a_killed_worker_left_in_the_server_is_waited_for(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    await site.deploy(site.project())
    asked: list[str] = []
    left = [f"ph1:{site.ev}:0:w:1-2:x", f"ph1:{site.ev}:0:w:1-2:x"]

    async def running(prefix: str) -> tuple[str, ...]:
        asked.append(prefix)
        return (left.pop(),) if left else ()

    monkeypatch.setattr(site.engine, "running", running)
    await site.deploy(site.project(WIDER))
    assert asked == [f"ph1:{site.ev}:"] * 3


async def test_what_the_log_says_to_be_open_stops_a_deployment_before_its_first_step(
    site: Site,
) -> None:
    await site.deploy(site.project())

    async def open_(names: Collection[str]) -> None:
        raise UnavailableError(f"Ranges are open: {sorted(names)}")

    project = site.project(WIDER)
    plan = await plan_rollout(site.engine, project.workspace, {})
    rollout = Rollout(site.engine, site.record, CLOCK, lambda text: None, rest=open_)
    with pytest.raises(UnavailableError, match=site.ev):
        await rollout.run(project, plan)
    assert await site.record.unfinished() == []
    assert await plan_rollout(site.engine, project.workspace, {}) == plan


async def test_the_live_deployment_keeps_its_files_and_the_history_leaves_them_out(
    site: Site,
) -> None:
    await site.live(("a.datasource", "SCHEMA >\n    n Int8\n"))
    await site.live(("b.datasource", "SCHEMA >\n    n Int8\n"))
    live = await site.record.live()
    assert live is not None and [path for path, _ in live.files] == ["b.datasource"]
    assert [d.files for d in await site.record.history()] == [(), ()]


# Open ranges --------------------------------------------------------------------------------------


class FakeLog:
    """One topic whose group has committed this."""

    def __init__(self, committed: Mapping[int, Position]) -> None:
        self._committed = committed

    async def positions(self, group: str, topic: str) -> Mapping[int, Position]:
        assert (group, topic) == ("g.clicks", "t.clicks")
        return self._committed

    async def partitions(self, topic: str) -> list[PartitionFacts]:
        raise NotImplementedError

    async def read(self, partition: Partition, first: int, next_: int) -> list[Chunk]:
        raise NotImplementedError

    async def move(self, group: str, partition: Partition, position: Position) -> None:
        raise NotImplementedError

    async def traits(self, topic: str) -> LogTraits:
        raise NotImplementedError


def committed(offset: int, next_: int | None) -> Position:
    intent = None if next_ is None else Intent(next=next_, at_ms=0, boot="", schema="")
    metadata = Metadata(version=1, stream=7, walk="w", intent=intent)
    return Position(offset=offset, metadata=metadata.encode())


async def test_open_ranges_are_named_with_partition_and_offsets() -> None:
    log = FakeLog(
        {1: committed(100, 250), 0: committed(9, None), 2: Position(offset=3, metadata="")}
    )
    found, unknown = await open_ranges(
        prefixed_feed("t.", "g.", log), [Datasource(name="clicks", columns=())]
    )
    assert found == ["clicks partition 1, offsets 100-249"]
    assert unknown == []


async def test_a_log_that_is_not_known_is_said() -> None:
    def feed(datasource: Datasource) -> Feed:
        return Feed(topic="t", group="g", log=None)

    assert await open_ranges(feed, [Datasource(name="clicks", columns=())]) == ([], ["clicks"])


# Following ----------------------------------------------------------------------------------------


async def test_what_did_not_come_to_rest_for_a_killed_deployment_is_tried_again_for_the_next(
    site: Site,
) -> None:
    await site.follower.turn()
    await site.deploy(site.project())
    await site.follower.turn()
    site.ingestion.restless = {site.ev}
    # Killed before it could say that it failed.
    first = await site.record.last_id() + 1
    await site.record.write(Deployment(id=first, status="begun", disturbs=(site.ev,)))
    await site.follower.turn()
    (said,) = await site.record.workers()
    assert (said.pausing, said.restless) == (first, (site.ev,))
    await site.record.write(Deployment(id=first + 1, status="begun", disturbs=(site.ev,)))
    await site.follower.turn()
    (said,) = await site.record.workers()
    assert (said.pausing, said.paused, said.restless) == (first + 1, (site.ev,), ())


async def test_a_pipeline_starts_anew_when_only_its_connection_changed(site: Site) -> None:
    await site.follower.turn()
    data = ("clicks.datasource", FED.format(group="g"))
    await site.live(data, ("broker.connection", CONNECTION.format(servers="a:9092", secret="s")))
    await site.follower.turn()
    assert site.ingestion.paused == []
    await site.live(data, ("broker.connection", CONNECTION.format(servers="b:9092", secret="s")))
    await site.follower.turn()
    assert site.ingestion.paused == ["clicks"]
    assert site.ingestion.running.keys() == {"clicks"}


async def test_a_data_source_that_is_gone_from_the_files_is_read_no_more(site: Site) -> None:
    await site.follower.turn()
    await site.live(("a.datasource", "SCHEMA >\n    n Int8 `json:$.n`\n"))
    await site.follower.turn()
    await site.live(("b.datasource", "SCHEMA >\n    n Int8 `json:$.n`\n"))
    await site.follower.turn()
    assert site.ingestion.paused == ["a"]
    assert site.ingestion.running.keys() == {"b"}


async def test_a_worker_without_a_secret_that_is_new_goes_on_as_before_and_stays_ready(
    site: Site,
) -> None:
    await site.follower.turn()
    data = ("clicks.datasource", FED.format(group="g"))
    await site.live(data, ("broker.connection", CONNECTION.format(servers="a:9092", secret="s")))
    await site.follower.turn()
    before = site.served.connections["broker"]
    secret = '{{ tb_secret("NEW") }}'
    await site.live(data, ("broker.connection", CONNECTION.format(servers="b:9092", secret=secret)))
    await site.follower.turn()
    assert site.served.connections["broker"] == before
    assert site.ingestion.paused == []
    await site.follower.check()


async def test_a_worker_that_starts_without_a_secret_is_not_ready_and_says_which(
    site: Site,
) -> None:
    secret = '{{ tb_secret("NEW") }}'
    await site.live(
        ("clicks.datasource", FED.format(group=secret)),
        ("good.datasource", "SCHEMA >\n    n Int8 `json:$.n`\n"),
    )
    await site.follower.turn()
    # Never under a name that is the text of a template.
    assert site.ingestion.running.keys() == {"good"}
    with pytest.raises(IncompleteError, match=r"clicks\.datasource:.*'NEW' is not set"):
        await site.follower.check()
    site.environ["NEW"] = "group"
    await site.live(("clicks.datasource", FED.format(group=secret)))
    await site.follower.turn()
    await site.follower.check()
    assert site.ingestion.running["clicks"].kafka is not None


async def test_a_reader_needs_no_secrets_of_kafka(site: Site) -> None:
    secret = '{{ tb_secret("NEW") }}'
    await site.live(
        ("clicks.datasource", FED.format(group=secret)),
        ("broker.connection", CONNECTION.format(servers="a:9092", secret=secret)),
    )
    reader = site.process(None)
    await reader.turn()
    await reader.check()
    assert site.served.datasources.keys() == {"clicks"}


ENDPOINT = "NODE a\nSQL >\n    %\n    SELECT {}\nTYPE endpoint\n"


async def test_a_reader_that_starts_without_a_secret_of_a_template_is_not_ready_and_says_which(
    site: Site,
) -> None:
    reader = site.process(None)
    await site.live(
        ("keyed.pipe", ENDPOINT.format("{{tb_secret('NEW')}}")),
        ("good.pipe", ENDPOINT.format("{{tb_secret('NEW', 'd')}}")),
    )
    await reader.turn()
    assert site.served.pipes.keys() == {"good"}
    assert reader.missing_pipes == {"keyed": "keyed.pipe:4:14: Secret 'NEW' is not set."}
    with pytest.raises(IncompleteError, match=r"keyed\.pipe:4:14: Secret 'NEW' is not set"):
        await reader.check()
    # Who renders nothing needs no secrets of templates.
    await site.follower.turn()
    await site.follower.check()


async def test_a_reader_without_a_secret_that_is_new_answers_as_before_and_stays_ready(
    site: Site,
) -> None:
    site.environ["OLD"] = "old"
    reader = site.process(None)
    await site.live(("keyed.pipe", ENDPOINT.format("{{tb_secret('OLD')}}")))
    await reader.turn()
    before = site.served.pipes["keyed"]
    await site.live(("keyed.pipe", ENDPOINT.format("{{tb_secret('NEW')}}")))
    await reader.turn()
    assert site.served.pipes == {"keyed": before}
    assert site.served.secrets == {"OLD": "old"}
    await reader.check()


async def test_a_worker_is_alive_by_the_clock_of_the_server_alone(site: Site) -> None:
    await site.record.beat(Worker(worker="w", deployment=0))
    found = await site.engine.fetch(
        Statement(
            sql="SELECT abs(dateDiff('second', at, now())) < 60 FROM pipehouse.workers",
            format="TSV",
        )
    )
    assert found.body.strip() == b"1"
    assert [w.worker for w in await site.record.workers()] == ["w"]


async def test_two_who_began_at_the_same_moment_do_not_both_give_up(site: Site) -> None:
    """The one with the lower id goes on, and a later one that is refused does not stop it."""
    done = await asyncio.gather(
        site.deploy(site.project()), site.deploy(site.project()), return_exceptions=True
    )
    ids = [found for found in done if isinstance(found, int)]
    refused = [found for found in done if isinstance(found, DeploymentUnderWayError)]
    assert len(ids) + len(refused) == 2
    assert await site.record.live_id() == max(ids)
    assert await site.record.unfinished() == []
