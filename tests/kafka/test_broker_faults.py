"""The broker is killed, restarted or silent, while producers and pipelines go on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator

import pytest

from deploy.kafka.broker import Broker
from shared.clickhouse.embedded import EmbeddedClickHouse
from shared.errors import LogUnavailableError
from tests.kafka.fixture import KafkaBroker, start_broker
from tests.kafka.rig import Rig, close, open_rig


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A broker of its own, which these tests may kill."""
    started = start_broker(tmp_path_factory.mktemp("kafka"))
    yield started
    started.stop()


@pytest.fixture
async def rig(engine: EmbeddedClickHouse, broker: Broker) -> AsyncIterator[Rig]:
    async with open_rig(engine, KafkaBroker(broker.bootstrap_servers, broker)) as made:
        yield made


async def sent_at_last(rig: Rig, count: int) -> int:
    """Send until it is acknowledged; how often it was not."""
    failures = 0
    start_s = time.monotonic()
    while True:
        try:
            await rig.send(count)
        except LogUnavailableError:
            assert time.monotonic() - start_s < 60
            # Whether these were appended nobody knows: their ids are not used again.
            failures += 1
            await asyncio.sleep(0.2)
        else:
            return failures


async def assert_each_offset_once(rig: Rig) -> None:
    rows = await rig.one(
        "SELECT count() = uniqExact(__partition, __offset), count() = (SELECT sum(n) FROM"
        " EV_view_target) FROM EV"
    )
    assert rows == ["1", "1"]
    for partition, end in rig.ends.items():
        found = await rig.one(
            f"SELECT count() FROM EV WHERE __partition = {partition.number} AND __offset < {end}"
        )
        assert found == [str(end)]


async def test_a_broker_that_is_killed_and_comes_back_loses_and_doubles_nothing(
    rig: Rig, broker: Broker
) -> None:
    worker = rig.worker()
    await rig.send(200)
    for _ in range(2):
        await asyncio.to_thread(broker.kill)
        starting = asyncio.create_task(asyncio.to_thread(broker.start))
        await sent_at_last(rig, 100)
        await starting
    await sent_at_last(rig, 100)
    await rig.stored(60)
    await close(worker)
    await assert_each_offset_once(rig)


async def test_a_broker_that_is_silent_for_longer_than_the_session_loses_and_doubles_nothing(
    rig: Rig, broker: Broker
) -> None:
    worker = rig.worker()
    await rig.send(200)
    sending = asyncio.create_task(sent_at_last(rig, 100))
    broker.suspend()
    await asyncio.sleep(rig.options.session_timeout_s + 1.0)
    broker.resume()
    await sending
    await sent_at_last(rig, 100)
    await rig.stored(60)
    await close(worker)
    await assert_each_offset_once(rig)
