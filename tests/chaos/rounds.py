"""Kill the server again and again under constant ingest, and count every event afterwards."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
from msgspec import Struct, field

ROOT = Path(__file__).parent.parent.parent
PROJECT = Path(__file__).parent / "project"
STEPS = [
    (action, moment)
    for action in ("commit", "insert", "quarantine", "close")
    for moment in ("before", "after")
]
PRODUCERS = 4


class Tally(Struct):
    """What producers know: ids that were answered 202, and the next id; mutable."""

    next_id: int = 0
    acknowledged: set[int] = field(default_factory=set)
    sent: set[int] = field(default_factory=set)


class Server(Struct):
    process: asyncio.subprocess.Process
    url: str
    token: str


async def start(data: Path, crash: tuple[str, str, int] | None = None) -> Server:
    extra = [str(part) for part in crash] if crash else []
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.chaos.victim",
        str(data),
        str(PROJECT),
        *extra,
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert process.stdout is not None
    line = (await process.stdout.readline()).decode().split()
    if len(line) != 2:
        # A crash point may lie in the recovery, before the server answers.
        await process.wait()
        return Server(process, "", "")
    return Server(process, *line)


def events(tally: Tally, rng: random.Random) -> tuple[list[int], bytes]:
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
    if rng.random() < 0.1:
        lines.append('{"id": -1}')
    return ids, "\n".join(lines).encode()


async def produce(server: Server, tally: Tally, rng: random.Random) -> None:
    """Send until the server is gone."""
    headers = {"Authorization": f"Bearer {server.token}"}
    async with httpx.AsyncClient(base_url=server.url, headers=headers, timeout=10) as client:
        with suppress(httpx.HTTPError):
            while True:
                ids, body = events(tally, rng)
                tally.sent.update(ids)
                answer = await client.post("/v0/events?name=readings", content=body)
                if answer.status_code != 202:
                    raise AssertionError(f"{answer.status_code}: {answer.text}")
                tally.acknowledged.update(ids)


async def crash_round(data: Path, tally: Tally, rng: random.Random) -> str:
    """Run the server until it dies, at a random moment or at a step; what was done."""
    if rng.random() < 0.5:
        crash = (*rng.choice(STEPS), rng.randrange(1, 8))
        server = await start(data, crash)
        what = " ".join(map(str, crash))
    else:
        server = await start(data)
        what = "random moment"
    if not server.url:
        return what + " (in recovery)"
    producers = [asyncio.create_task(produce(server, tally, rng)) for _ in range(PRODUCERS)]
    with suppress(TimeoutError):
        async with asyncio.timeout(rng.uniform(0.05, 0.8)):
            await server.process.wait()
    if server.process.returncode is None:
        server.process.send_signal(signal.SIGKILL)
    await server.process.wait()
    await asyncio.gather(*producers)
    return what


async def verify(data: Path, tally: Tally) -> None:
    """Start once more, wait until everything is stored, and compare with what producers know."""
    server = await start(data)
    headers = {"Authorization": f"Bearer {server.token}"}
    async with httpx.AsyncClient(base_url=server.url, headers=headers, timeout=60) as client:

        async def ask(sql: str) -> str:
            answer = await client.get("/v0/sql", params={"q": sql})
            assert answer.status_code == 200, answer.text
            return answer.text

        ids, body = events(tally, random.Random(1))
        tally.sent.update(ids)
        answer = await client.post("/v0/events?name=readings&wait=true", content=body)
        assert answer.status_code == 200, answer.text
        tally.acknowledged.update(ids)
        stored = [int(line) for line in (await ask("SELECT id FROM readings")).split()]
        sums = (await ask("SELECT sum(readings), sum(ids) FROM readings_by_month")).split()
        quarantined = (
            await ask("SELECT count() - uniqExact(__offset) FROM readings_quarantine FINAL")
        ).split()
    server.process.send_signal(signal.SIGTERM)
    await server.process.wait()
    check(tally, stored, sums, quarantined)


def check(tally: Tally, stored: list[int], sums: list[str], quarantined: list[str]) -> None:
    assert len(stored) == len(set(stored)), f"doubled: {sorted(twice(stored))[:10]}"
    missing = tally.acknowledged - set(stored)
    assert not missing, f"lost: {sorted(missing)[:10]} ({len(missing)})"
    assert set(stored) <= tally.sent, "stored but never sent"
    assert sums == [str(len(stored)), str(sum(stored))], f"the view says {sums}"
    assert quarantined == ["0"], "doubled in quarantine"


def twice(values: list[int]) -> Iterator[int]:
    seen: set[int] = set()
    for value in values:
        if value in seen:
            yield value
        seen.add(value)
