"""Where the pipeline reads from: what every source promises.

A source hands out partitions and takes them back. Between the two the holder has a *gate*: no
record of a partition is polled before ``open`` was called for it. Commits carry metadata and are
made under the identity of the assignment; a commit that is refused or not answered means that the
partition is lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from msgspec import Struct, field

from ingest.chunk import Chunk, Partition


class Assignment(Struct, frozen=True, kw_only=True):
    """A partition that is ours to claim.

    ``offset`` is the committed position, None when nothing was ever committed; ``metadata`` the
    text committed with it. ``stream`` identifies the records' log: cluster, topic and epoch.
    ``log_start`` is the oldest offset that can still be read, ``log_end`` the one behind the
    newest. ``start`` is where to begin without a commit, None when a person has to say so.
    ``partitions`` is how many the topic had when the group began, to be kept in every commit.
    """

    partition: Partition
    offset: int | None
    metadata: str | None
    stream: int
    log_start: int
    log_end: int
    start: int | None = 0
    partitions: int = 0


class Poll(Struct, frozen=True, kw_only=True):
    """What happened since the last poll: revocations first, then assignments, then records.

    Commits of a revoked partition still work until ``let_go`` was called for it, or until the
    group has waited long enough.
    """

    revoked: tuple[Partition, ...] = ()
    assigned: tuple[Assignment, ...] = ()
    chunks: tuple[Chunk, ...] = field(default=())


@runtime_checkable
class Source(Protocol):
    """The partitions of one topic, read by one group."""

    async def poll(self, *, max_rows: int, max_bytes: int, timeout_s: float) -> Poll:
        """Wait for something to happen, at most ``timeout_s``.

        At most about ``max_rows`` records and ``max_bytes`` of values are returned; a single
        larger record is returned alone. Must be called regularly, also while everything is paused.

        Raises:
            LogUnavailableError: The log does not answer; calling again is right.
        """
        ...

    def open(self, partition: Partition, offset: int) -> None:
        """Let records of an assigned partition through, from this offset."""
        ...

    def pause(self, partition: Partition) -> None:
        """Hold back records of the partition until ``resume``."""
        ...

    def resume(self, partition: Partition) -> None:
        """Undo ``pause``."""
        ...

    async def read(self, partition: Partition, first: int, next_: int) -> Sequence[Chunk]:
        """Read ``[first, next_)`` again; what retention has removed is missing.

        Raises:
            LogUnavailableError: The log does not answer.
        """
        ...

    async def bounds(self, partition: Partition) -> tuple[int, int]:
        """The oldest offset that can be read, and the one behind the newest.

        Raises:
            LogUnavailableError: The log does not answer.
        """
        ...

    async def commit(self, partition: Partition, offset: int, metadata: str) -> bool:
        """Commit; False when it was refused or it is not known whether it took effect."""
        ...

    def holds(self, partition: Partition) -> bool:
        """Whether the partition is certainly still ours, so that something may be inserted."""
        ...

    def let_go(self, partition: Partition) -> None:
        """Nothing of a revoked partition is under way any more."""
        ...

    def lag(self, partition: Partition, position: int) -> int:
        """How many records lie at or after the position, as far as is known."""
        ...

    async def release(self, partition: Partition) -> None:
        """Give an assigned partition back; it will be assigned anew."""
        ...

    async def close(self) -> None:
        """Give everything back."""
        ...
