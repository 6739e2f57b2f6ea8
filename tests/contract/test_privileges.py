"""What the processes do, as the least-privilege users that ``deploy --bootstrap`` makes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

import pytest

from deploy.bootstrap import ROLES, statements, users
from deploy.follow import Follower
from deploy.operate.health import engine_checks
from deploy.operate.services import OperatorServices, prefixed_feed
from deploy.own_tables import OWN_TABLES
from deploy.record import Deployment, DeploymentRecord, Worker
from deploy.rollout import Rollout, plan_rollout
from deploy.throwaway import throwaway
from ingest.batch import make_batch
from ingest.chunk import CellError, Chunk, Partition, Rejection
from ingest.excluded import ClickHouseExcludedStore
from ingest.landing import SCRATCH_DATABASE, Landing
from ingest.lease import take_lease
from ingest.ledger import Ledger, LedgerEntry
from ingest.messages import Intent
from ingest.replay_store import Place, ReplayStore
from shared.auth.opening import open_tokens
from shared.clickhouse.contract import Run, Statement
from shared.clickhouse.server import open_server
from shared.clickhouse.serverengine import ServerClickHouse
from shared.clock import SystemClock
from shared.datafile.project import LoadedProject, load_project
from shared.errors import QueryError
from shared.model.identity import DEDUPLICATION_WINDOW
from shared.model.workspace import Workspace
from shared.settings import Settings
from tests.standin.process import Standin

DB = "shop"
CLOCK = SystemClock()
ADMIN_TOKEN = "an-admin-token-of-some-length-0123"
CLICKS = """SCHEMA >
    n UInt32 `json:$.n`

ENGINE MergeTree
ENGINE_SORTING_KEY n
"""
TOTALS = "SCHEMA >\n    total UInt64\n\nENGINE MergeTree\nENGINE_SORTING_KEY total\n"
VIEW = """NODE a
SQL >
    SELECT sum(n) AS total FROM clicks
TYPE materialized
DATASOURCE totals
"""


class Site:
    """A server with the three users, and engines as each of them."""

    def __init__(self, standin: Standin) -> None:
        self.accounts = {u.role: u for u in users(DB, {r: f"{r}-password" for r in ROLES})}
        self._standin = standin
        self.engines: dict[str, ServerClickHouse] = {}

    async def engine(self, role: str) -> ServerClickHouse:
        if role not in self.engines:
            standin = self._standin
            host = f"127.0.0.1:{standin.port}?http_port={standin.http_port}"
            url = self.accounts[role].url(host, DB)
            self.engines[role] = await open_server(url, writes=role != "reader")
        return self.engines[role]


@pytest.fixture(scope="module")
def standin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Standin]:
    with Standin(tmp_path_factory.mktemp("privileges")) as running:
        yield running


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data=tmp_path, secret="a-secret-for-the-tests-of-users")


@pytest.fixture
def project(tmp_path: Path) -> LoadedProject:
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "clicks.datasource").write_text(CLICKS)
    (folder / "totals.datasource").write_text(TOTALS)
    (folder / "sums.pipe").write_text(VIEW)
    return load_project([folder], {})


@pytest.fixture
async def site(
    standin: Standin, settings: Settings, project: LoadedProject, tmp_path: Path
) -> AsyncIterator[Site]:
    """Everything that bootstrap and deploy do, by those who do it."""
    site = Site(standin)
    admin = await open_server(standin.url())
    for sql in statements(DB, list(site.accounts.values())):
        await admin.execute(Statement(sql=sql))
    await admin.close()
    deployer = await site.engine("deployer")
    for sql in OWN_TABLES:
        await deployer.execute(Statement(sql=sql))
    async with throwaway([tmp_path / "project"], {}) as checked:
        assert checked.released.is_clean, checked.released.diagnostics
        views = checked.released.views
    plan = await plan_rollout(deployer, project.workspace, views)
    rollout = Rollout(deployer, DeploymentRecord(deployer), CLOCK, lambda text: None)
    await rollout.run(project, plan, views=views)
    await open_tokens(deployer, settings, admin_token=ADMIN_TOKEN, clock=CLOCK)
    yield site
    for engine in site.engines.values():
        await engine.close()


def records(*values: bytes) -> Chunk:
    return Chunk(
        partition=Partition("events.clicks", 0),
        offsets=range(len(values)),
        values=values,
        timestamps_ms=[0] * len(values),
        next=len(values),
    )


def operators(engine: ServerClickHouse) -> OperatorServices:
    return OperatorServices(clickhouse=engine, clock=CLOCK, feed=prefixed_feed("", "", None))


async def numbers(engine: ServerClickHouse, sql: str) -> list[int]:
    result = await engine.fetch(Statement(sql=sql, format="TSV"))
    return [int(n) for n in result.body.split()]


async def test_a_worker_does_all_its_work_as_the_writer(
    site: Site, project: LoadedProject, settings: Settings
) -> None:
    writer = await site.engine("writer")
    datasource = project.workspace.datasources["clicks"]
    landing = Landing(writer, datasource, DEDUPLICATION_WINDOW)
    chunk = records(b'{"n":1}', b'{"n":2}')
    batch = make_batch(0, 2, [landing.decoder.decode(chunk)])
    await landing.insert(batch, stream=7, partition=0, token="ph1:clicks:a:0-2")
    assert await landing.held_offsets(7, 0, 0, 10) == {0, 1}
    assert await landing.stored_from(7, 0, 0) == (Run(0, 2),)
    assert await landing.next_known(7, 0) == 2
    assert await landing.remembers(Intent(next=2, at_ms=CLOCK.now_ms(), boot="", schema=""))
    await landing.settle("ph1:clicks:a:0-2")
    await landing.quarantine(
        [Rejection(offset=5, timestamp_ms=0, raw=b"x", errors=(CellError("n", "bad"),))],
        stream=7,
        partition=Partition("events.clicks", 0),
        token="ph1:clicks:a:2-6",
        now_s=1,
    )
    runs = tuple(Run(3 * i, 1) for i in range(1_000))
    excluded = ClickHouseExcludedStore(writer)
    assert await excluded.find(await excluded.keep(runs)) == runs
    ledger = Ledger(writer)
    await ledger.prepare()
    entry = LedgerEntry(
        kind="batch",
        datasource="clicks",
        topic="t",
        stream=7,
        partition=0,
        first=0,
        next=2,
        token="t",
        at_ms=CLOCK.now_ms(),
    )
    await ledger.write([entry], worker="w")
    assert await ledger.highest_next("clicks", 7, 0) == 2
    await DeploymentRecord(writer).beat(Worker(worker="w", deployment=1))
    await ReplayStore(writer, "clicks").prepare()
    async with take_lease(writer, CLOCK, "replay", "w"):
        pass
    await open_tokens(writer, settings, admin_token=ADMIN_TOKEN, clock=CLOCK)
    assert await numbers(writer, "SELECT total FROM totals") == [3]


async def test_a_worker_searches_refused_rows_in_the_scratch_database_only(
    standin: Standin, site: Site, project: LoadedProject
) -> None:
    admin = await open_server(standin.url(database=DB))
    await admin.execute(Statement(sql="ALTER TABLE clicks ADD CONSTRAINT small CHECK n < 100"))
    writer = await site.engine("writer")
    landing = Landing(writer, project.workspace.datasources["clicks"], DEDUPLICATION_WINDOW)
    chunk = records(b'{"n":1}', b'{"n":500}', b'{"n":2}', b'{"n":900}')
    try:
        assert (await landing.find_guilty(3, [chunk])).keys() == {1, 3}
    finally:
        await admin.execute(Statement(sql="ALTER TABLE clicks DROP CONSTRAINT small"))
        left = await numbers(
            admin, f"SELECT count() FROM system.tables WHERE database = '{SCRATCH_DATABASE}'"
        )
        await admin.close()
    assert left == [0]
    with pytest.raises(QueryError, match="privileges"):
        await writer.execute(Statement(sql=f"CREATE TABLE {DB}.x (a Int8) ENGINE = Null"))


async def test_a_query_process_reads_and_follows_as_the_reader_and_cannot_write(
    site: Site, settings: Settings
) -> None:
    reader = await site.engine("reader")
    served: list[Workspace] = []

    async def switch(workspace: Workspace, deployment: Deployment) -> None:
        served.append(workspace)

    follower = Follower(DeploymentRecord(reader), {}, switch, CLOCK)
    await follower.turn()
    await follower.check()
    assert served[0].datasources.keys() == {"clicks", "totals"}
    await open_tokens(reader, settings, admin_token=ADMIN_TOKEN, clock=CLOCK)
    await reader.ping()
    assert await numbers(reader, "SELECT count() >= 0 FROM clicks") == [1]
    for sql in ("INSERT INTO clicks (n) VALUES (1)", "DROP TABLE clicks"):
        with pytest.raises(QueryError):
            await reader.execute(Statement(sql=sql))


async def test_quarantine_is_emptied_as_the_deployer(site: Site) -> None:
    place = Place(topic="events.clicks", stream=7, partition=0)
    with pytest.raises(QueryError, match="ALTER DELETE"):
        await ReplayStore(await site.engine("writer"), "clicks").release(place, [5])
    deployer = await site.engine("deployer")
    async with take_lease(deployer, CLOCK, "replay clicks", "d"):
        await ReplayStore(deployer, "clicks").release(place, [5])


async def test_everybody_sees_when_the_server_was_started(site: Site) -> None:
    boots = {(await site.engine(role)).boot_id for role in ROLES}
    assert len(boots) == 1
    # Not told from its clock, which two readings may see a second apart.
    assert ":" not in boots.pop()


@pytest.mark.parametrize("setting", ["max_execution_time", "max_memory_usage"])
async def test_a_reader_cannot_lift_its_limits(site: Site, setting: str) -> None:
    reader = await site.engine("reader")
    with pytest.raises(QueryError, match=setting):
        await reader.fetch(Statement(sql="SELECT 1", settings={setting: 0}))
    await reader.fetch(Statement(sql="SELECT 1", settings={setting: 10}))


async def test_deploying_again_needs_no_more_than_the_deployer_has(
    site: Site, project: LoadedProject
) -> None:
    deployer = await site.engine("deployer")
    plan = await plan_rollout(deployer, project.workspace, {})
    assert [step.summary for step in plan.steps] == ["drop view sums"]
    rollout = Rollout(deployer, DeploymentRecord(deployer), CLOCK, lambda text: None)
    assert (await rollout.run(project, plan, views={})).id is not None


def own(statements_: Sequence[str]) -> set[str]:
    return {sql.split("(")[0].split()[-1] for sql in statements_ if "CREATE TABLE" in sql}


def test_every_table_of_our_own_is_made_by_bootstrap_and_deploy() -> None:
    assert own(OWN_TABLES) == {
        f"pipehouse.{name}"
        for name in (
            "deployments",
            "workers",
            "ingest_ledger",
            "excluded_offsets",
            "leases",
            "quarantine_replays",
        )
    }


async def test_doctor_names_the_grant_that_a_user_made_by_hand_lacks(
    standin: Standin, site: Site
) -> None:
    """Without it the start of the server is known to a second only."""
    admin = await open_server(standin.url())
    for sql in (
        "CREATE USER IF NOT EXISTS `by hand` IDENTIFIED WITH sha256_password BY 'of-his-own'",
        f"GRANT SELECT, INSERT, SHOW ON {DB}.* TO `by hand`",
        *(
            f"GRANT SELECT ON system.{table} TO `by hand`"
            for table in ("parts", "tables", "settings", "disks", "mutations", "replicas")
        ),
    ):
        await admin.execute(Statement(sql=sql))
    url = standin.url(database=DB).partition("@")[2]
    user = await open_server(f"clickhouse://by%20hand:of-his-own@{url}")
    try:
        (check,) = [c for c in await engine_checks(operators(user)) if c.subject == "rights"]
        assert check.fix == "GRANT SELECT ON system.one TO `by hand`"
        await admin.execute(Statement(sql=check.fix))
        assert "rights" not in {c.subject for c in await engine_checks(operators(user))}
    finally:
        await user.close()
        await admin.close()
    writer = await site.engine("writer")
    assert not [c for c in await engine_checks(operators(writer)) if "system.one" in c.fix]
