"""A data source with a table, a view and a topic of its own on a real broker, and its workers."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from msgspec import Struct

from deploy import ddl
from ingest.batch import BatchLimits
from ingest.chunk import Partition
from ingest.ledger import LedgerEntry
from ingest.log.kafka import KafkaLog, KafkaLogOptions
from ingest.log.kafka_connection import KafkaConnection, plain_connection
from ingest.observe import MetricsObserver
from ingest.progress import Progress
from ingest.source.kafka import KafkaSource
from ingest.source.kafka_options import KafkaSourceOptions
from ingest.worker import Worker, WorkerSettings
from shared.clickhouse.contract import Statement
from shared.clickhouse.embedded import EmbeddedClickHouse
from shared.clock import Deadline, SystemClock
from shared.model.resources import Column, Datasource, EngineSpec
from shared.observe.metrics import Metrics
from tests.kafka.fixture import KafkaBroker

CLOCK = SystemClock()
QUICK = KafkaSourceOptions(
    session_timeout_s=6.0,
    heartbeat_interval_s=0.3,
    rebalance_timeout_s=10.0,
    revoke_timeout_s=5.0,
)


class Rig(Struct, kw_only=True):
    engine: EmbeddedClickHouse
    connection: KafkaConnection
    log: KafkaLog
    datasource: Datasource
    topic: str
    group: str
    options: KafkaSourceOptions = QUICK
    limits: BatchLimits = BatchLimits(max_age_s=0.05)
    sent: int = 0
    ends: dict[Partition, int] = {}
    entries: list[LedgerEntry] = []

    @property
    def name(self) -> str:
        return self.datasource.name

    def source(self, options: KafkaSourceOptions | None = None) -> KafkaSource:
        return KafkaSource(
            self.connection,
            self.topic,
            self.group,
            options=options or self.options,
            create_topic=self.log.create_topic,
        )

    def worker(self, *, engine: object = None, max_quarantine_ratio: float = 1.0) -> Worker:
        worker = Worker(
            WorkerSettings(limits=self.limits, max_quarantine_ratio=max_quarantine_ratio),
            engine or self.engine,  # type: ignore[arg-type]  # passes the rest of the contract on
            lambda _: self.source(),
            progress=Progress(),
            clock=CLOCK,
            observe=lambda name: MetricsObserver(Metrics(), name, on_entry=self.entries.append),
        )
        worker.start({self.name: self.datasource})
        return worker

    async def send(self, count: int, *, bad: int = 0) -> None:
        """Good events over two months, and bad ones behind them."""
        values = [
            json.dumps({"id": self.sent + i, "ts": f"2024-0{i % 2 + 1}-01 00:00:00"}).encode()
            for i in range(count)
        ]
        values += [b'{"id": "x", "ts": "2024-01-01 00:00:00"}' for _ in range(bad)]
        self.sent += count
        appended = await self.log.append(self.topic, values)
        self.ends[appended.partition] = max(self.ends.get(appended.partition, 0), appended.next)

    async def stored(self, timeout_s: float = 60.0) -> None:
        """Wait until everything that was sent is stored and committed."""
        async with asyncio.timeout(timeout_s):
            while True:
                found = await self.log.topics.committed(self.group, list(self.ends))
                if all(found.get(p, 0) >= end for p, end in self.ends.items()):
                    return
                await asyncio.sleep(0.05)

    async def one(self, sql: str) -> list[str]:
        result = await self.engine.fetch(Statement(sql=sql.replace("EV", self.name), format="TSV"))
        return result.body.decode().split()

    async def assert_exactly_once_by_id(self) -> None:
        rows = await self.one("SELECT count(), uniqExact(id) FROM EV")
        assert rows == [str(self.sent)] * 2
        assert await self.one("SELECT sum(n) FROM EV_view_target") == [str(self.sent)]

    async def assert_exactly_once(self, quarantined: int = 0) -> None:
        rows = await self.one(
            "SELECT count(), uniqExact(__partition, __offset), uniqExact(id) FROM EV"
        )
        assert rows == [str(self.sent)] * 3
        assert await self.one("SELECT sum(n) FROM EV_view_target") == [str(self.sent)]
        found = await self.one(
            "SELECT count(), uniqExact(__partition, __offset) FROM EV_quarantine FINAL"
        )
        assert found == [str(quarantined)] * 2


@asynccontextmanager
async def open_rig(
    engine: EmbeddedClickHouse, broker: KafkaBroker, *, partitions: int = 2
) -> AsyncIterator[Rig]:
    """A rig with tables, topic and group of its own."""
    name = "ev" + uuid.uuid4().hex[:8]
    datasource = Datasource(
        name=name,
        columns=(
            Column(name="id", type="UInt32", jsonpath="$.id"),
            Column(name="ts", type="DateTime", jsonpath="$.ts"),
        ),
        engine=EngineSpec(partition_key="toYYYYMM(ts)", sorting_key="id"),
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
    for sql in (
        ddl.create_quarantine(engine.database, datasource),
        ddl.create_table(engine.database, datasource),
        ddl.create_table(engine.database, target),
        ddl.create_view(engine.database, view),
    ):
        await engine.execute(Statement(sql=sql))
    connection = plain_connection(broker.bootstrap_servers)
    log = KafkaLog(connection, KafkaLogOptions(partitions=partitions, request_timeout_s=5.0))
    try:
        yield Rig(
            engine=engine,
            connection=connection,
            log=log,
            datasource=datasource,
            topic=f"events.{name}",
            group=f"test.{name}",
            ends={},
            entries=[],
        )
    finally:
        await log.close()


async def until(check: Callable[[], Awaitable[bool]], timeout_s: float = 60.0) -> None:
    """Wait until something of another process is so."""
    async with asyncio.timeout(timeout_s):
        while True:
            if await check():
                return
            await asyncio.sleep(0.05)


async def close(worker: Worker) -> None:
    await worker.close(Deadline(CLOCK, 10))


async def kill(worker: Worker) -> None:
    """End a worker without letting it finish anything, as a crash would."""
    for running in worker._running.values():
        running.task.cancel()
    await asyncio.gather(*(r.task for r in worker._running.values()), return_exceptions=True)
