"""How far each partition is stored, for those in this process who wait for their own events."""

from __future__ import annotations

import asyncio

from ingest.chunk import Partition


class Progress:
    """The ``Watermarks`` of pipelines that run in the same process.

    A partition may be read by several pipelines; what counts is the slowest that has reported.
    """

    def __init__(self) -> None:
        self._next: dict[Partition, dict[str, int]] = {}
        self._waiting: dict[Partition, list[tuple[int, asyncio.Future[None]]]] = {}

    def advance(self, reader: str, partition: Partition, next_: int) -> None:
        """Everything below ``next_`` is stored, quarantined and committed by this reader."""
        self._next.setdefault(partition, {})[reader] = next_
        reached = self._reached(partition)
        waiting = self._waiting.get(partition)
        if not waiting:
            return
        for wanted, future in waiting:
            if wanted <= reached and not future.done():
                future.set_result(None)
        self._waiting[partition] = [w for w in waiting if not w[1].done()]

    def _reached(self, partition: Partition) -> int:
        return min(self._next.get(partition, {}).values(), default=0)

    async def reached(self, partition: Partition, next_: int, timeout_s: float) -> bool:
        """See ``Watermarks``."""
        if next_ <= self._reached(partition):
            return True
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(partition, []).append((next_, future))
        try:
            async with asyncio.timeout(timeout_s):
                await future
        except TimeoutError:
            return False
        finally:
            self._waiting[partition] = [w for w in self._waiting[partition] if w[1] is not future]
        return True
