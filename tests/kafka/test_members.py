"""Rebalances, leases and limits: what a worker does that is not alone, or not well."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer
from msgspec import structs

from ingest.chunk import Partition
from ingest.source.contract import Poll
from ingest.source.kafka import KafkaSource
from shared.clickhouse.contract import ClickHouse, Insert, Statement, Summary
from shared.clickhouse.embedded import EmbeddedClickHouse
from tests.kafka.fixture import KafkaBroker
from tests.kafka.rig import Rig, close, open_rig, until


@pytest.fixture
async def rig(engine: EmbeddedClickHouse, kafka_broker: KafkaBroker) -> AsyncIterator[Rig]:
    async with open_rig(engine, kafka_broker) as made:
        yield made


class SlowEngine:
    """The real engine; each insert into the landing table takes its time."""

    def __init__(self, engine: ClickHouse, delay_s: float) -> None:
        self._engine = engine
        self._delay_s = delay_s
        self.inserts = 0

    def __getattr__(self, name: str) -> object:
        return getattr(self._engine, name)

    async def insert(self, insert: Insert) -> Summary:
        self.inserts += 1
        await asyncio.sleep(self._delay_s)
        return await self._engine.insert(insert)


async def test_a_range_under_way_is_finished_before_the_group_rebalances(rig: Rig) -> None:
    slow = SlowEngine(rig.engine, 0.7)
    one = rig.worker(engine=slow)
    await rig.send(300)
    await rig.send(300)

    async def is_inserting() -> bool:
        return slow.inserts > 0

    await until(is_inserting)
    two = rig.worker()
    await rig.stored()
    # Nobody had to send a block a second time.
    assert slow.inserts <= 3
    await close(one)
    await close(two)
    await rig.assert_exactly_once()


async def test_two_members_share_the_partitions(rig: Rig) -> None:
    one, two = rig.source(), rig.source()
    held: dict[KafkaSource, set[Partition]] = {one: set(), two: set()}

    async def share() -> bool:
        for source, mine in held.items():
            poll = await source.poll(max_rows=1, max_bytes=1, timeout_s=0.05)
            for partition in poll.revoked:
                mine.discard(partition)
                source.let_go(partition)
            mine |= {a.partition for a in poll.assigned}
        return [len(mine) for mine in held.values()] == [1, 1]

    await until(share)
    assert not held[one] & held[two]
    (mine,), (other,) = held[one], held[two]
    assert one.holds(mine) and not one.holds(other)
    assert not await one.commit(other, 1, "")
    await one.close()
    await two.close()


async def test_nothing_is_sent_on_an_old_lease(rig: Rig) -> None:
    lapsed = structs.replace(rig.options, session_timeout_s=6.0)
    source = rig.source(lapsed)
    found: list[Partition] = []

    async def is_assigned() -> bool:
        poll = await source.poll(max_rows=1, max_bytes=1, timeout_s=0.05)
        found.extend(a.partition for a in poll.assigned)
        return bool(found)

    await until(is_assigned)
    assert source.holds(found[0])
    assert source._member is not None
    # As if the machine had slept since the last answer.
    source._member._renewed_s -= lapsed.lease_s
    assert not source.holds(found[0])
    assert await source.commit(found[0], 0, "")
    assert source.holds(found[0])
    await source.close()


async def test_a_pipeline_stops_when_most_rows_are_bad(rig: Rig) -> None:
    worker = rig.worker(max_quarantine_ratio=0.5)
    await rig.send(10)
    await rig.stored()
    for _ in range(4):
        await rig.log.append(rig.topic, [b'{"id": "x"}'] * 4_000)
    task = worker._running[rig.name].task
    await asyncio.wait({task}, timeout=60)
    assert task.done()
    gave_up = worker._running[rig.name].pipeline.gave_up
    assert "of the latest" in gave_up
    assert "max_quarantine_ratio" in gave_up
    await close(worker)
    assert int((await rig.one("SELECT count() FROM EV_quarantine"))[0]) < 16_000


async def test_a_data_source_that_goes_stops_and_goes_on_when_it_comes_back(rig: Rig) -> None:
    worker = rig.worker()
    await rig.send(50)
    await rig.stored()
    worker.start({})
    worker.start({rig.name: rig.datasource})
    await rig.send(50)
    await rig.stored()
    worker.start({})

    async def is_gone() -> bool:
        return not worker._running and not worker._retiring

    await until(is_gone)
    await close(worker)
    await rig.assert_exactly_once()


async def test_many_refused_rows_leave_the_commit_for_the_store(rig: Rig) -> None:
    """Their offsets do not fit into the metadata of a commit."""
    await rig.engine.execute(
        Statement(
            sql=f"ALTER TABLE {rig.name} ADD CONSTRAINT odd CHECK id % 2 = 1 OR id >= 1000000"
        )
    )
    await rig.send(400)
    worker = rig.worker()
    await rig.stored()
    await close(worker)
    assert await rig.one("SELECT count() FROM EV") == ["200"]
    assert await rig.one("SELECT sum(n) FROM EV_view_target") == ["200"]
    assert await rig.one("SELECT uniqExact(__offset) FROM EV_quarantine") == ["200"]
    assert int((await rig.one("SELECT count() FROM pipehouse.excluded_offsets"))[0]) > 0


async def test_a_member_polls_on_while_nobody_tells_where_partitions_begin(rig: Rig) -> None:
    source = rig.source()
    asked: list[AIOKafkaConsumer] = []

    async def ask(consumer: AIOKafkaConsumer, *_: object) -> Any:
        asked.append(consumer)
        await asyncio.Event().wait()

    source._ask = ask

    async def is_asked() -> bool:
        await source.poll(max_rows=1, max_bytes=1, timeout_s=0.2)
        return bool(asked)

    await until(is_asked)
    async with asyncio.timeout(10):
        poll = await source.poll(max_rows=1, max_bytes=1, timeout_s=0.2)
    assert poll == Poll()
    assert asked[0]._subscription.fetcher_idle_time < 0.2
    assert len(asked) == 1
    await source.close()


async def test_a_client_that_has_failed_in_the_background_is_replaced(rig: Rig) -> None:
    worker = rig.worker()
    await rig.send(20)
    await rig.stored()
    source = worker._running[rig.name].pipeline.source
    assert isinstance(source, KafkaSource)

    def fail(*given: object) -> None:
        raise RuntimeError("a mistake of the library")

    for owner, routine in (("_fetcher", "_get_actions_per_node"), ("_coordinator", "need_rejoin")):
        consumer = source._consumer
        assert consumer is not None
        setattr(getattr(consumer, owner), routine, fail)
        consumer._coordinator.request_rejoin()
        await rig.send(20)
        await rig.stored()
        assert source._consumer is not consumer
    await close(worker)
    await rig.assert_exactly_once()
