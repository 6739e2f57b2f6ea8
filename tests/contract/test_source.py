"""What every log and every source promises: the embedded ones, and those of Kafka."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import pytest
from msgspec import Struct

from ingest.chunk import Chunk, Partition
from ingest.log.contract import Log
from ingest.log.kafka import KafkaLog, KafkaLogOptions
from ingest.log.kafka_connection import plain_connection
from ingest.log.local import open_local_log
from ingest.source.contract import Assignment, Poll, Source
from ingest.source.kafka import KafkaSource
from ingest.source.local import LocalSource
from tests.kafka.rig import QUICK

WAIT_S = 20.0


class Pair(Struct):
    """A log, and sources over one topic of it for a group."""

    log: Log
    topic: str
    open_source: Callable[[], Source]


@pytest.fixture(params=["embedded", "kafka"])
async def pair(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Pair]:
    topic, group = f"t-{uuid.uuid4().hex[:8]}", f"g-{uuid.uuid4().hex[:8]}"
    if request.param == "embedded":
        local = open_local_log(tmp_path)
        yield Pair(local, topic, lambda: LocalSource(local, topic, group))
        await local.close()
        return
    servers = request.getfixturevalue("kafka_broker").bootstrap_servers
    connection = plain_connection(servers)
    log = KafkaLog(connection, KafkaLogOptions(partitions=1))
    yield Pair(
        log,
        topic,
        lambda: KafkaSource(connection, topic, group, options=QUICK, create_topic=log.create_topic),
    )
    await log.close()


async def polled(source: Source, *, rows: int = 1_000) -> Poll:
    return await source.poll(max_rows=rows, max_bytes=1 << 20, timeout_s=0.2)


async def assigned(source: Source) -> Assignment:
    """The one partition of the topic."""
    async with asyncio.timeout(WAIT_S):
        while not (poll := await polled(source)).assigned:
            assert not poll.chunks
    return poll.assigned[0]


async def values_of(source: Source, count: int) -> list[bytes | None]:
    found: list[bytes | None] = []
    async with asyncio.timeout(WAIT_S):
        while len(found) < count:
            found += values((await polled(source)).chunks)
    return found


def values(chunks: Sequence[Chunk]) -> list[bytes | None]:
    return [value for chunk in chunks for value in chunk.values]


async def test_records_come_back_in_order(pair: Pair) -> None:
    one = await pair.log.append(pair.topic, [b"a", b"", b"b\nc"])
    two = await pair.log.append(pair.topic, [b"d"])
    assert one.next <= two.first
    source = pair.open_source()
    found = await assigned(source)
    assert (found.offset, found.log_start, found.start) == (None, 0, 0)
    source.open(found.partition, 0)
    assert await values_of(source, 4) == [b"a", b"", b"b\nc", b"d"]
    await source.close()


async def test_a_large_call_lies_between_its_bounds_in_order(pair: Pair) -> None:
    sent = [b"%06d" % n + b"x" * 300 for n in range(5_000)]
    calls = await asyncio.gather(
        pair.log.append(pair.topic, sent), *(pair.log.append(pair.topic, [b"-"]) for _ in range(20))
    )
    appended = calls[0]
    assert appended.next - appended.first >= len(sent)
    source = pair.open_source()
    partition = (await assigned(source)).partition
    found = values(await source.read(partition, appended.first, appended.next))
    assert [value for value in found if value != b"-"] == sent
    await source.close()


async def test_nothing_is_let_through_before_the_gate_is_opened(pair: Pair) -> None:
    await pair.log.append(pair.topic, [b"a", b"b", b"c"])
    source = pair.open_source()
    found = await assigned(source)
    for _ in range(3):
        assert not (await polled(source)).chunks
    source.open(found.partition, 1)
    assert await values_of(source, 2) == [b"b", b"c"]
    await source.close()


async def test_a_paused_partition_yields_nothing_until_it_is_resumed(pair: Pair) -> None:
    source = pair.open_source()
    found = await assigned(source)
    source.open(found.partition, 0)
    source.pause(found.partition)
    await pair.log.append(pair.topic, [b"a"])
    for _ in range(3):
        assert not (await polled(source)).chunks
    source.resume(found.partition)
    assert await values_of(source, 1) == [b"a"]
    await source.close()


async def test_commits_and_their_metadata_come_back(pair: Pair) -> None:
    await pair.log.append(pair.topic, [b"a", b"b"])
    source = pair.open_source()
    found = await assigned(source)
    assert source.holds(found.partition)
    assert await source.commit(found.partition, 1, '[1,"text"]')
    await source.close()
    source = pair.open_source()
    found = await assigned(source)
    assert (found.offset, found.metadata) == (1, '[1,"text"]')
    await source.close()


async def test_a_partition_that_is_given_back_is_assigned_anew(pair: Pair) -> None:
    source = pair.open_source()
    found = await assigned(source)
    assert await source.commit(found.partition, 0, "again")
    await source.release(found.partition)
    assert (await assigned(source)).metadata == "again"
    await source.close()


async def test_a_range_is_read_again_up_to_the_end_of_the_log(pair: Pair) -> None:
    await pair.log.append(pair.topic, [b"%d" % n for n in range(10)])
    source = pair.open_source()
    partition = (await assigned(source)).partition
    assert values(await source.read(partition, 3, 6)) == [b"3", b"4", b"5"]
    assert values(await source.read(partition, 8, 50)) == [b"8", b"9"]
    assert values(await source.read(partition, 10, 11)) == []
    assert await source.bounds(partition) == (0, 10)
    await source.close()


async def test_the_same_log_is_the_same_stream_to_everybody(pair: Pair) -> None:
    first, second = pair.open_source(), pair.open_source()
    stream = (await assigned(first)).stream
    await first.close()
    assert (await assigned(second)).stream == stream
    await second.close()


async def test_lag_counts_what_lies_behind_a_position(pair: Pair) -> None:
    await pair.log.append(pair.topic, [b"a", b"b", b"c"])
    source = pair.open_source()
    partition: Partition = (await assigned(source)).partition
    source.open(partition, 0)
    await values_of(source, 3)
    assert [source.lag(partition, position) for position in (0, 2, 3)] == [3, 1, 0]
    await source.close()
