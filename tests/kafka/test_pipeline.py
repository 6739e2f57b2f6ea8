"""From Kafka into the engine: every record once, in the table and in its view."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from shared.clickhouse.embedded import EmbeddedClickHouse
from tests.kafka.fixture import KafkaBroker
from tests.kafka.rig import Rig, close, kill, open_rig


@pytest.fixture
async def rig(engine: EmbeddedClickHouse, kafka_broker: KafkaBroker) -> AsyncIterator[Rig]:
    async with open_rig(engine, kafka_broker) as made:
        yield made


async def test_events_are_stored_and_bad_ones_quarantined(rig: Rig) -> None:
    worker = rig.worker()
    for _ in range(4):
        await rig.send(500, bad=2)
    await rig.stored()
    await close(worker)
    await rig.assert_exactly_once(quarantined=8)


async def test_a_worker_that_is_killed_leaves_everything_to_the_next(rig: Rig) -> None:
    for _ in range(3):
        worker = rig.worker()
        for _ in range(6):
            await rig.send(200)
            await asyncio.sleep(0.03)
        await kill(worker)
    worker = rig.worker()
    await rig.stored()
    await close(worker)
    await rig.assert_exactly_once()


async def test_members_that_come_and_go_store_nothing_twice(rig: Rig) -> None:
    one = rig.worker()
    for _ in range(3):
        two = rig.worker()
        for _ in range(10):
            await rig.send(100)
            await asyncio.sleep(0.05)
        await close(two)
    await rig.stored()
    await close(one)
    await rig.assert_exactly_once()
