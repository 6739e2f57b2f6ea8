"""Decoded chunks in, contiguous batches of one partition out; plain code, time is handed in.

A batch is closed when it has enough rows or bytes, or when its first record has waited long
enough. A chunk is never split: sources yield chunks that are small against the limits.
"""

from __future__ import annotations

from msgspec import Struct

from ingest.chunk import Chunk, Decoded, Rejection, size_bytes
from shared.clickhouse.contract import RowBlock, Run


class BatchLimits(Struct, frozen=True, kw_only=True):
    """When a batch is closed; whatever is reached first."""

    max_rows: int = 100_000
    max_bytes: int = 64 << 20
    max_age_s: float = 0.4


class Batch(Struct, frozen=True, kw_only=True):
    """The offsets ``[first, next)`` of one partition: rows to insert, and rejections.

    ``size_bytes`` is that of the raw values; ``opened_s`` the monotonic time of the first record.
    """

    first: int
    next: int
    blocks: tuple[RowBlock, ...]
    runs: tuple[Run, ...]
    rejections: tuple[Rejection, ...]
    row_count: int
    size_bytes: int
    opened_s: float = 0.0

    @property
    def record_count(self) -> int:
        """Rows and rejections."""
        return self.row_count + len(self.rejections)


class Batcher:
    """The open batch of one partition, and at most one closed batch before it.

    A batch that reaches its limits is closed and the next one begins, so that filling goes on
    while the batch before waits to be taken. There is room until the open batch is full too.

    Args:
        limits: When a batch is closed.
    """

    def __init__(self, limits: BatchLimits) -> None:
        self._limits = limits
        self._closed: Batch | None = None
        self._chunks: list[Decoded] = []
        self._first = 0
        self._next = 0
        self._rows = 0
        self._bytes = 0
        self._opened_s = 0.0

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to take."""
        return self._closed is None and not self._chunks

    @property
    def size_bytes(self) -> int:
        """Of the raw values that were not taken yet."""
        return self._bytes + (self._closed.size_bytes if self._closed is not None else 0)

    @property
    def has_closed(self) -> bool:
        """Whether a batch has reached its limits."""
        return self._closed is not None

    @property
    def is_full(self) -> bool:
        """Whether nothing should be added before the next ``take``."""
        return self._closed is not None and self._reached

    @property
    def _reached(self) -> bool:
        """Whether rows or bytes of the open batch have reached their limit."""
        return self._rows >= self._limits.max_rows or self._bytes >= self._limits.max_bytes

    @property
    def opened_s(self) -> float | None:
        """When the oldest record came that was not taken yet; None when empty."""
        if self._closed is not None:
            return self._closed.opened_s
        return self._opened_s if self._chunks else None

    def due_in_s(self, now_s: float) -> float:
        """Seconds until a batch is to be taken; 0 when it is due, infinity when empty."""
        if self.is_empty:
            return float("inf")
        if self.has_closed:
            return 0.0
        return max(0.0, self._opened_s + self._limits.max_age_s - now_s)

    def add(self, chunk: Chunk, decoded: Decoded, *, first: int, now_s: float) -> None:
        """Append a decoded chunk that covers ``[first, chunk.next)``."""
        if not self._chunks:
            self._first, self._opened_s = first, now_s
        self._chunks.append(decoded)
        self._next = chunk.next
        self._rows += len(chunk.offsets)
        self._bytes += size_bytes(chunk.values)
        self._close_full()

    def take(self) -> Batch:
        """The oldest batch: the closed one, else the open one, which is closed for it."""
        batch = self._closed or self._close()
        self._closed = None
        self._close_full()
        return batch

    def _close_full(self) -> None:
        if self._closed is None and self._reached:
            self._closed = self._close()

    def _close(self) -> Batch:
        batch = make_batch(
            self._first, self._next, self._chunks, size_bytes=self._bytes, opened_s=self._opened_s
        )
        self._chunks = []
        self._rows = self._bytes = 0
        return batch


def make_batch(
    first: int,
    next_: int,
    decoded: list[Decoded],
    *,
    size_bytes: int = 0,
    opened_s: float = 0.0,
) -> Batch:
    """The batch of these chunks, which cover ``[first, next_)`` in order."""
    return Batch(
        first=first,
        next=next_,
        blocks=tuple(d.block for d in decoded if d.block.row_count),
        runs=join_runs([run for d in decoded for run in d.runs]),
        rejections=tuple(r for d in decoded for r in d.rejections),
        row_count=sum(d.block.row_count for d in decoded),
        size_bytes=size_bytes,
        opened_s=opened_s,
    )


def join_runs(runs: list[Run]) -> tuple[Run, ...]:
    """Adjacent runs as one; the order is kept."""
    joined: list[Run] = []
    for run in runs:
        if joined and joined[-1].first + joined[-1].count == run.first:
            joined[-1] = Run(joined[-1].first, joined[-1].count + run.count)
        elif run.count:
            joined.append(run)
    return tuple(joined)


class InsertBudget:
    """How often a table may be inserted into, so that many quiet partitions stay few parts.

    Turns are handed out in the order in which batches fall due, which is oldest first. With ``p``
    partitions that all have records a batch waits at most ``p / per_second`` seconds for its turn,
    and keeps filling meanwhile.

    Args:
        per_second: Inserts a second into one table by this process.
    """

    def __init__(self, per_second: float = 4.0) -> None:
        self._interval_s = 1.0 / per_second
        self._next_s = 0.0

    def reserve(self, now_s: float) -> float:
        """Take the next turn; seconds until it comes."""
        turn_s = max(now_s, self._next_s)
        self._next_s = turn_s + self._interval_s
        return turn_s - now_s

    def give_back(self) -> None:
        """A turn is not needed: its batch became full and went at once.

        Otherwise batches that fill faster than turns come would push the turns of all others ever
        further into the future.
        """
        self._next_s -= self._interval_s
