"""What operators ask a log: topics, ends and the positions of groups; changes only when told to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

from msgspec import Struct

from ingest.chunk import Chunk, Partition
from ingest.log.local import LocalLog


class PartitionFacts(Struct, frozen=True, kw_only=True):
    """What a log has of one partition: the offsets ``[start, end)``.

    ``stream`` identifies the records: cluster, topic and epoch.
    """

    partition: Partition
    stream: int
    start: int
    end: int


class Position(Struct, frozen=True, kw_only=True):
    """What a group committed: everything below ``offset`` is done; ``metadata`` beside it."""

    offset: int
    metadata: str


class LogTraits(Struct, frozen=True, kw_only=True):
    """How safe a topic is with the log that keeps it.

    None where the log has no such thing. ``retention_s`` is how long records are kept, None for
    ever or until they are stored.
    """

    kind: str
    replication_factor: int | None = None
    min_insync_replicas: int | None = None
    unclean_leader_election: bool | None = None
    compacted: bool = False
    retention_s: float | None = None


@runtime_checkable
class LogFacts(Protocol):
    """Questions to one log."""

    async def partitions(self, topic: str) -> Sequence[PartitionFacts]:
        """The partitions of a topic, in order; none where the topic does not exist.

        Raises:
            LogUnavailableError: The log does not answer.
        """
        ...

    async def positions(self, group: str, topic: str) -> Mapping[int, Position]:
        """What a group committed, by partition number; nothing where it never did.

        Raises:
            LogUnavailableError: The log does not answer.
        """
        ...

    async def read(self, partition: Partition, first: int, next_: int) -> Sequence[Chunk]:
        """The records of ``[first, next_)`` that the log still has.

        Raises:
            LogUnavailableError: The log does not answer.
        """
        ...

    async def move(self, group: str, partition: Partition, position: Position) -> None:
        """Commit for a group that nobody reads with at the moment.

        Raises:
            ConflictError: A member of the group reads.
            LogUnavailableError: The log does not answer.
        """
        ...

    async def traits(self, topic: str) -> LogTraits:
        """How safe the topic is; for one that does not exist what it would be made with.

        Raises:
            LogUnavailableError: The log does not answer.
        """
        ...


class LocalLogFacts:
    """``LogFacts`` of the embedded log.

    Args:
        log: The log; its pipelines run in this process.
    """

    def __init__(self, log: LocalLog) -> None:
        self._log = log

    async def partitions(self, topic: str) -> Sequence[PartitionFacts]:
        """See ``LogFacts``."""
        known = next((t for t in self._log.topics if t.name == topic), None)
        if known is None:
            return ()
        found = []
        for number in range(known.partitions):
            partition = Partition(topic, number)
            found.append(
                PartitionFacts(
                    partition=partition,
                    stream=self._log.stream(topic),
                    start=await self._log.log_start(partition),
                    end=self._log.end(partition),
                )
            )
        return found

    async def positions(self, group: str, topic: str) -> Mapping[int, Position]:
        """See ``LogFacts``."""
        found = {}
        for facts in await self.partitions(topic):
            committed = await self._log.committed(group, facts.partition)
            if committed is not None:
                found[facts.partition.number] = Position(
                    offset=committed.position, metadata=committed.metadata
                )
        return found

    async def read(self, partition: Partition, first: int, next_: int) -> Sequence[Chunk]:
        """See ``LogFacts``."""
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

    async def move(self, group: str, partition: Partition, position: Position) -> None:
        """See ``LogFacts``; the pipeline of the group must be stopped."""
        await self._log.commit(group, partition, position.offset, position.metadata)

    async def traits(self, topic: str) -> LogTraits:
        """See ``LogFacts``."""
        return LogTraits(kind="embedded log")
