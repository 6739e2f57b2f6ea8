"""Where reading begins and goes on: first starts, lost commits, retention, new topics."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from aiokafka import TopicPartition
from aiokafka.admin import NewPartitions, RecordsToDelete
from msgspec import structs

from ingest.chunk import Partition
from ingest.source.contract import Assignment
from shared.clickhouse.embedded import EmbeddedClickHouse
from tests.kafka.fixture import KafkaBroker
from tests.kafka.rig import QUICK, Rig, close, kill, open_rig, until

LATEST = structs.replace(QUICK, reset="latest")


@pytest.fixture
async def rig(engine: EmbeddedClickHouse, kafka_broker: KafkaBroker) -> AsyncIterator[Rig]:
    async with open_rig(engine, kafka_broker, partitions=1) as made:
        yield made


async def started(rig: Rig) -> None:
    """Wait until every partition has a commit."""
    count = await rig.log.create_topic(rig.topic)
    partitions = [Partition(rig.topic, n) for n in range(count)]

    async def has_commits() -> bool:
        return len(await rig.log.topics.committed(rig.group, partitions)) == count

    await until(has_commits)


def kinds(rig: Rig) -> list[str]:
    return [entry.kind for entry in rig.entries if entry.kind != "batch"]


async def test_latest_counts_for_the_very_first_start_only(rig: Rig) -> None:
    rig.options = LATEST
    await rig.send(10)
    worker = rig.worker()
    await started(rig)
    await close(worker)
    await rig.send(5)
    worker = rig.worker()
    await rig.stored()
    await close(worker)
    assert await rig.one("SELECT count(), min(__offset) FROM EV") == ["5", "10"]


async def test_a_partition_that_is_added_later_is_read_from_its_start(rig: Rig) -> None:
    rig.options = LATEST
    worker = rig.worker()
    await started(rig)
    await close(worker)
    admin = await rig.log.topics._started()
    await admin.create_partitions({rig.topic: NewPartitions(total_count=2)})
    rig.log.topics.forget(rig.topic)

    async def is_there() -> bool:
        return await rig.log.create_topic(rig.topic) == 2

    await until(is_there)
    await rig.send(5)
    await rig.send(5)
    worker = rig.worker()
    await rig.stored()
    await close(worker)
    await rig.assert_exactly_once()
    assert await rig.one("SELECT DISTINCT __partition FROM EV ORDER BY 1") == ["0", "1"]


async def test_without_a_policy_a_new_group_waits_for_a_person(rig: Rig) -> None:
    rig.options = structs.replace(QUICK, reset="error")
    await rig.send(5)
    worker = rig.worker()

    async def is_held() -> bool:
        return bool(worker.held)

    await until(is_held)
    (reason,) = worker.held.values()
    assert "KAFKA_AUTO_OFFSET_RESET" in reason
    await close(worker)


async def test_another_group_goes_on_behind_what_the_table_has(rig: Rig) -> None:
    await rig.send(20)
    worker = rig.worker()
    await rig.stored()
    await close(worker)
    rig.group += ".other"
    await rig.send(5)
    worker = rig.worker()
    await rig.stored()
    await close(worker)
    await rig.assert_exactly_once()


async def test_a_group_that_is_moved_back_stores_nothing_twice(rig: Rig) -> None:
    await rig.send(20)
    worker = rig.worker()
    await rig.stored()
    await close(worker)
    source = rig.source()
    async with asyncio.timeout(60):
        while not (poll := await source.poll(max_rows=1, max_bytes=1, timeout_s=0.2)).assigned:
            pass
    assert await source.commit(poll.assigned[0].partition, 7, "")
    await source.close()
    await rig.send(5)
    worker = rig.worker()
    await rig.stored()
    await close(worker)
    await rig.assert_exactly_once()


async def test_what_retention_took_is_a_gap_and_the_rest_is_stored(rig: Rig) -> None:
    await rig.send(10)
    worker = rig.worker()
    await rig.stored()
    await close(worker)
    await rig.send(30)
    admin = await rig.log.topics._started()
    tp = TopicPartition(rig.topic, 0)
    await admin.delete_records({tp: RecordsToDelete(before_offset=25)})
    worker = rig.worker()
    await rig.stored()
    await close(worker)
    assert await rig.one("SELECT count(), uniqExact(__offset) FROM EV") == ["25", "25"]
    (gap,) = [entry for entry in rig.entries if entry.kind == "gap"]
    assert (gap.first, gap.next) == (10, 25)


async def test_a_topic_that_is_made_anew_is_another_stream(rig: Rig) -> None:
    await rig.send(10)
    worker = rig.worker()
    await rig.stored()
    await close(worker)
    admin = await rig.log.topics._started()
    await admin.delete_topics([rig.topic])
    rig.log.topics.forget(rig.topic)
    rig.ends.clear()

    async def is_gone() -> bool:
        return not await rig.log.topics._count(admin, rig.topic)

    await until(is_gone)
    await rig.send(4)
    worker = rig.worker()
    await rig.stored()
    await close(worker)
    await rig.assert_exactly_once_by_id()
    assert await rig.one("SELECT uniqExact(__stream) FROM EV") == ["2"]


async def test_a_killed_worker_that_retention_overtook_reports_what_it_lost(rig: Rig) -> None:
    await rig.send(10)
    worker = rig.worker()
    await started(rig)
    await kill(worker)
    await rig.send(10)
    admin = await rig.log.topics._started()
    tp = TopicPartition(rig.topic, 0)
    await admin.delete_records({tp: RecordsToDelete(before_offset=15)})
    worker = rig.worker()
    await rig.stored()
    await close(worker)
    stored = {int(o) for o in await rig.one("SELECT __offset FROM EV")}
    lost = {o for e in rig.entries if e.kind == "gap" for o in range(e.first, e.next)}
    assert stored | lost == set(range(20))
    assert not stored & lost
    assert "gap" in kinds(rig)


async def test_a_reader_that_retention_overtakes_is_assigned_anew(rig: Rig) -> None:
    await rig.send(10)
    source = rig.source()
    assigned: list[Assignment] = []
    revoked: list[Partition] = []

    async def is_assigned() -> bool:
        poll = await source.poll(max_rows=1, max_bytes=1, timeout_s=0.05)
        assigned.extend(poll.assigned)
        revoked.extend(poll.revoked)
        return bool(assigned)

    async def is_revoked() -> bool:
        await is_assigned()
        return bool(revoked)

    await until(is_assigned)
    partition = assigned.pop().partition
    admin = await rig.log.topics._started()
    await admin.delete_records({TopicPartition(rig.topic, 0): RecordsToDelete(before_offset=5)})
    source.open(partition, 0)
    await until(is_revoked)
    # What was under way may still be finished.
    assert source.holds(partition)
    assert await source.commit(partition, 3, "")
    assert not assigned
    source.let_go(partition)
    await until(is_assigned)
    assert (assigned[0].offset, assigned[0].log_start) == (3, 5)
    source.open(partition, 5)

    async def reads_on() -> bool:
        poll = await source.poll(max_rows=1, max_bytes=1, timeout_s=0.05)
        return any(chunk.offsets[0] == 5 for chunk in poll.chunks)

    await until(reads_on)
    await source.close()
