"""How much of what was read may wait in memory, whatever the number of partitions.

A partition may have three batches in memory. That is little for a few partitions and too much for
hundreds of them with a backlog: then some wait in the log until others are stored.
"""

from __future__ import annotations


class MemoryBudget:
    """Bytes of values that pipelines of one process hold.

    While it is used up, pipelines that hold more than an equal share of it read nothing more: one
    that cannot store what it has takes no room from the others.

    Args:
        limit_bytes: Of all pipelines together; exceeded by what was being read at that moment, and
            by the shares of pipelines that come late.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._held: dict[str, int] = {}

    def report(self, pipeline: str, held_bytes: int) -> None:
        """A pipeline says what it holds."""
        self._held[pipeline] = held_bytes

    def leave(self, pipeline: str) -> None:
        """A pipeline has ended."""
        self._held.pop(pipeline, None)

    def room_bytes(self, pipeline: str) -> int:
        """How much more a pipeline may hold; 0 or less when it should read nothing more."""
        free = self._limit_bytes - sum(self._held.values())
        share = self._limit_bytes // max(1, len(self._held))
        return max(free, share - self._held.get(pipeline, 0))
