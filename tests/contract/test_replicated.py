"""Databases that several hosts keep, as a stand-in poses as them under two names."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from msgspec import structs

from deploy.bootstrap import ROLES, statements, users
from deploy.operate.tables import read_tables
from deploy.own_tables import prepare_own_tables
from deploy.record import DeploymentRecord
from deploy.rollout import Rollout, plan_rollout
from deploy.state import read_state
from deploy.throwaway import throwaway
from ingest.landing import Landing
from shared.clickhouse.contract import Statement
from shared.clickhouse.replicated import WINDOW_S
from shared.clickhouse.server import open_server
from shared.clickhouse.serverengine import ServerClickHouse
from shared.clickhouse.url import Host, parse_url
from shared.clock import Deadline, SystemClock
from shared.datafile.project import load_project
from shared.errors import ConfigError
from shared.model.identity import DEDUPLICATION_WINDOW
from tests.contract.delivery_rig import open_rig
from tests.standin.process import Standin

PROJECTS = Path(__file__).parents[2] / "deploy" / "projects"
DB = "shop"


@pytest.fixture(scope="module")
def standin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Standin]:
    with Standin(tmp_path_factory.mktemp("replicas"), options=("--replicated",)) as running:
        yield running


def _hosts(standin: Standin) -> tuple[Host, ...]:
    return tuple(Host(n, standin.port, standin.http_port) for n in ("127.0.0.1", "localhost"))


@pytest.fixture
async def accounts(standin: Standin) -> dict[str, str]:
    """The users that a bootstrap makes, by role; it runs on every host."""
    made = users(DB, {role: f"{role}-password" for role in ROLES})
    for host in _hosts(standin):
        url = structs.replace(parse_url(standin.url()), hosts=(host,))
        admin = await open_server(url)
        for sql in statements(DB, made, replicates=True):
            await admin.execute(Statement(sql=sql))
        await admin.close()
    hosts = ",".join(f"{host.name}:{host.native_port}" for host in _hosts(standin))
    ports = ",".join(str(host.http_port) for host in _hosts(standin))
    return {user.role: user.url(f"{hosts}?http_port={ports}", DB) for user in made}


@pytest.fixture
async def deployer(accounts: dict[str, str]) -> AsyncIterator[ServerClickHouse]:
    server = await open_server(accounts["deployer"])
    yield server
    await server.close()


@pytest.fixture
async def writer(accounts: dict[str, str]) -> AsyncIterator[ServerClickHouse]:
    server = await open_server(accounts["writer"])
    yield server
    await server.close()


async def test_tables_are_made_for_all_hosts_and_remember_tokens_for_long(
    deployer: ServerClickHouse,
) -> None:
    await prepare_own_tables(deployer)
    folders = sorted(path for path in PROJECTS.iterdir() if path.is_dir())
    project = load_project(folders, {})
    async with throwaway(folders, {}) as checked:
        views = checked.released.views
    plan = await plan_rollout(deployer, project.workspace, views)
    tables = [step.sql for step in plan.steps if step.sql.startswith("CREATE TABLE")]
    assert tables and all("ENGINE = Replicated" in sql for sql in tables)
    rollout = Rollout(deployer, DeploymentRecord(deployer), SystemClock(), lambda text: None)
    assert (await rollout.run(project, plan, views=views)).id is not None
    assert (await plan_rollout(deployer, project.workspace, views)).steps == ()
    found = await read_tables(deployer, await read_state(deployer))
    kept = [table for table in found.tables.values() if "MergeTree" in table.engine]
    assert kept and all(table.is_replicated for table in kept)
    assert {table.window for table in kept} == {DEDUPLICATION_WINDOW}
    assert {table.window_s for table in kept} == {WINDOW_S}


async def test_events_are_stored_once_and_need_no_verification(
    deployer: ServerClickHouse, writer: ServerClickHouse, tmp_path: Path
) -> None:
    async with open_rig(deployer, tmp_path) as rig:
        landing = Landing(writer, rig.datasource, DEDUPLICATION_WINDOW)
        assert not landing.needs_verification
        # It waits for what other hosts have stored; the writer may.
        assert await landing.stored_from(1, 0, 0) == ()
        worker = rig.worker()
        partition, next_ = await rig.send(100)
        await rig.stored(partition, next_)
        await worker.close(Deadline(SystemClock(), 10.0))
        await rig.assert_exactly_once()
        runs = await landing.stored_from(await _stream(deployer, rig.datasource.name), 0, 0)
        assert sum(run.count for run in runs) == 100


async def _stream(server: ServerClickHouse, table: str) -> int:
    found = await server.fetch(Statement(sql=f"SELECT any(__stream) FROM {table}"))
    return int(found.body)


async def test_hosts_without_a_database_of_theirs_are_refused(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    with Standin(tmp_path_factory.mktemp("alone")) as alone:
        url = structs.replace(parse_url(alone.url()), hosts=_hosts(alone))
        with pytest.raises(ConfigError, match="not one that they share") as caught:
            await open_server(url)
        assert "ENGINE = Replicated" in str(caught.value.hint)


async def test_our_own_database_has_to_be_theirs_too(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    options = ("--replicated",)
    with Standin(tmp_path_factory.mktemp("half"), options=options) as half:
        server = await open_server(structs.replace(parse_url(half.url()), hosts=_hosts(half)))
        with pytest.raises(ConfigError, match="'pipehouse' is not one that the hosts share"):
            await prepare_own_tables(server)
        await server.close()
