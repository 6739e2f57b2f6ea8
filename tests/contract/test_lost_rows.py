"""A server dies amid an insert and comes back with its token and without its rows."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from deploy.operate.partitions import ResolveArguments, resolve
from ingest.ledger import Ledger
from ingest.recorder import LedgerRecorder
from ingest.worker import Worker
from shared.clickhouse.contract import Statement
from shared.clickhouse.server import open_server
from shared.clock import Deadline
from shared.observe.metrics import Metrics
from tests.chaos.site import ask, orphans, wait_until_dead
from tests.contract.delivery_rig import CLOCK, Rig, open_rig
from tests.contract.operate_rig import services
from tests.standin.process import Standin


@pytest.fixture
def standin(tmp_path: Path) -> Iterator[Standin]:
    with Standin(tmp_path / "server") as running:
        ask(running, "CREATE DATABASE lost ENGINE = Atomic")
        yield running


@pytest.fixture
async def rig(standin: Standin, tmp_path: Path) -> AsyncIterator[Rig]:
    url = standin.url(database="lost") + "&timeout_s=5&connect_timeout_s=2"
    server = await open_server(url)
    async with open_rig(server, tmp_path / "log") as made:
        made.recorder = LedgerRecorder(Ledger(server), Metrics(), worker="test")
        yield made
    await server.close()


async def die_and_lose(rig: Rig, standin: Standin, folder: Path, table: str) -> Worker:
    """Deliver rows of two months while the server dies; one part of the table is gone then."""
    where = f"database = 'lost' AND name = '{table}'"
    uuid = ask(standin, f"SELECT uuid FROM system.tables WHERE {where}").strip()
    standin.fault("die", at="after", table=rig.name)
    worker = rig.worker()
    await rig.send(20, bad=1)
    assert await asyncio.to_thread(wait_until_dead, standin, 10)
    part, *_ = sorted((folder / "server").glob(f"**/store/*/{uuid}/202*_0"))
    shutil.rmtree(part)
    assert orphans(folder / "server") == {uuid: 1}
    await asyncio.to_thread(standin.start)
    return worker


async def test_rows_that_a_token_hides_are_missed_and_can_be_brought_back(
    rig: Rig, standin: Standin, tmp_path: Path
) -> None:
    worker = await die_and_lose(rig, standin, tmp_path, rig.name)
    async with asyncio.timeout(20):
        while True:
            if worker.held:
                break
            await asyncio.sleep(0.05)
    (reason,) = worker.held.values()
    assert "10 rows of [0, 21) are not in the table" in reason
    # The view has them: the attempt that found the table's token had only the view to serve.
    assert await rig.one("SELECT count(), uniqExact(id) FROM EV") == ["10", "10"]
    assert await rig.one("SELECT sum(n) FROM EV_view_target") == ["20"]
    arguments = ResolveArguments(datasource=rig.name, partition=0, way="insert-missing")
    resolved = await resolve(services(rig, worker), arguments)
    assert resolved.repaired is not None and resolved.repaired.stored == 10
    await rig.stored(*await rig.send(5))
    await worker.close(Deadline(CLOCK, 10))
    await rig.assert_exactly_once(quarantined=1)


async def test_rows_that_only_the_target_of_a_view_lost_are_missed_by_nobody(
    rig: Rig, standin: Standin, tmp_path: Path
) -> None:
    """No offsets are there to compare; on such a server ``doctor`` says so."""
    await rig.engine.execute(Statement(sql=f"DROP VIEW {rig.name}_view"))
    await rig.engine.execute(
        Statement(
            sql=f"CREATE TABLE {rig.name}_ids (id UInt32, ts DateTime) ENGINE = MergeTree"
            " PARTITION BY toYYYYMM(ts) ORDER BY id"
            " SETTINGS non_replicated_deduplication_window = 100"
        )
    )
    await rig.engine.execute(
        Statement(
            sql=f"CREATE MATERIALIZED VIEW {rig.name}_list TO {rig.name}_ids"
            f" AS SELECT id, ts FROM {rig.name}"
        )
    )
    worker = await die_and_lose(rig, standin, tmp_path, f"{rig.name}_ids")
    await rig.stored(*await rig.send(5))
    assert not worker.held
    await worker.close(Deadline(CLOCK, 10))
    assert await rig.one("SELECT count(), uniqExact(id) FROM EV") == ["25", "25"]
    assert await rig.one("SELECT count(), uniqExact(id) FROM EV_ids") == ["15", "15"]
