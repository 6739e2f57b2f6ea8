"""Seconds from the timestamp that Kafka gave a record until a query finds its row.

A producer sends at a steady pace; the worker, with default settings and in a process of its own,
delivers into the embedded engine. That process also asks the engine every few milliseconds which
rows there are, as any reader would, and looks up the timestamps when everything has come.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from bisect import bisect_right
from pathlib import Path

import msgspec
from aiokafka import AIOKafkaConsumer, TopicPartition
from msgspec import Struct

from ingest.log.kafka import KafkaLog
from ingest.source.kafka_options import KafkaSourceOptions, fetch_options
from shared.clickhouse.contract import Statement
from shared.clickhouse.embedded import EmbeddedClickHouse
from shared.clickhouse.sql import ParameterValue
from tests.bench.kafka_consumers import Clock, delivering, opened
from tests.bench.kafka_topic import (
    PARTITIONS,
    Filled,
    clickstream_datasource,
    clickstream_values,
    open_log,
)
from tests.bench.load import ROOT

TOPIC = "events.freshness"
ROWS_PER_S = 50_000
DURATION_S = 20.0
# Before the clock starts everything is connected and warm; its rows do not count.
_WARM_ROWS = 4_000
_APPEND_ROWS = 500
_LOOK_EVERY_S = 0.03
_TIMEOUT_S = 120.0


class Freshness(Struct, frozen=True, kw_only=True):
    """Seconds until rows could be seen, and how busy the machine was."""

    rows: int
    p50_s: float
    p99_s: float
    max_s: float
    cpu_us_per_row: float
    load_average: float


# The process that delivers ------------------------------------------------------------------------


class _Seen:
    """When which offsets could be seen; reads only parts that were not there before."""

    def __init__(self, engine: EmbeddedClickHouse, table: str) -> None:
        self._engine = engine
        self._table = table
        self._parts: set[str] = set()
        self.offsets: list[list[int]] = [[] for _ in range(PARTITIONS)]
        self.times_ms: list[list[float]] = [[] for _ in range(PARTITIONS)]

    @property
    def count(self) -> int:
        return sum(offsets[-1] + 1 for offsets in self.offsets if offsets)

    async def look(self) -> None:
        parts = await self._rows(
            "SELECT name FROM system.parts WHERE active AND database = {database:String}"
            " AND table = {table:String}",
            database=self._engine.database,
            table=self._table,
        )
        new = [name for (name,) in parts if name not in self._parts]
        if not new:
            return
        found = await self._rows(
            f"SELECT __partition, max(__offset) FROM {self._table}"
            " WHERE _part IN {parts:Array(String)} GROUP BY __partition",
            parts=new,
        )
        now_ms = time.time() * 1000
        self._parts.update(new)
        for number, offset in found:
            offsets, times_ms = self.offsets[int(number)], self.times_ms[int(number)]
            if not offsets or int(offset) > offsets[-1]:
                offsets.append(int(offset))
                times_ms.append(now_ms)

    async def _rows(self, sql: str, **parameters: ParameterValue) -> list[list[str]]:
        result = await self._engine.fetch(Statement(sql=sql, parameters=parameters, format="TSV"))
        return [line.split("\t") for line in result.body.decode().splitlines()]


async def _watch(filled: Filled, folder: Path) -> Freshness:
    datasource = clickstream_datasource()
    async with opened(folder, datasource) as engine, delivering(engine, datasource, filled):
        seen = _Seen(engine, datasource.name)
        async with asyncio.timeout(_TIMEOUT_S):
            await _look_until(seen, _WARM_ROWS)
            print("ready", flush=True)
            measured = Clock()
            await _look_until(seen, filled.rows)
        spent = measured.spent(filled.rows - _WARM_ROWS, measured.wall_s())
        load_average = os.getloadavg()[0]
    created_ms = await _timestamps(filled)
    waits_s = sorted(
        (times_ms[bisect_right(offsets, offset - 1)] - at_ms) / 1000
        for offsets, times_ms, created in zip(seen.offsets, seen.times_ms, created_ms, strict=True)
        for offset, at_ms in enumerate(created)
        if offset >= _WARM_ROWS // PARTITIONS
    )
    return Freshness(
        rows=len(waits_s),
        p50_s=waits_s[len(waits_s) // 2],
        p99_s=waits_s[len(waits_s) * 99 // 100],
        max_s=waits_s[-1],
        cpu_us_per_row=spent.cpu_s / spent.rows * 1e6,
        load_average=load_average,
    )


async def _look_until(seen: _Seen, rows: int) -> None:
    while seen.count < rows:
        await seen.look()
        await asyncio.sleep(_LOOK_EVERY_S)


async def _timestamps(filled: Filled) -> list[list[int]]:
    """The timestamp of every record, by partition and offset."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=filled.bootstrap_servers,
        enable_auto_commit=False,
        **fetch_options(KafkaSourceOptions()),
    )
    await consumer.start()
    tps = [TopicPartition(filled.topic, number) for number in range(PARTITIONS)]
    consumer.assign(tps)
    for tp in tps:
        consumer.seek(tp, 0)
    found: list[list[int]] = [[] for _ in tps]
    while sum(map(len, found)) < filled.rows:
        for tp, records in (await consumer.getmany(timeout_ms=1000)).items():
            found[tp.partition] += [record.timestamp for record in records]
    await consumer.stop()
    return found


# The process that produces ------------------------------------------------------------------------


async def _produce(process: subprocess.Popen[bytes], filled: Filled, values: list[bytes]) -> None:
    log = open_log(filled.bootstrap_servers)
    try:
        await log.create_topic(filled.topic)
        await _send(log, filled, values, range(0, _WARM_ROWS, _APPEND_ROWS), rate=1e9)
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(msgspec.json.encode(filled))
        process.stdin.close()
        while await asyncio.to_thread(process.stdout.readline) not in (b"ready\n", b""):
            continue
        rest = range(_WARM_ROWS, filled.rows, _APPEND_ROWS)
        await _send(log, filled, values, rest, rate=ROWS_PER_S)
    finally:
        await log.close()


async def _send(
    log: KafkaLog, filled: Filled, values: list[bytes], starts: range, *, rate: float
) -> None:
    """Append so many rows a second, whether what came before is acknowledged or not."""
    began_s = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for start in starts:
            early_s = began_s + (start - starts.start) / rate - time.perf_counter()
            await asyncio.sleep(max(0.0, early_s))
            at = start % len(values)
            group.create_task(log.append(filled.topic, values[at : at + _APPEND_ROWS]))


def run(bootstrap_servers: str, seconds: float = DURATION_S) -> Freshness:
    """Produce for so long and see how soon the rows are there.

    Raises:
        RuntimeError: The process that delivers failed; with what it had to say.
    """
    rows = _WARM_ROWS + int(ROWS_PER_S * seconds) // _APPEND_ROWS * _APPEND_ROWS
    ends = (rows // PARTITIONS,) * PARTITIONS
    filled = Filled(bootstrap_servers=bootstrap_servers, topic=TOPIC, rows=rows, ends=ends)
    values = clickstream_values()
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.bench.bench_freshness"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said,
        )
        try:
            asyncio.run(_produce(process, filled, values))
            assert process.stdout is not None
            lines = process.stdout.read().splitlines()
            if process.wait() != 0:
                said.seek(0)
                raise RuntimeError(said.read().decode(errors="replace"))
        finally:
            process.kill()
            process.wait()
    return msgspec.json.decode(lines[-1], type=Freshness)


def show(found: Freshness) -> None:
    """Print the figures."""
    print(
        f"  {ROWS_PER_S:,} rows/s: p50 {found.p50_s:.2f} s, p99 {found.p99_s:.2f} s,"
        f" slowest {found.max_s:.2f} s; {found.cpu_us_per_row:.2f} us CPU a row, watching it"
        " included;"
        f" load average {found.load_average:.1f} on {os.cpu_count()} cores"
    )


def main() -> None:
    filled = msgspec.json.decode(sys.stdin.buffer.read(), type=Filled)
    with tempfile.TemporaryDirectory() as folder:
        found = asyncio.run(_watch(filled, Path(folder)))
    print(msgspec.json.encode(found).decode())


if __name__ == "__main__":
    main()
