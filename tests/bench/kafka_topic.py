"""A broker on this machine and a topic full of clickstream events, for measurements."""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct, structs

from deploy.kafka.broker import open_broker
from ingest.chunk import Partition
from ingest.log.kafka import KafkaLog, KafkaLogOptions
from ingest.log.kafka_connection import plain_connection
from shared.model.resources import Datasource, EngineSpec
from tests.bench.bench_decode import clickstream

PARTITIONS = 4
TOPIC = "events.clickstream"
# So many events come together, as producers that batch send them.
APPEND_ROWS = 1_000
_DISTINCT_ROWS = 100_000
_APPENDS_AT_A_TIME = 16


class Filled(Struct, frozen=True, kw_only=True):
    """A topic that is complete: ``ends`` is the offset behind the last record by partition."""

    bootstrap_servers: str
    topic: str
    rows: int
    ends: tuple[int, ...]

    def partitions(self) -> dict[Partition, int]:
        """The end of each partition."""
        return {Partition(self.topic, number): end for number, end in enumerate(self.ends)}


@contextlib.contextmanager
def running_broker() -> Iterator[str]:
    """A broker whose data goes with it; its address."""
    with tempfile.TemporaryDirectory(prefix="pipehouse-bench-") as folder:
        broker = open_broker(Path(folder))
        try:
            broker.start()
            yield broker.bootstrap_servers
        finally:
            broker.stop()


def open_log(bootstrap_servers: str) -> KafkaLog:
    """The product's own producer, lz4, four partitions a topic."""
    options = KafkaLogOptions(partitions=PARTITIONS)
    return KafkaLog(plain_connection(bootstrap_servers), options)


def clickstream_datasource() -> Datasource:
    """Eleven columns by month and time."""
    engine = EngineSpec(
        partition_key="toYYYYMM(timestamp)", sorting_key="timestamp, user_id, session_id"
    )
    return structs.replace(clickstream(0)[1], engine=engine)


def clickstream_values() -> list[bytes]:
    """Events of about 374 bytes."""
    return clickstream(_DISTINCT_ROWS)[2]


async def fill(bootstrap_servers: str, rows: int) -> Filled:
    """Make the topic and send so many events, evenly to its partitions."""
    values = clickstream_values()
    log = open_log(bootstrap_servers)
    ends = [0] * PARTITIONS
    try:
        starts = list(range(0, rows, APPEND_ROWS))
        for at in range(0, len(starts), _APPENDS_AT_A_TIME):
            appended = await asyncio.gather(
                *(
                    log.append(TOPIC, _some(values, start, min(APPEND_ROWS, rows - start)))
                    for start in starts[at : at + _APPENDS_AT_A_TIME]
                )
            )
            for one in appended:
                ends[one.partition.number] = max(ends[one.partition.number], one.next)
    finally:
        await log.close()
    return Filled(bootstrap_servers=bootstrap_servers, topic=TOPIC, rows=rows, ends=tuple(ends))


def _some(values: list[bytes], start: int, count: int) -> list[bytes]:
    at = start % len(values)
    return values[at : at + count]


def bench_rows(otherwise: int) -> int:
    """How many rows are measured: ``PIPEHOUSE_BENCH_ROWS``, for a quick look, or these."""
    return int(os.environ.get("PIPEHOUSE_BENCH_ROWS", otherwise))
