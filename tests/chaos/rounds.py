"""Kill the server again and again under constant ingest, and count every event afterwards."""

from __future__ import annotations

import asyncio
import json
import random
import signal
from collections.abc import Iterator
from contextlib import suppress

import httpx
from msgspec import Struct, field

from tests.chaos.site import Site, Victim, ask, orphans, wait_until_dead

STEPS = [
    (action, moment)
    for action in ("commit", "insert", "quarantine", "close")
    for moment in ("before", "after")
]
PRODUCERS = 4
SETTLE_TIMEOUT_S = 60.0


class Tally(Struct):
    """What producers know: ids that were answered 202, and the next id; mutable.

    ``bad`` are answered records that cannot be stored. ``is_suspect``: the engine was killed, so
    that a plain server may have lost rows whose token it remembers.
    """

    next_id: int = 0
    acknowledged: set[int] = field(default_factory=set)
    sent: set[int] = field(default_factory=set)
    bad: int = 0
    is_suspect: bool = False


class Settled(Struct, frozen=True, kw_only=True):
    """What a site came to: ``held`` announces a loss; ``view_lacks`` rows nobody can notice."""

    held: bool = False
    view_lacks: int = 0

    @property
    def is_whole(self) -> bool:
        """Whether it can go on."""
        return not self.held and not self.view_lacks


def events(tally: Tally, rng: random.Random) -> tuple[list[int], int, bytes]:
    """Some events over eight months, now and then one that cannot be stored."""
    count = rng.choice((1, 1, 1, 5, 50))
    ids = list(range(tally.next_id, tally.next_id + count))
    tally.next_id += count
    lines = [
        json.dumps(
            {
                "id": i,
                "sensor": f"s{i % 7}",
                "value": i % 1000,
                "at": f"2024-0{i % 8 + 1}-03 00:00:00",
            }
        )
        for i in ids
    ]
    bad = int(rng.random() < 0.1)
    lines += ['{"id": -1}'] * bad
    return ids, bad, "\n".join(lines).encode()


async def produce(victim: Victim, tally: Tally, rng: random.Random) -> None:
    """Send until the server is gone."""
    headers = {"Authorization": f"Bearer {victim.token}"}
    async with httpx.AsyncClient(base_url=victim.url, headers=headers, timeout=10) as client:
        with suppress(httpx.HTTPError):
            while True:
                ids, bad, body = events(tally, rng)
                tally.sent.update(ids)
                answer = await client.post("/v0/events?name=readings", content=body)
                if answer.status_code != 202:
                    raise AssertionError(f"{answer.status_code}: {answer.text}")
                tally.acknowledged.update(ids)
                tally.bad += bad


# Rounds -------------------------------------------------------------------------------------------


async def crash_round(site: Site, tally: Tally, rng: random.Random) -> str:
    """Run until something dies; what was done. A round leaves no process but the engine's."""
    if site.standin is not None and rng.random() < 0.6:
        return await _server_round(site, tally, rng)
    if rng.random() < 0.5:
        crash = (*rng.choice(STEPS), rng.randrange(1, 8))
        victim = await site.start(crash)
        what = " ".join(map(str, crash))
    else:
        victim = await site.start()
        what = "random moment"
    if not victim.url:
        return what + " (in recovery)"
    producers = _produce(victim, tally, rng)
    with suppress(TimeoutError):
        async with asyncio.timeout(rng.uniform(0.05, 0.8)):
            await victim.process.wait()
    await _kill(victim, producers)
    return what


async def _server_round(site: Site, tally: Tally, rng: random.Random) -> str:
    """The engine is killed, or its connections are cut; the worker meets it, and is killed too."""
    standin = site.standin
    assert standin is not None
    victim = await site.start()
    producers = _produce(victim, tally, rng)
    table = rng.choice(("readings", "readings", "readings", "readings_quarantine"))
    at = rng.choice(("query", "data", "before", "after"))
    skip = rng.randrange(3)
    match rng.choice(("die", "die", "kill", "cut", "reset")):
        case "die":
            what = f"engine dies {at} insert {skip + 1} into {table}"
            standin.fault("die", at=at, table=table, skip=skip)
            if not await asyncio.to_thread(wait_until_dead, standin, 1.5):
                what += ", not reached"
            await _restart(site, tally)
        case "kill":
            what = "engine killed at a random moment"
            await asyncio.sleep(rng.uniform(0.05, 0.8))
            await _restart(site, tally)
        case action:
            what = f"{action} {at} insert {skip + 1} into {table}"
            standin.fault(action, at=at, table=table, skip=skip, times=rng.randrange(1, 3))
    await asyncio.sleep(rng.uniform(0.1, 0.8))
    await _kill(victim, producers)
    standin.clear_faults()
    return what


async def _restart(site: Site, tally: Tally) -> None:
    assert site.standin is not None
    tally.is_suspect = True
    await asyncio.to_thread(site.standin.restart, kill=True)


def _produce(victim: Victim, tally: Tally, rng: random.Random) -> list[asyncio.Task[None]]:
    return [asyncio.create_task(produce(victim, tally, rng)) for _ in range(PRODUCERS)]


async def _kill(victim: Victim, producers: list[asyncio.Task[None]]) -> None:
    if victim.process.returncode is None:
        victim.process.send_signal(signal.SIGKILL)
    await victim.process.wait()
    await asyncio.gather(*producers)


# Afterwards ---------------------------------------------------------------------------------------


async def verify(site: Site, tally: Tally) -> Settled:
    """Start once more, wait until everything is stored, and compare with what producers know."""
    victim = await site.start()
    headers = {"Authorization": f"Bearer {victim.token}"}
    async with httpx.AsyncClient(base_url=victim.url, headers=headers, timeout=60) as client:

        async def fetch(sql: str) -> list[int]:
            answer = await client.get("/v0/sql", params={"q": sql})
            assert answer.status_code == 200, answer.text
            return [int(value) for value in answer.text.split()]

        held = not await _settle(client, tally)
        stored = await fetch("SELECT id FROM readings")
        sums = await fetch("SELECT sum(readings), sum(ids) FROM readings_by_month")
        quarantined = await fetch(
            "SELECT count(), uniqExact(__offset) FROM readings_quarantine FINAL"
        )
    victim.process.send_signal(signal.SIGTERM)
    await victim.process.wait()
    check(tally, stored, quarantined, held=held)
    if held:
        assert _orphans_of(site, "readings"), "held, although the engine has lost nothing"
        return Settled(held=True)
    view_lacks = len(stored) - sums[0]
    if view_lacks:
        # A token without its part in the view's target: no comparison with offsets shows it.
        assert tally.is_suspect and _orphans_of(site, "readings_by_month"), f"the view says {sums}"
        assert view_lacks > 0
    else:
        assert sums[1] == sum(stored), f"the view says {sums}"
    return Settled(view_lacks=view_lacks)


async def _settle(client: httpx.AsyncClient, tally: Tally) -> bool:
    """Wait until everything is stored; False when a partition waits for a person."""
    async with asyncio.timeout(SETTLE_TIMEOUT_S):
        while True:
            ids, bad, body = events(tally, random.Random(1))
            tally.sent.update(ids)
            answer = await client.post("/v0/events?name=readings&wait=true", content=body)
            if answer.status_code == 200:
                tally.acknowledged.update(ids)
                tally.bad += bad
                return True
            metrics = (await client.get("/metrics")).text
            if 'pipehouse_held_partitions{datasource="readings"} 1' in metrics:
                assert tally.is_suspect, "held, although the engine was never killed"
                return False


def _orphans_of(site: Site, table: str) -> int:
    assert site.standin is not None
    where = f"database = 'chaos' AND name = '{table}'"
    uuid = ask(site.standin, f"SELECT uuid FROM system.tables WHERE {where}").strip()
    return orphans(site.folder / "server").get(uuid, 0)


def check(tally: Tally, stored: list[int], quarantined: list[int], *, held: bool) -> None:
    assert len(stored) == len(set(stored)), f"doubled: {sorted(twice(stored))[:10]}"
    assert set(stored) <= tally.sent, "stored but never sent"
    assert quarantined[0] == quarantined[1], "doubled in quarantine"
    if held:
        return
    missing = tally.acknowledged - set(stored)
    assert not missing, f"lost: {sorted(missing)[:10]} ({len(missing)})"
    assert quarantined[0] >= tally.bad, f"lost from quarantine: {tally.bad - quarantined[0]}"


def twice(values: list[int]) -> Iterator[int]:
    seen: set[int] = set()
    for value in values:
        if value in seen:
            yield value
        seen.add(value)
