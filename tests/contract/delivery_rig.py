"""A data source with a table, a view and a log of its own, and workers to be killed."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from msgspec import Struct

from deploy import ddl
from ingest.batch import BatchLimits
from ingest.chunk import Partition
from ingest.log.local import LocalLog, open_local_log
from ingest.observe import MetricsObserver, nothing, unrecorded
from ingest.progress import Progress
from ingest.recorder import LedgerRecorder
from ingest.source.local import LocalSource
from ingest.worker import Worker, WorkerSettings
from shared.clickhouse.contract import ClickHouse, Insert, Statement, Summary
from shared.clickhouse.failures import InsertRetriableError
from shared.clock import SystemClock
from shared.errors import ClickHouseUnavailableError
from shared.model.resources import Column, Datasource, EngineSpec
from shared.observe.metrics import Metrics

CLOCK = SystemClock()
StepListener = Callable[[Partition, str, str], None]
PLAIN = EngineSpec(partition_key="toYYYYMM(ts)", sorting_key="id")


class FaultyEngine:
    """The real engine, with a plan of what goes wrong at each insert into the landing table."""

    def __init__(self, engine: ClickHouse, table: str) -> None:
        self._engine = engine
        self._table = table
        self.plan: list[str] = []
        self.inserts = 0

    def __getattr__(self, name: str) -> object:
        return getattr(self._engine, name)

    async def insert(self, insert: Insert) -> Summary:
        if insert.table != self._table:
            return await self._engine.insert(insert)
        self.inserts += 1
        fault = self.plan.pop(0) if self.plan else ""
        if fault == "busy":
            raise ClickHouseUnavailableError("too many inserts are waiting")
        if fault == "before":
            raise InsertRetriableError("the answer was lost before anything happened")
        summary = await self._engine.insert(insert)
        if fault == "after":
            raise InsertRetriableError("the answer was lost after it took effect")
        return summary


class Rig(Struct, kw_only=True):
    """A data source with a table and a view, a log, and workers that can be started and killed."""

    engine: ClickHouse
    faulty: FaultyEngine
    log: LocalLog
    datasource: Datasource
    progress: Progress
    limits: BatchLimits
    sent: int = 0
    source: type[LocalSource] = LocalSource
    recorder: LedgerRecorder | None = None
    metrics: Metrics

    @property
    def name(self) -> str:
        return self.datasource.name

    def idle_worker(self, on_step: StepListener | None = None) -> Worker:
        def observe(name: str) -> MetricsObserver:
            on_entry = self.recorder.record if self.recorder else unrecorded
            return MetricsObserver(self.metrics, name, on_step or nothing, on_entry)

        return Worker(
            WorkerSettings(limits=self.limits),
            self.faulty,  # type: ignore[arg-type]  # the rest of the contract is passed through
            lambda datasource: self.source(self.log, f"events.{datasource.name}", datasource.name),
            progress=self.progress,
            clock=CLOCK,
            observe=observe,
        )

    def worker(self, on_step: StepListener | None = None) -> Worker:
        worker = self.idle_worker(on_step)
        worker.start({self.name: self.datasource})
        return worker

    async def send(self, count: int, *, bad: int = 0) -> tuple[Partition, int]:
        """Good events over two months, and bad ones between them."""
        values = [
            json.dumps({"id": self.sent + i, "ts": f"2024-0{i % 2 + 1}-01 00:00:00"}).encode()
            for i in range(count)
        ]
        values += [b'{"id": "x", "ts": "2024-01-01 00:00:00"}' for _ in range(bad)]
        self.sent += count
        appended = await self.log.append(f"events.{self.name}", values)
        return appended.partition, appended.next

    async def stored(self, partition: Partition, next_: int) -> None:
        assert await self.progress.reached(partition, next_, 30)

    async def one(self, sql: str) -> list[str]:
        result = await self.engine.fetch(Statement(sql=sql.replace("EV", self.name), format="TSV"))
        return result.body.decode().split()

    async def assert_exactly_once(self, quarantined: int = 0) -> None:
        rows = await self.one("SELECT count(), uniqExact(__offset), uniqExact(id) FROM EV")
        assert rows == [str(self.sent)] * 3
        assert await self.one("SELECT sum(n) FROM EV_view_target") == [str(self.sent)]
        found = await self.one("SELECT count(), uniqExact(__offset) FROM EV_quarantine FINAL")
        assert found == [str(quarantined)] * 2


@asynccontextmanager
async def open_rig(
    engine: ClickHouse, folder: Path, spec: EngineSpec = PLAIN
) -> AsyncIterator[Rig]:
    """A rig with tables of its own.

    Args:
        engine: Where the tables are made.
        folder: Where the log lies.
        spec: The engine of the landing table.
    """
    name = "ev" + uuid.uuid4().hex[:8]
    datasource = Datasource(
        name=name,
        columns=(
            Column(name="id", type="UInt32", jsonpath="$.id"),
            Column(name="ts", type="DateTime", jsonpath="$.ts"),
        ),
        engine=spec,
    )
    target = Datasource(
        name=f"{name}_view_target",
        columns=(Column(name="m", type="UInt32"), Column(name="n", type="UInt64")),
        engine=EngineSpec(name="SummingMergeTree", sorting_key="m"),
    )
    view = ddl.ViewDefinition(
        name=f"{name}_view",
        target=target.name,
        select=f"SELECT toYYYYMM(ts) AS m, count() AS n FROM {name} GROUP BY m",
    )
    traits = ddl.Traits(replicates=engine.capabilities.replicates)
    for sql in (
        ddl.create_quarantine(engine.database, datasource, traits),
        ddl.create_table(engine.database, datasource, traits),
        ddl.create_table(engine.database, target, traits),
        ddl.create_view(engine.database, view),
    ):
        await engine.execute(Statement(sql=sql))
    log = open_local_log(folder)
    made = Rig(
        engine=engine,
        faulty=FaultyEngine(engine, name),
        log=log,
        datasource=datasource,
        progress=Progress(),
        limits=BatchLimits(max_age_s=0.02),
        metrics=Metrics(),
    )
    try:
        yield made
    finally:
        await log.close()


async def kill(worker: Worker) -> None:
    """End a worker without letting it finish anything, as a crash would."""
    for running in worker._running.values():
        running.task.cancel()
    await asyncio.gather(*(r.task for r in worker._running.values()), return_exceptions=True)
