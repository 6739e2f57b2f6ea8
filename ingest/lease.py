"""A lease: one holder at a time among all processes that share a ClickHouse.

ClickHouse has no compare-and-set, but of two inserts under one deduplication token it keeps the
first. Taking term ``n`` is an insert under a token that names the term; who finds its own name in
that term afterwards has it.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
from msgspec import Struct

from shared.clickhouse.contract import ClickHouse, Insert, Statement
from shared.clickhouse.prepare import prepare_table
from shared.clickhouse.rows import Rows
from shared.clock import Clock
from shared.errors import ConflictError

DATABASE = "pipehouse"
TABLE = "leases"
# A holder that was not heard of for so long is taken for dead.
LEASE_MS = 120_000

TABLES = (
    f"CREATE DATABASE IF NOT EXISTS {DATABASE}",
    f"CREATE TABLE IF NOT EXISTS {DATABASE}.leases ("
    "name String, term UInt64, holder String, boot String, kind LowCardinality(String),"
    " at Int64, until Int64)"
    " ENGINE = MergeTree ORDER BY (name, term, at)"
    " SETTINGS non_replicated_deduplication_window = 10000",
)
_COLUMNS = (
    ("name", "String"),
    ("term", "UInt64"),
    ("holder", "String"),
    ("boot", "String"),
    ("kind", "LowCardinality(String)"),
    ("at", "Int64"),
    ("until", "Int64"),
)


class _Term(Struct):
    term: int
    holder: str
    boot: str
    until: int


class Lease:
    """A lease that is held; made by ``take_lease``."""

    def __init__(
        self, clickhouse: ClickHouse, clock: Clock, name: str, term: int, holder: str
    ) -> None:
        self._clickhouse = clickhouse
        self._clock = clock
        self._name = name
        self._term = term
        self._holder = holder

    async def renew(self) -> None:
        """Hold it for another while.

        Raises:
            ConflictError: It ran out and somebody else has it.
        """
        last = await _last_term(self._clickhouse, self._name)
        if last is None or last.term != self._term:
            raise ConflictError(f"The lease '{self._name}' ran out and was taken by another.")
        await self._say("beat", self._clock.now_ms() + LEASE_MS)

    async def release(self) -> None:
        """Let others take it."""
        await self._say("release", 0)

    async def _say(self, kind: str, until: int, token: str = "") -> None:
        row = {
            "name": self._name,
            "term": self._term,
            "holder": self._holder,
            "boot": self._clickhouse.boot_id,
            "kind": kind,
            "at": self._clock.now_ms(),
            "until": until,
        }
        await self._clickhouse.insert(
            Insert(
                database=DATABASE,
                table="leases",
                columns=_COLUMNS,
                block=Rows([row]),
                token=token,
            )
        )

    async def take(self) -> None:
        """Take the term; somebody else may be faster.

        Raises:
            ConflictError: Somebody else was.
        """
        await self._say(
            "take", self._clock.now_ms() + LEASE_MS, token=f"lease:{self._name}:{self._term}"
        )
        last = await _last_term(self._clickhouse, self._name)
        if last is None or (last.term, last.holder) != (self._term, self._holder):
            raise ConflictError(f"'{self._name}' is being done by another process.")


@asynccontextmanager
async def take_lease(
    clickhouse: ClickHouse, clock: Clock, name: str, holder: str
) -> AsyncIterator[Lease]:
    """Hold the lease of this name meanwhile.

    After a crash it is free again once ``LEASE_MS`` are over.

    Raises:
        ConflictError: Another holder has it.
    """
    await prepare_table(clickhouse, DATABASE, TABLE, TABLES)
    last = await _last_term(clickhouse, name)
    now_ms = clock.now_ms()
    if last is not None and last.until > now_ms and not _is_dead(clickhouse, last):
        raise ConflictError(
            f"'{name}' is being done by {last.holder}.",
            hint=f"Wait; should that process be dead, it is free in {(last.until - now_ms) // 1000}"
            " s.",
        )
    own = f"{holder}/{uuid.uuid4().hex[:8]}"
    lease = Lease(clickhouse, clock, name, (last.term if last else 0) + 1, own)
    await lease.take()
    try:
        yield lease
    finally:
        await lease.release()


def _is_dead(clickhouse: ClickHouse, last: _Term) -> bool:
    """Whether the holder certainly lives no more: it was in one process with an earlier engine."""
    return clickhouse.capabilities.shares_process and last.boot != clickhouse.boot_id


async def _last_term(clickhouse: ClickHouse, name: str) -> _Term | None:
    result = await clickhouse.fetch(
        Statement(
            sql="SELECT l.term AS term, anyIf(l.holder, l.kind = 'take') AS holder,"
            " anyIf(l.boot, l.kind = 'take') AS boot,"
            " if(countIf(l.kind = 'release') > 0, 0, max(l.until)) AS until"
            f" FROM {DATABASE}.leases AS l WHERE l.name = {{name:String}}"
            " GROUP BY l.term ORDER BY l.term DESC LIMIT 1",
            parameters={"name": name},
            format="JSONEachRow",
            settings={"output_format_json_quote_64bit_integers": 0},
        )
    )
    rows = msgspec.json.Decoder(_Term).decode_lines(result.body)
    return rows[0] if rows else None
