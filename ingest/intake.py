"""Records of one partition on their way into batches, and when a batch is due."""

from __future__ import annotations

import asyncio

from ingest.batch import Batch, Batcher, BatchLimits, InsertBudget
from ingest.chunk import Chunk, Decoded, Partition
from ingest.source.contract import Source
from shared.clock import Clock


class Intake:
    """Collects decoded chunks; pauses the partition at the source while there are enough.

    Args:
        partition: Whose records these are.
        source: Where they come from.
        limits: When a batch is closed.
        budget: Turns to insert, shared by the partitions of a table.
        clock: Where time comes from.
    """

    def __init__(
        self,
        partition: Partition,
        source: Source,
        *,
        limits: BatchLimits,
        budget: InsertBudget,
        clock: Clock,
    ) -> None:
        self._partition = partition
        self._source = source
        self._budget = budget
        self._clock = clock
        self._limits = limits
        self._batcher = Batcher(limits)
        self._is_parked = self._is_shut = False
        self._read_to = 0
        self._abandoned = False
        self._changed = asyncio.Event()
        self._stop = asyncio.Event()

    @property
    def is_finishing(self) -> bool:
        """Whether ``finish`` was called."""
        return self._stop.is_set()

    @property
    def is_empty(self) -> bool:
        """Whether everything that was read is taken."""
        return self._batcher.is_empty

    @property
    def has_closed(self) -> bool:
        """Whether a batch has reached its limits."""
        return self._batcher.has_closed

    @property
    def is_full(self) -> bool:
        """Whether the partition is paused until a batch is taken."""
        return self._batcher.is_full

    @property
    def size_bytes(self) -> int:
        """Of the raw values that were not taken yet."""
        return self._batcher.size_bytes

    @property
    def opened_s(self) -> float | None:
        """When the oldest record came that was not taken yet; None when there is none."""
        return self._batcher.opened_s

    @property
    def read_to(self) -> int:
        """The offset behind the last record that was added."""
        return self._read_to

    def open(self, offset: int) -> None:
        """Let records through, from this offset."""
        self._read_to = offset
        self._source.open(self._partition, offset)
        if self._is_parked:
            self._source.pause(self._partition)

    def add(self, chunk: Chunk, decoded: Decoded) -> None:
        """Records that follow the ones before; pauses the partition when there are enough."""
        if self._is_shut:
            return
        now_s = self._clock.monotonic()
        self._batcher.add(chunk, decoded, first=self._read_to, now_s=now_s)
        self._read_to = chunk.next
        if self._batcher.is_full:
            self._source.pause(self._partition)
        self._changed.set()

    def park(self) -> None:
        """Read nothing more until ``unpark``: others need the memory."""
        self._is_parked = True
        self._source.pause(self._partition)

    def unpark(self) -> None:
        """Undo ``park``."""
        self._is_parked = False
        self._go_on()

    def shut(self) -> None:
        """Read nothing more, and forget what was read: the partition waits for a person."""
        self._is_shut = True
        self._batcher = Batcher(self._limits)
        self._source.pause(self._partition)

    def _go_on(self) -> None:
        if not (self._is_parked or self._is_shut or self._batcher.is_full):
            self._source.resume(self._partition)

    def finish(self) -> None:
        """Nothing more comes; what is there is due."""
        self._stop.set()
        self._changed.set()

    def abandon(self) -> None:
        """Nothing more comes, and what is there is left in the log."""
        self._abandoned = True
        self.finish()

    def take_due(self) -> Batch | None:
        """A batch that need not wait for a turn to insert; None when there is none."""
        if self._abandoned:
            return None
        if self._batcher.has_closed or (self.is_finishing and not self._batcher.is_empty):
            return self._take()
        return None

    async def next_batch(self) -> Batch | None:
        """Wait until a batch is due; None when nothing more will come."""
        while True:
            if self._abandoned or (self._batcher.is_empty and self.is_finishing):
                return None
            self._changed.clear()
            wait_s = self._batcher.due_in_s(self._clock.monotonic())
            if wait_s == 0.0 or self.is_finishing:
                await self._wait_for_turn()
                return None if self._abandoned else self._take()
            await self._wait(None if wait_s == float("inf") else wait_s)

    async def wait_for_finish(self, timeout_s: float | None = None) -> None:
        """Wait until ``finish`` is called, at most so long."""
        try:
            # Not wait_for: before Python 3.12 it may swallow a cancellation.
            async with asyncio.timeout(timeout_s):
                await self._stop.wait()
        except TimeoutError:
            return

    def _take(self) -> Batch:
        batch = self._batcher.take()
        self._go_on()
        return batch

    async def _wait_for_turn(self) -> None:
        end_s = self._clock.monotonic()
        end_s += self._budget.reserve(end_s)
        while not (self._batcher.has_closed or self.is_finishing):
            left_s = end_s - self._clock.monotonic()
            if left_s <= 0:
                return
            self._changed.clear()
            await self._wait(left_s)
        self._budget.give_back()

    async def _wait(self, timeout_s: float | None) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                await self._changed.wait()
        except TimeoutError:
            return
