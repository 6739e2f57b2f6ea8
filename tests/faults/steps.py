"""``kill -9`` of a worker at every step of a delivery; each is reached for certain, none by chance.

Lanes have a topic and a group of their own and share broker, server and tables. In each a worker
dies, the next one takes over and dies one step further on. In the end everything that was sent is
compared record by record with table, views and quarantine.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager

from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from msgspec import structs

from ingest.log.kafka_connection import plain_connection
from ingest.log.kafka_facts import KafkaLogFacts
from tests.faults.lane import Cluster, Death, Lane
from tests.faults.truth import Figures, verify
from tests.faults.world import TABLE, World, open_place
from tests.standin.process import Standin

# A range from its first record: claim, look ahead, open, declare, insert, quarantine, close.
FRESH = (
    Death("commit", "before", 1, False),
    Death("commit", "after", 1, False),
    Death("lookahead", "before", 1, False),
    Death("lookahead", "after", 1, False),
    Death("open", "before", 1, False),
    Death("open", "after", 1, False),
    Death("commit", "before", 2, False),
    Death("commit", "after", 2, True),
)
# What another worker left open: claim, read again, insert, quarantine, close.
LEFT_OPEN = (
    Death("commit", "after", 2, True),
    Death("commit", "before", 1, True),
    Death("commit", "after", 1, True),
    Death("readagain", "before", 1, True),
    Death("readagain", "after", 1, True),
    Death("insert", "before", 1, True),
    Death("insert", "after", 1, True),
    Death("quarantine", "before", 1, True),
    Death("quarantine", "after", 1, True),
    Death("commit", "before", 2, True),
    Death("commit", "after", 2, False),
)
# A first attempt, behind the range that the worker before left open.
FIRST_ATTEMPT = (
    Death("insert", "before", 1, True),
    Death("insert", "after", 2, True),
    Death("quarantine", "before", 2, True),
    Death("quarantine", "after", 2, True),
    Death("commit", "before", 4, True),
    Death("commit", "after", 4, False),
    Death("close", "before", 1, False),
    Death("close", "after", 1, False),
)
# ClickHouse refuses a row of a range that may be stored already: look, search, exclude, insert.
REFUSED_AGAIN = (
    Death("search", "before", 1, True),
    Death("look", "before", 1, True),
    Death("look", "after", 1, True),
    Death("search", "before", 1, True),
    Death("search", "after", 1, True),
    Death("commit", "before", 2, True),
    Death("commit", "after", 2, True),
    Death("quarantine", "before", 1, True),
    Death("quarantine", "after", 1, True),
)
# It refuses one at the first attempt, behind the range that the worker before left open.
REFUSED = (
    Death("search", "after", 1, True),
    Death("commit", "before", 5, True),
    Death("commit", "after", 5, True),
    Death("insert", "before", 3, True),
    Death("insert", "after", 3, True),
)
DECLARED = Death("commit", "after", 2, True)
CLOSED = Death("commit", "after", 3, False)
_ids = itertools.count(1)
_SLOW_S = 2.0
_PATIENCE_S = 60.0
Values = Callable[[], Sequence[bytes | None]]


def good() -> bytes:
    number = next(_ids)
    at = f"2024-0{number % 3 + 1}-03 00:00:00"
    return json.dumps({"id": number, "value": number % 1000, "at": at}).encode()


def mixed() -> Sequence[bytes | None]:
    """Rows, a tombstone, and one that does not fit."""
    return [good(), good(), b'{"id": "x"}', None, good()]


def refused() -> Sequence[bytes | None]:
    """Beside them one that only ClickHouse refuses."""
    return [*mixed(), json.dumps({"id": 1, "value": -1, "at": "2024-01-03 00:00:00"}).encode()]


@asynccontextmanager
async def open_cluster(world: World) -> AsyncIterator[Cluster]:
    servers = world.broker.bootstrap_servers
    async with AIOKafkaProducer(bootstrap_servers=servers, acks="all") as producer:
        admin = AIOKafkaAdminClient(bootstrap_servers=servers)
        facts = KafkaLogFacts(plain_connection(servers))
        try:
            await admin.start()
            yield Cluster(producer=producer, admin=admin, facts=facts)
        finally:
            await facts.close()
            await admin.close()


async def walk(lane: Lane, deaths: Sequence[Death]) -> None:
    await lane.create()
    await lane.die(*deaths)
    await lane.finish()


async def lose_records(lane: Lane) -> None:
    """Retention takes a part of what would be read next."""
    await lane.create()
    await lane.die(CLOSED)
    await lane.snapshot()
    await lane.send()
    await lane.lose(await lane.end() - 2)
    await lane.die(Death("reportgap", "before", 1, False), Death("reportgap", "after", 1, False))
    await lane.finish()


async def wait_for_a_person(lane: Lane) -> None:
    """The group stands behind the end of the log."""
    await lane.create()
    await lane.die(CLOSED)
    position = await lane.position()
    assert position is not None
    await lane.move(structs.replace(position, offset=position.offset + 1_000))
    await lane.die(Death("hold", "before", 1, False), Death("hold", "after", 1, False))
    await lane.move(position)
    await lane.finish()


async def outlive_the_engine(lane: Lane, standin: Standin) -> None:
    """ClickHouse is started anew while a range is open, so that its answer is doubtful."""
    await lane.create()
    await lane.die(DECLARED)
    await asyncio.to_thread(standin.restart)
    await lane.die(Death("verify", "before", 1, True), Death("verify", "after", 1, True))
    await lane.finish()


async def declare_two(lane: Lane, standin: Standin) -> None:
    """More is ready when a range is closed: the same commit declares it."""
    await lane.create()
    await lane.send()
    standin.fault("delay", at="before", table=TABLE, seconds=_SLOW_S, times=1)
    declared = structs.replace(CLOSED, leaves_open=True)
    lane.start(declared)
    async with asyncio.timeout(_PATIENCE_S):
        while True:
            if standin.faults()[0].get("hits"):
                break
            await asyncio.sleep(0.02)
    await lane.send()
    await lane.dead(declared)
    standin.clear_faults()
    await lane.finish()


async def one_by_one(*walks: Coroutine[None, None, None]) -> None:
    for each in walks:
        await each


async def die_at_every_step(world: World) -> Figures:
    """Let workers die at every step, one after another, and compare.

    Raises:
        AssertionError: A step was not reached, or something is lost or doubled.
    """
    place = open_place(world, "steps")
    async with open_cluster(world) as cluster:

        def lane(name: str, values: Values = mixed, **environ: str) -> Lane:
            return Lane(place, cluster, name, values, environ)

        fresh, left, first = lane("fresh"), lane("left"), lane("first")
        once, again = lane("once", refused), lane("again", refused)
        gap, held, doubted = lane("gap"), lane("held"), lane("doubted")
        two = lane("two", PIPEHOUSE_BATCH_MAX_ROWS="1")
        lanes = (fresh, left, first, once, again, gap, held, doubted, two)
        try:
            await asyncio.gather(
                walk(fresh, FRESH),
                walk(left, LEFT_OPEN),
                walk(first, FIRST_ATTEMPT),
                # Both would search in one and the same table.
                one_by_one(walk(once, REFUSED), walk(again, REFUSED_AGAIN)),
                one_by_one(lose_records(gap), wait_for_a_person(held)),
            )
            # These need the server for themselves.
            await outlive_the_engine(doubted, world.standin)
            await declare_two(two, world.standin)
        finally:
            for each in lanes:
                await asyncio.to_thread(each.close)
        truth = [record for each in lanes for record in each.truth]
    return verify(place, truth, engine_died=False)
