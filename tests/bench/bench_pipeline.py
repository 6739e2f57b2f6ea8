"""Rows a second from the embedded log into a table, against bare inserts of the same lines.

Ours: log, decoder, validation, offsets, intents, tokens, commits. The baseline: one insert after
another of the same NDJSON into a table with the same columns, nothing else. Rounds alternate; the
log is filled before the clock starts. Peak memory is that of a process of its own.
"""

from __future__ import annotations

import asyncio
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import chdb
from msgspec import structs

from deploy import ddl
from ingest.batch import BatchLimits
from ingest.decode import Decoder
from ingest.log.local import LocalLog, open_local_log
from ingest.observe import MetricsObserver
from ingest.progress import Progress
from ingest.source.local import LocalSource
from ingest.worker import Worker, WorkerSettings
from shared.clickhouse.contract import Statement
from shared.clickhouse.embedded import EmbeddedClickHouse, open_embedded
from shared.clock import Deadline, SystemClock
from shared.model.resources import Datasource, EngineSpec
from shared.observe.metrics import Metrics
from tests.bench.bench_decode import clickstream

# Enough that the last batch, which waits for its age, counts for little.
ROWS = 1_500_000
BATCH_ROWS = 50_000
ROUNDS = 3
APPEND_ROWS = 1_000
Spent = tuple[float, float]


async def _pipeline(
    engine: EmbeddedClickHouse,
    log: LocalLog,
    datasource: Datasource,
    values: list[bytes],
    rows: int,
) -> Spent:
    """Wall and CPU seconds from the start of the pipeline until the last row is committed."""
    topic = f"events.{datasource.name}"
    await engine.execute(Statement(sql=ddl.create_quarantine(engine.database, datasource)))
    await engine.execute(Statement(sql=ddl.create_table(engine.database, datasource)))
    for start in range(0, rows, APPEND_ROWS):
        at = start % len(values)
        appended = await log.append(topic, values[at : at + APPEND_ROWS])
    progress, clock = Progress(), SystemClock()
    worker = Worker(
        WorkerSettings(limits=BatchLimits(max_rows=BATCH_ROWS)),
        engine,
        lambda d: LocalSource(log, topic, d.name),
        progress=progress,
        clock=clock,
        observe=lambda name: MetricsObserver(Metrics(), name),
    )
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    worker.start({datasource.name: datasource})
    assert await progress.reached(appended.partition, appended.next, 600)
    spent = time.perf_counter() - wall_s, time.process_time() - cpu_s
    await worker.close(Deadline(clock, 30))
    await engine.execute(Statement(sql=f"DROP TABLE {datasource.name}"))
    return spent


def _bare(folder: Path, datasource: Datasource, values: list[bytes], rows: int) -> Spent:
    """Wall and CPU seconds of bare inserts through a connection of their own."""
    connection = chdb.connect(str(folder))  # type: ignore[no-untyped-call]
    columns = ", ".join(f"{n} {t}" for n, t in Decoder(datasource).columns)
    names = ", ".join(n for n, _ in Decoder(datasource).columns)
    connection.query(
        f"CREATE TABLE workspace.bare ({columns}) ENGINE = MergeTree"
        f" PARTITION BY {datasource.engine.partition_key}"
        f" ORDER BY ({datasource.engine.sorting_key})"
    )
    blobs = [
        b"\n".join(values[start : start + BATCH_ROWS])
        for start in range(0, len(values), BATCH_ROWS)
    ]
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    for number in range(rows // BATCH_ROWS):
        descriptor = os.memfd_create("bare")
        os.write(descriptor, blobs[number % len(blobs)])
        connection.query(
            f"INSERT INTO workspace.bare ({names}) SELECT {names} FROM"
            f" file('/proc/self/fd/{descriptor}', 'JSONEachRow', '{columns}')"
            " SETTINGS input_format_parallel_parsing=0, max_threads=1, max_insert_threads=1,"
            " min_insert_block_size_rows=1000000, min_insert_block_size_bytes=1000000000,"
            " async_insert=0, log_queries=0"
        )
        os.close(descriptor)
    spent = time.perf_counter() - wall_s, time.process_time() - cpu_s
    connection.query("DROP TABLE workspace.bare")
    connection.close()
    return spent


def _named(datasource: Datasource, name: str) -> Datasource:
    engine = EngineSpec(
        partition_key="toYYYYMM(timestamp)", sorting_key="timestamp, user_id, session_id"
    )
    return structs.replace(datasource, name=name, engine=engine)


async def _rounds(
    folder: Path, rounds: int
) -> list[tuple[tuple[float, float], tuple[float, float]]]:
    _, datasource, values = clickstream(BATCH_ROWS * 2)
    engine = await open_embedded(folder / "clickhouse")
    log = open_local_log(folder / "log")
    found = []
    try:
        for number in range(rounds + 1):
            ours = await _pipeline(engine, log, _named(datasource, f"r{number}"), values, ROWS)
            bare = await asyncio.to_thread(
                _bare, folder / "clickhouse", _named(datasource, "bare"), values, ROWS
            )
            if number:
                found.append((ours, bare))
    finally:
        await log.close()
        await engine.close()
    return found


async def _peak(folder: Path, rows: int) -> None:
    _, datasource, values = clickstream(BATCH_ROWS)
    engine = await open_embedded(folder / "clickhouse")
    log = open_local_log(folder / "log")
    await _pipeline(engine, log, _named(datasource, "peak"), values, rows)
    await log.close()
    await engine.close()
    sys.stdout.write(f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024}\n")


def _peak_mib(rows: int) -> int:
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.bench_pipeline", str(rows)],
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout.split()[-1])


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        found = asyncio.run(_rounds(Path(folder), ROUNDS))
    ours = statistics.median(ROWS / o[0] for o, _ in found)
    bare = statistics.median(ROWS / b[0] for _, b in found)
    cpu = statistics.median(o[1] / ROWS * 1e6 for o, _ in found)
    bare_cpu = statistics.median(b[1] / ROWS * 1e6 for _, b in found)
    ratios = sorted(b[0] / o[0] for o, b in found)
    print("log -> table, embedded (must 0.4x, aim 0.6x)")
    print(f"  bare inserts  {bare:>9,.0f} rows/s  {bare_cpu:.2f} us CPU a row")
    print(f"  pipeline      {ours:>9,.0f} rows/s  {cpu:.2f} us CPU a row")
    print(
        f"  ratio         {statistics.median(ratios):.2f}x"
        f" (from {ratios[0]:.2f} to {ratios[-1]:.2f})"
    )
    small, large = _peak_mib(200_000), _peak_mib(1_000_000)
    print(f"  peak memory   {small} MiB for 200,000 rows, {large} MiB for 1,000,000")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        with tempfile.TemporaryDirectory() as where:
            asyncio.run(_peak(Path(where), int(sys.argv[1])))
    else:
        main()
