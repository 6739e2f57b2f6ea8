"""Reads the embedded log: every partition of a topic, always assigned to the one reader."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from ingest.chunk import Chunk, Partition
from ingest.log.local import LocalLog
from ingest.source.contract import Assignment, Poll
from shared.errors import LogUnavailableError


class LocalSource:
    """The ``Source`` of one group over one topic of a ``LocalLog``.

    Args:
        log: Where the records are.
        topic: Created when it does not exist.
        group: Whose commits these are.
    """

    def __init__(self, log: LocalLog, topic: str, group: str) -> None:
        self._log = log
        self._topic = topic
        self._group = group
        self._unassigned: list[Partition] | None = None
        self._count = 0
        self._positions: dict[Partition, int] = {}
        self._paused: set[Partition] = set()
        self._changed = asyncio.Event()
        self._forget = log.on_append(self._appended)

    def _appended(self, partition: Partition, end: int) -> None:
        if partition.topic == self._topic:
            self._changed.set()

    async def poll(self, *, max_rows: int, max_bytes: int, timeout_s: float) -> Poll:
        """See ``Source``."""
        if self._unassigned is None:
            topic = await self._log.create_topic(self._topic)
            self._count = topic.partitions
            self._unassigned = [Partition(self._topic, n) for n in range(topic.partitions)]
        if self._unassigned:
            return await self._assign()
        self._changed.clear()
        chunks = await self._read_some(max_rows, max_bytes)
        if not chunks:
            try:
                async with asyncio.timeout(timeout_s):
                    await self._changed.wait()
            except TimeoutError:
                return Poll()
            chunks = await self._read_some(max_rows, max_bytes)
        return Poll(chunks=tuple(chunks))

    async def _assign(self) -> Poll:
        assert self._unassigned
        assigned = []
        free = list(self._unassigned)
        for partition in free:
            committed = await self._log.committed(self._group, partition)
            assigned.append(
                Assignment(
                    partition=partition,
                    offset=committed.position if committed else None,
                    metadata=committed.metadata if committed else None,
                    stream=self._log.stream(partition.topic),
                    log_start=(start := await self._log.log_start(partition)),
                    log_end=self._log.end(partition),
                    start=start,
                    partitions=self._count,
                )
            )
        # Others may have been given back meanwhile; the next poll assigns those.
        self._unassigned = self._unassigned[len(free) :]
        return Poll(assigned=tuple(assigned))

    async def _read_some(self, max_rows: int, max_bytes: int) -> list[Chunk]:
        chunks = []
        for partition, position in list(self._positions.items()):
            if partition in self._paused or max_rows <= 0:
                continue
            end = self._log.end(partition)
            if end <= position:
                continue
            chunk = await self._log.read(
                partition, position, end, max_rows=max_rows, max_bytes=max_bytes
            )
            if chunk is not None and self._positions.get(partition) == position:
                self._positions[partition] = chunk.next
                max_rows -= len(chunk.offsets)
                chunks.append(chunk)
        return chunks

    def open(self, partition: Partition, offset: int) -> None:
        """See ``Source``."""
        # The holder before may have paused it after giving it back.
        self._paused.discard(partition)
        self._positions[partition] = offset
        self._changed.set()

    def pause(self, partition: Partition) -> None:
        """See ``Source``."""
        self._paused.add(partition)

    def resume(self, partition: Partition) -> None:
        """See ``Source``."""
        self._paused.discard(partition)
        self._changed.set()

    async def read(self, partition: Partition, first: int, next_: int) -> Sequence[Chunk]:
        """See ``Source``."""
        chunks = []
        while first < next_:
            chunk = await self._log.read(
                partition, first, next_, max_rows=next_ - first, max_bytes=1 << 62
            )
            if chunk is None:
                break
            chunks.append(chunk)
            first = chunk.next
        return chunks

    async def bounds(self, partition: Partition) -> tuple[int, int]:
        """See ``Source``."""
        return await self._log.log_start(partition), self._log.end(partition)

    async def commit(self, partition: Partition, offset: int, metadata: str) -> bool:
        """See ``Source``; False when the disk did not take it."""
        try:
            await self._log.commit(self._group, partition, offset, metadata)
        except LogUnavailableError:
            return False
        return True

    def holds(self, partition: Partition) -> bool:
        """See ``Source``; nobody else can have it."""
        return True

    def let_go(self, partition: Partition) -> None:
        """See ``Source``; nothing is ever revoked."""

    def lag(self, partition: Partition, position: int) -> int:
        """See ``Source``."""
        return self._log.end(partition) - position

    async def release(self, partition: Partition) -> None:
        """See ``Source``."""
        self._positions.pop(partition, None)
        self._paused.discard(partition)
        assert self._unassigned is not None
        self._unassigned.append(partition)
        self._changed.set()

    async def close(self) -> None:
        """See ``Source``."""
        self._positions.clear()
        self._forget()
