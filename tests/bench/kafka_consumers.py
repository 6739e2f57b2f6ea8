"""Ways to read a Kafka topic, each run in a process of its own and measured there.

``python -m tests.bench.kafka_consumers NAME`` takes a ``Filled`` topic as JSON on its standard
input and prints what reading all of it cost: CPU of all threads from the start of the consumer
until everything is stored and merges have come to rest, wall time until everything is stored.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
import resource
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import chdb
import msgspec
from aiokafka import AIOKafkaConsumer, TopicPartition
from msgspec import Struct, structs

from deploy import ddl
from ingest.ledger import Ledger
from ingest.log.kafka_connection import plain_connection
from ingest.observe import MetricsObserver
from ingest.progress import Progress
from ingest.recorder import LedgerRecorder
from ingest.source.kafka import KafkaSource
from ingest.source.kafka_options import KafkaSourceOptions, fetch_options
from ingest.worker import Worker, WorkerSettings
from shared.clickhouse.contract import Statement
from shared.clickhouse.embedded import EmbeddedClickHouse, open_embedded
from shared.clickhouse.sql import literal
from shared.clock import Deadline, SystemClock
from shared.model.kafka_columns import with_kafka_columns
from shared.model.resources import Datasource
from shared.model.resources import KafkaSource as KafkaLines
from shared.observe.metrics import Metrics
from tests.bench.kafka_topic import Filled, clickstream_datasource

BATCH_ROWS = 100_000
# Of 65,409 to 500,000 the size at which ClickHouse's engine is quickest here.
CLICKHOUSE_BLOCK_ROWS = 250_000
POLL_ROWS = 10_000
TIMEOUT_S = 600
_DATABASE = "workspace"
# Librdkafka sleeps this long, by default a second, whenever it is far ahead of its reader.
_BACKOFF_MS = 10
# Merges are over when none was seen for so long.
_REST_S = 0.5


class Spent(Struct, frozen=True, kw_only=True):
    """What reading a topic cost; ``rows`` is what was found stored, or read, afterwards."""

    rows: int
    wall_s: float
    cpu_s: float


class Clock:
    """Wall and CPU time of this process, all threads, since it was made."""

    def __init__(self) -> None:
        self._wall_s, self._cpu_s = time.perf_counter(), self._used_s()

    @staticmethod
    def _used_s() -> float:
        used = resource.getrusage(resource.RUSAGE_SELF)
        return used.ru_utime + used.ru_stime

    def wall_s(self) -> float:
        return time.perf_counter() - self._wall_s

    def spent(self, rows: int, wall_s: float) -> Spent:
        return Spent(rows=rows, wall_s=wall_s, cpu_s=self._used_s() - self._cpu_s)


# Ours ---------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def opened(folder: Path, datasource: Datasource) -> AsyncIterator[EmbeddedClickHouse]:
    """The embedded engine with the tables of a data source."""
    engine = await open_embedded(folder / "data", database=_DATABASE)
    try:
        for sql in (
            ddl.create_quarantine(engine.database, datasource),
            ddl.create_table(engine.database, datasource),
        ):
            await engine.execute(Statement(sql=sql))
        yield engine
    finally:
        await engine.close()


@contextlib.asynccontextmanager
async def delivering(
    engine: EmbeddedClickHouse, datasource: Datasource, filled: Filled
) -> AsyncIterator[Progress]:
    """The worker as ``pipehouse ingest`` runs it, with default settings, ledger and metrics."""
    progress, clock, metrics = Progress(), SystemClock(), Metrics()
    recorder = LedgerRecorder(Ledger(engine), metrics, worker="bench")
    group = f"bench.{uuid.uuid4().hex}"
    worker = Worker(
        WorkerSettings(looks_for_leftovers=False),
        engine,
        lambda _: KafkaSource(
            plain_connection(filled.bootstrap_servers),
            filled.topic,
            group,
            options=KafkaSourceOptions(with_keys=datasource.kafka is not None),
        ),
        progress=progress,
        clock=clock,
        observe=lambda name: MetricsObserver(metrics, name, on_entry=recorder.record),
    )
    worker.start({datasource.name: datasource})
    recording = asyncio.create_task(recorder.run())
    try:
        yield progress
    finally:
        recording.cancel()
        await worker.close(Deadline(clock, 30))


async def _ours(filled: Filled, folder: Path, datasource: Datasource) -> Spent:
    async with opened(folder, datasource) as engine:
        measured = Clock()
        async with delivering(engine, datasource, filled) as progress:
            for partition, end in filled.partitions().items():
                assert await progress.reached(partition, end, TIMEOUT_S)
            wall_s = measured.wall_s()
            await asyncio.sleep(_REST_S)
            # The engine tells nobody.
            while await _number(engine, "SELECT count() FROM system.merges"):  # noqa: ASYNC110
                await asyncio.sleep(_REST_S)
            rows = await _number(engine, f"SELECT count() FROM {datasource.name}")
            return measured.spent(rows, wall_s)


async def _number(engine: EmbeddedClickHouse, sql: str) -> int:
    return int((await engine.fetch(Statement(sql=sql, format="TSV"))).body)


def ours(filled: Filled, folder: Path) -> Spent:
    """A data source that the Events API and everybody else may feed."""
    return asyncio.run(_ours(filled, folder, clickstream_datasource()))


def ours_with_lines(filled: Filled, folder: Path) -> Spent:
    """A data source with Kafka lines: four more columns say where a row comes from."""
    lines = KafkaLines(connection="bench", topic=filled.topic, group_id="bench")
    datasource = clickstream_datasource()
    columns = with_kafka_columns(datasource.columns, lines)
    datasource = structs.replace(datasource, kafka=lines, columns=columns)
    return asyncio.run(_ours(filled, folder, datasource))


async def _source(filled: Filled) -> int:
    source = KafkaSource(
        plain_connection(filled.bootstrap_servers), filled.topic, f"bench.{uuid.uuid4().hex}"
    )
    rows = 0
    while rows < filled.rows:
        poll = await source.poll(max_rows=POLL_ROWS, max_bytes=POLL_ROWS << 10, timeout_s=1.0)
        for assignment in poll.assigned:
            source.open(assignment.partition, 0)
        rows += sum(len(chunk.values) for chunk in poll.chunks)
    await source.close()
    return rows


def ours_reading(filled: Filled, folder: Path) -> Spent:
    """Our source with its group and offsets, and nothing done with what it yields."""
    measured = Clock()
    rows = asyncio.run(_source(filled))
    return measured.spent(rows, measured.wall_s())


# ClickHouse's own ---------------------------------------------------------------------------------


class _Table:
    """The same table as ours, in a folder that is thrown away, behind a bare connection."""

    def __init__(self, folder: Path) -> None:
        self.datasource = clickstream_datasource()
        configuration = folder / "configuration.xml"
        configuration.write_text(
            f"<clickhouse><kafka><fetch_queue_backoff_ms>{_BACKOFF_MS}</fetch_queue_backoff_ms>"
            "</kafka></clickhouse>",
            encoding="utf-8",
        )
        self.connection: Any = chdb.connect(  # type: ignore[no-untyped-call]
            f"{folder / 'data'}?config-file={configuration}"
        )
        self.connection.query(f"CREATE DATABASE {_DATABASE} ENGINE = Atomic")
        self.connection.query(ddl.create_table(_DATABASE, self.datasource))
        self.columns = [(c.name, c.type) for c in self.datasource.columns]
        self.names = ", ".join(name for name, _ in self.columns)
        self.into = (
            f"INSERT INTO {_DATABASE}.{self.datasource.name}"
            f" ({self.names}, __stream, __partition, __offset)"
        )

    def number(self, sql: str) -> int:
        return int(self.connection.query(sql, "TabSeparated").bytes())

    def rest(self) -> int:
        """Wait for merges; how many rows there are."""
        time.sleep(_REST_S)
        while self.number("SELECT count() FROM system.merges"):
            time.sleep(_REST_S)
        return self.number(f"SELECT count() FROM {_DATABASE}.{self.datasource.name}")

    def close(self) -> None:
        self.connection.close()


def clickhouse(filled: Filled, folder: Path) -> Spent:
    """The Kafka engine of ClickHouse, one consumer, pumped by INSERT ... SELECT.

    One SELECT takes what one view of it would take: a block. It commits behind itself.
    """
    table = _Table(folder)
    columns = ", ".join(f"{name} {type_}" for name, type_ in table.columns)
    # A block that never gets full would wait for seconds.
    block_rows = min(CLICKHOUSE_BLOCK_ROWS, filled.rows // len(filled.ends))
    with contextlib.suppress(RuntimeError):
        # "Shutdown was called": there are no threads here that would feed views. The table is
        # there all the same, and can be read.
        table.connection.query(
            f"CREATE TABLE {_DATABASE}.queue ({columns}) ENGINE = Kafka SETTINGS"
            f" kafka_broker_list = {literal(filled.bootstrap_servers)},"
            f" kafka_topic_list = {literal(filled.topic)},"
            f" kafka_group_name = {literal(f'bench.{uuid.uuid4().hex}')},"
            " kafka_format = 'JSONEachRow', kafka_num_consumers = 1, kafka_commit_on_select = 1,"
            f" kafka_max_block_size = {block_rows}, kafka_poll_max_batch_size = {block_rows}"
        )
    pump = (
        f"{table.into} SELECT {table.names}, 1, _partition, _offset FROM {_DATABASE}.queue"
        " SETTINGS stream_like_engine_allow_direct_select = 1, max_threads = 1,"
        " max_insert_threads = 1, async_insert = 0, log_queries = 0,"
        " insert_allow_materialized_columns = 1, min_insert_block_size_rows = 1000000,"
        " min_insert_block_size_bytes = 1000000000"
    )
    measured = Clock()
    stored = 0
    while stored < filled.rows:
        table.connection.query(pump)
        stored = table.number(f"SELECT count() FROM {_DATABASE}.{table.datasource.name}")
        if measured.wall_s() > TIMEOUT_S:
            raise TimeoutError(f"{stored} rows of {filled.rows} after {TIMEOUT_S} s")
    wall_s = measured.wall_s()
    # Not closed: a folder with such a table cannot be closed in good order, nor opened again.
    return measured.spent(table.rest(), wall_s)


# Bare consumers -----------------------------------------------------------------------------------


async def _read(filled: Filled, take: Callable[[TopicPartition, list[Any]], None]) -> None:
    consumer = AIOKafkaConsumer(
        bootstrap_servers=filled.bootstrap_servers,
        enable_auto_commit=False,
        **fetch_options(KafkaSourceOptions()),
    )
    await consumer.start()
    tps = {TopicPartition(filled.topic, n): end for n, end in enumerate(filled.ends)}
    consumer.assign(list(tps))
    for tp in tps:
        consumer.seek(tp, 0)
    missing = filled.rows
    while missing > 0:
        found = await consumer.getmany(timeout_ms=1000, max_records=POLL_ROWS)
        for tp, records in found.items():
            missing -= len(records)
            take(tp, [record.value for record in records])
    await consumer.stop()


def aiokafka(filled: Filled, folder: Path) -> Spent:
    """Aiokafka's own records, and nothing done with them."""
    measured = Clock()
    asyncio.run(_read(filled, lambda tp, values: None))
    return measured.spent(filled.rows, measured.wall_s())


def confluent(filled: Filled, folder: Path) -> Spent:
    """Librdkafka's consumer from Python, and nothing done with what it yields."""
    client = importlib.import_module("confluent_kafka")
    measured = Clock()
    consumer = client.Consumer(
        {
            "bootstrap.servers": filled.bootstrap_servers,
            "group.id": f"bench.{uuid.uuid4().hex}",
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "fetch.queue.backoff.ms": _BACKOFF_MS,
        }
    )
    consumer.assign(
        [client.TopicPartition(filled.topic, number, 0) for number in range(len(filled.ends))]
    )
    rows = 0
    while rows < filled.rows:
        values = [message.value() for message in consumer.consume(POLL_ROWS, timeout=1.0)]
        rows += len(values)
    spent = measured.spent(rows, measured.wall_s())
    consumer.close()
    return spent


def bare(filled: Filled, folder: Path) -> Spent:
    """Aiokafka into the table under tokens; nothing is validated, committed or kept in order."""
    table = _Table(folder)
    structure = literal(", ".join(f"{name} {type_}" for name, type_ in table.columns))
    waiting: dict[TopicPartition, list[bytes]] = {}
    done = 0

    def flush(tp: TopicPartition) -> None:
        nonlocal done
        values = waiting.pop(tp)
        descriptor = os.memfd_create("bare")
        os.write(descriptor, b"\n".join(values))
        table.connection.query(
            f"{table.into} SELECT {table.names}, 1, {tp.partition}, rowNumberInAllBlocks()"
            f" FROM file('/proc/self/fd/{descriptor}', 'JSONEachRow', {structure})"
            " SETTINGS input_format_parallel_parsing = 0, max_threads = 1, async_insert = 0,"
            " max_insert_threads = 1, min_insert_block_size_rows = 1000000, log_queries = 0,"
            " min_insert_block_size_bytes = 1000000000, insert_allow_materialized_columns = 1,"
            f" insert_deduplication_token = '{tp.partition}-{done}'"
        )
        os.close(descriptor)
        done += len(values)

    def take(tp: TopicPartition, values: list[Any]) -> None:
        waiting.setdefault(tp, []).extend(values)
        if len(waiting[tp]) >= BATCH_ROWS:
            flush(tp)

    measured = Clock()
    asyncio.run(_read(filled, take))
    for tp in list(waiting):
        flush(tp)
    wall_s = measured.wall_s()
    spent = measured.spent(table.rest(), wall_s)
    table.close()
    return spent


CONSUMERS = {
    "ours": ours,
    "ours_with_lines": ours_with_lines,
    "ours_reading": ours_reading,
    "clickhouse": clickhouse,
    "aiokafka": aiokafka,
    "confluent": confluent,
    "bare": bare,
}


def main() -> None:
    filled = msgspec.json.decode(sys.stdin.buffer.read(), type=Filled)
    with tempfile.TemporaryDirectory() as folder:
        spent = CONSUMERS[sys.argv[1]](filled, Path(folder))
    if spent.rows != filled.rows:
        raise RuntimeError(f"{spent.rows} rows instead of {filled.rows}")
    print(msgspec.json.encode(spent).decode())


if __name__ == "__main__":
    main()
