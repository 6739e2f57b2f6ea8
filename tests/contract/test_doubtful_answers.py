"""A server that was restarted may take rows for stored that went with it: that is noticed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from msgspec import structs

from ingest.ledger import LedgerEntry
from ingest.observe import MetricsObserver
from ingest.source.local import LocalSource
from ingest.worker import Worker, WorkerSettings
from shared.clickhouse.contract import Capabilities, ClickHouse, Insert, Summary
from shared.clickhouse.embedded import EmbeddedClickHouse
from shared.clock import Deadline
from shared.observe.metrics import Metrics
from tests.contract.delivery_rig import CLOCK, Rig, open_rig


@pytest.fixture
async def rig(engine: EmbeddedClickHouse, tmp_path: Path) -> AsyncIterator[Rig]:
    async with open_rig(engine, tmp_path) as made:
        yield made


class RestartedServer:
    """The engine as a plain server that restarts before it answers, with or without the rows."""

    def __init__(self, engine: ClickHouse, table: str, *, loses_rows: bool) -> None:
        self._engine = engine
        self._table = table
        self._loses_rows = loses_rows
        self._orphan = ""

    def __getattr__(self, name: str) -> object:
        return getattr(self._engine, name)

    @property
    def capabilities(self) -> Capabilities:
        return structs.replace(self._engine.capabilities, repairs_orphans=False)

    async def insert(self, insert: Insert) -> Summary:
        if insert.table == self._table and self._loses_rows:
            self._orphan = self._orphan or insert.token
        if self._orphan and insert.token == self._orphan:
            # What an orphan entry in the memory of tokens makes of a repeated block.
            return Summary(boot_id="after")
        return structs.replace(await self._engine.insert(insert), boot_id="after")


def worker_on(rig: Rig, server: RestartedServer, entries: list[LedgerEntry]) -> Worker:
    worker = Worker(
        WorkerSettings(limits=rig.limits),
        server,  # type: ignore[arg-type]  # the rest of the contract is passed through
        lambda datasource: LocalSource(rig.log, f"events.{datasource.name}", datasource.name),
        progress=rig.progress,
        clock=CLOCK,
        observe=lambda name: MetricsObserver(Metrics(), name, on_entry=entries.append),
    )
    worker.start({rig.name: rig.datasource})
    return worker


async def test_rows_that_went_with_a_restart_hold_the_partition(rig: Rig) -> None:
    entries: list[LedgerEntry] = []
    await rig.send(10)
    worker = worker_on(rig, RestartedServer(rig.engine, rig.name, loses_rows=True), entries)
    async with asyncio.timeout(10):
        while True:
            if worker.held:
                break
            await asyncio.sleep(0.02)
    (reason,) = worker.held.values()
    assert "10 rows of [0, 10) are not in the table" in reason
    assert [e.kind for e in entries] == ["start", "alarm"]
    await worker.close(Deadline(CLOCK, 5))
    # The range stays open, and whoever finds its rows in the table goes on.
    healthy = rig.worker()
    await rig.stored(*await rig.send(1))
    await healthy.close(Deadline(CLOCK, 5))
    await rig.assert_exactly_once()


async def test_a_restart_that_lost_nothing_changes_nothing(rig: Rig) -> None:
    entries: list[LedgerEntry] = []
    end = await rig.send(10, bad=2)
    worker = worker_on(rig, RestartedServer(rig.engine, rig.name, loses_rows=False), entries)
    await rig.stored(*end)
    assert not worker.held
    await worker.close(Deadline(CLOCK, 5))
    await rig.assert_exactly_once(quarantined=2)


async def test_quarantined_records_that_went_with_a_restart_are_written_again(rig: Rig) -> None:
    entries: list[LedgerEntry] = []
    end = await rig.send(10, bad=2)
    quarantine = f"{rig.name}_quarantine"
    worker = worker_on(rig, RestartedServer(rig.engine, quarantine, loses_rows=True), entries)
    await rig.stored(*end)
    assert not worker.held
    await worker.close(Deadline(CLOCK, 5))
    await rig.assert_exactly_once(quarantined=2)
