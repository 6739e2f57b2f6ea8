"""Answers kept for as long as the data they were made from stays the same.

An answer is found under its statement with all bindings, settings and limits (row filters of the
token are among these) and holds while the version of every table behind it is the one it was made
at. SQL that depends on the clock or on chance has an age as well, which its template must ask for.
What cannot be versioned is not kept.

The version is read *before* the query runs. Rows that arrive in between are in the answer already
and make it stale a moment early, never too late.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable

import msgspec
from msgspec import Struct, field

from query.flights import Flights
from query.planned import Planned
from query.versions import TableVersions, Versions
from shared.clickhouse.contract import ClickHouse, Result, Statement, Summary
from shared.clickhouse.statement import parameters_of
from shared.clock import Clock
from shared.errors import TooLargeError
from shared.observe.metrics import Metrics
from shared.web.compression import Encoding, compress

# What an answer weighs beside its bytes: key, headers, the memory of the tables it is made of.
_OVERHEAD_BYTES = 2048
# A larger answer is streamed: it would push out many others, and hold its bytes in memory twice.
_MAX_ANSWER_BYTES = 8 << 20
_MAX_SHARE = 4
_REMEMBERED_TOO_LARGE = 4096


class CacheKey(Struct, frozen=True, kw_only=True):
    """What an answer is found by, and for how long it may be kept.

    ``max_age_s`` is what the template asked for, None where only the data decides. ``expires``:
    the answer is worth nothing after that age, because its SQL depends on the clock or on chance.
    """

    digest: bytes
    tables: frozenset[str]
    max_age_s: int | None = None
    expires: bool = False


class Answer(Struct, kw_only=True):
    """A kept answer; mutable, because it learns what later requests need.

    ``packed`` are the compressed bodies that somebody has asked for; ``generation`` is the latest
    one of all tables at which the answer was found to hold.
    """

    digest: bytes
    body: bytes
    summary: Summary
    version: bytes
    etag: bytes
    made_s: float
    generation: int
    packed: dict[Encoding, bytes] = field(default_factory=dict)

    @property
    def weight_bytes(self) -> int:
        """What it takes of the budget."""
        return len(self.body) + sum(map(len, self.packed.values())) + _OVERHEAD_BYTES


class Found(Struct, frozen=True, kw_only=True):
    """An answer that holds, the data it holds for, and whether it was kept from before."""

    answer: Answer
    versions: Versions
    is_hit: bool
    age_s: float = 0.0


class AnswerCache:
    """Keeps answers within a budget of bytes, the longest unused go first.

    Args:
        clickhouse: Where the tables are.
        clock: What time it is.
        metrics: Where hits and misses are counted.
        max_bytes: The budget.
        for_all: Whether answers of pipes that do not ask for it are kept too.
    """

    def __init__(
        self,
        clickhouse: ClickHouse,
        clock: Clock,
        metrics: Metrics,
        *,
        max_bytes: int,
        for_all: bool = False,
    ) -> None:
        self.max_answer_bytes = min(_MAX_ANSWER_BYTES, max_bytes // _MAX_SHARE)
        self._versions = TableVersions(clickhouse, clock)
        self._clock = clock
        self._metrics = metrics
        self._max_bytes = max_bytes
        self._for_all = for_all
        self._kept: OrderedDict[bytes, Answer] = OrderedDict()
        self._bytes = 0
        self._too_large: OrderedDict[bytes, None] = OrderedDict()
        self._flights: Flights[tuple[bytes, bytes], Answer | None] = Flights()

    def key(self, planned: Planned, statement: Statement) -> CacheKey | None:
        """What the answer to a statement is kept under; None where it is not to be kept."""
        if planned.cache_ttl_s is None and (planned.is_volatile or not self._for_all):
            return None
        digest = _digest(statement)
        if digest in self._too_large:
            return None
        return CacheKey(
            digest=digest,
            tables=planned.tables,
            max_age_s=planned.cache_ttl_s,
            expires=planned.is_volatile,
        )

    async def find(self, key: CacheKey) -> Found | None:
        """A kept answer that holds; errors as in ``answer``."""
        return self._holding(key, self._versions.known() or await self._versions.current())

    async def answer(self, key: CacheKey, run: Callable[[], Awaitable[Result]]) -> Found | None:
        """A kept answer that holds, else a new one; the same question is asked once at a time.

        Args:
            key: From ``key``.
            run: Asks; an answer over ``max_answer_bytes`` is refused with ``TooLargeError``.

        Returns:
            None where the answer cannot be kept: a table has no version, or it is too large.

        Raises:
            AppError: What ``run`` raises, and what asking for versions does.
        """
        versions = await self._versions.current()
        found = self._holding(key, versions)
        if found is not None:
            return found
        version = versions.of(key.tables)
        if version is None:
            return None

        async def work() -> Answer | None:
            try:
                result = await run()
            except TooLargeError:
                self._remember_too_large(key.digest)
                return None
            return self._keep(key, version, versions.generation, result)

        self._metrics.cache_misses.inc()
        answer = await self._flights.join((key.digest, version), work)
        return Found(answer=answer, versions=versions, is_hit=False) if answer else None

    async def packed(self, answer: Answer, encoding: Encoding) -> bytes:
        """The compressed body, which is kept with the answer."""
        known = answer.packed.get(encoding)
        if known is not None:
            return known
        packed = await asyncio.to_thread(compress, answer.body, encoding)
        if encoding not in answer.packed:
            answer.packed[encoding] = packed
            if self._kept.get(answer.digest) is answer:
                self._bytes += len(packed)
                self._make_room()
        return packed

    def _holding(self, key: CacheKey, versions: Versions) -> Found | None:
        answer = self._kept.get(key.digest)
        if answer is None:
            return None
        age_s = self._clock.monotonic() - answer.made_s
        if key.expires and key.max_age_s is not None and age_s >= key.max_age_s:
            return None
        if answer.generation != versions.generation:
            if versions.of(key.tables) != answer.version:
                return None
            answer.generation = versions.generation
        self._kept.move_to_end(key.digest)
        self._metrics.cache_hits.inc()
        return Found(answer=answer, versions=versions, is_hit=True, age_s=age_s)

    def _keep(self, key: CacheKey, version: bytes, generation: int, result: Result) -> Answer:
        made_s = self._clock.monotonic()
        # Of what expires, every making is another answer.
        salt = f"{made_s}".encode() if key.expires else b""
        tag = hashlib.blake2b(key.digest + version + salt, digest_size=12).hexdigest()
        answer = Answer(
            digest=key.digest,
            body=result.body,
            summary=result.summary,
            version=version,
            etag=f'W/"{tag}"'.encode(),
            made_s=made_s,
            generation=generation,
        )
        before = self._kept.pop(key.digest, None)
        self._bytes += answer.weight_bytes - (before.weight_bytes if before else 0)
        self._kept[key.digest] = answer
        self._make_room()
        return answer

    def _make_room(self) -> None:
        while self._bytes > self._max_bytes and self._kept:
            _, dropped = self._kept.popitem(last=False)
            self._bytes -= dropped.weight_bytes
        self._metrics.cache_bytes.set(self._bytes)

    def _remember_too_large(self, digest: bytes) -> None:
        self._too_large[digest] = None
        if len(self._too_large) > _REMEMBERED_TOO_LARGE:
            self._too_large.popitem(last=False)


def _digest(statement: Statement) -> bytes:
    """Everything that an answer depends on beside the data."""
    said = (
        statement.sql,
        sorted(parameters_of(statement).items()),
        statement.format,
        sorted((name, str(value)) for name, value in statement.settings.items()),
        statement.limits,
    )
    return hashlib.blake2b(msgspec.msgpack.encode(said), digest_size=16).digest()
