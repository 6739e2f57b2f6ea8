"""The broker is killed, restarted or silent, while producers and pipelines go on."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Iterator

import pytest
from msgspec import structs

from deploy.kafka.broker import HOST, Broker
from ingest.chunk import Partition
from ingest.log.kafka import KafkaLog, KafkaLogOptions
from ingest.log.kafka_connection import plain_connection
from shared.clickhouse.embedded import EmbeddedClickHouse
from shared.errors import LogUnavailableError
from tests.kafka.fixture import KafkaBroker, start_broker
from tests.kafka.rig import Rig, close, open_rig, until
from tests.proxy import Proxy


@pytest.fixture(scope="module")
def proxied(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Broker, Proxy]]:
    """A broker of its own, which these tests may kill, behind a proxy that fails on request."""
    with Proxy(HOST, 0) as proxy:
        started = start_broker(tmp_path_factory.mktemp("kafka"), proxy_port=proxy.port)
        proxy.target(HOST, started.ports.behind_proxy)
        yield started, proxy
        started.stop()


@pytest.fixture
def broker(proxied: tuple[Broker, Proxy]) -> Broker:
    return proxied[0]


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


async def test_answers_that_are_lost_after_they_took_effect_lose_and_double_nothing(
    rig: Rig, proxied: tuple[Broker, Proxy]
) -> None:
    """Commits are among them: their member must leave the group, or a late copy would count."""
    _, proxy = proxied
    chance = random.Random(7)
    # Workers go through the proxy, producers do not.
    rig.connection = plain_connection(f"{HOST}:{proxy.port}")
    worker = rig.worker()
    for number in range(12):
        await rig.send(50)
        await asyncio.sleep(chance.uniform(0.05, 0.3))
        match number % 3:
            case 0:
                proxy.cut_after(chance.randrange(200))
            case 1:
                proxy.cut_after(chance.randrange(200), "request")
            case 2:
                proxy.cut(reset=True)
    await rig.stored(60)
    await close(worker)
    await rig.assert_exactly_once()


async def test_a_commit_that_is_not_answered_makes_the_member_leave(
    rig: Rig, proxied: tuple[Broker, Proxy]
) -> None:
    _, proxy = proxied
    rig.connection = plain_connection(f"{HOST}:{proxy.port}")
    source = rig.source(structs.replace(rig.options, commit_timeout_s=2.0))
    found: list[Partition] = []

    async def is_assigned() -> bool:
        poll = await source.poll(max_rows=1, max_bytes=1, timeout_s=0.05)
        for partition in poll.revoked:
            source.let_go(partition)
        found.extend(a.partition for a in poll.assigned)
        return bool(found)

    await until(is_assigned)
    assert source._member is not None
    partition, before = found[0], source._member.membership
    proxy.swallow("answer")
    assert not await source.commit(partition, 3, "unknown")
    assert source._member.membership != before
    assert not source.holds(partition)
    proxy.resume()
    proxy.cut()
    found.clear()
    await until(is_assigned)
    assert source._member.membership != before
    assert source.holds(found[0])
    assert await source.commit(found[0], 0, "known")
    await source.close()


async def test_a_producer_hears_in_time_that_the_broker_is_silent_and_nothing_of_it_stays_behind(
    broker: Broker,
) -> None:
    options = KafkaLogOptions(request_timeout_s=1.0)
    kafka = KafkaLog(plain_connection(broker.bootstrap_servers), options)
    topic = f"silent-{random.randrange(1 << 40):x}"
    await kafka.append(topic, [b"before"])
    broker.suspend()
    try:
        async with asyncio.timeout(10):
            with pytest.raises(LogUnavailableError, match="no answer within 1 s"):
                await kafka.append(topic, [b"lost"])
        assert "inflight=0" in repr(kafka)
    finally:
        broker.resume()
    async with asyncio.timeout(60):
        while True:
            try:
                appended = await kafka.append(topic, [b"after"])
            except LogUnavailableError:
                await asyncio.sleep(0.2)
            else:
                break
    assert appended.next > appended.first
    await kafka.close()
