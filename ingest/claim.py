"""Where a partition begins: at its commit, behind what is stored, or where the settings say."""

from __future__ import annotations

from ingest.entries import start_entry
from ingest.excluded import ExcludedStore, restored
from ingest.landing import Landing
from ingest.ledger import LedgerEntry
from ingest.messages import Assigned, decode_metadata
from ingest.ranges import new_walk
from ingest.source.contract import Assignment


class NowhereToStartError(Exception):
    """Nothing was ever committed, and nobody said where to begin."""


class Claim:
    """Finds out from where an assigned partition is to be claimed.

    Args:
        name: The data source.
        assignment: What the source says of the partition.
        excluded: Where offsets are that did not fit into the commit.
        landing: What is stored already.
    """

    def __init__(
        self, name: str, assignment: Assignment, excluded: ExcludedStore, landing: Landing
    ) -> None:
        self._name = name
        self._assignment = assignment
        self._excluded = excluded
        self._landing = landing
        self._notes: list[tuple[int, str]] = []
        # Whether nothing of the partition was ever read; any other beginning is an alarm.
        self.is_first = False

    async def prepare(self) -> Assigned:
        """The event that begins the delivery of the partition; may be repeated after an error.

        Raises:
            NowhereToStartError: A person has to say where to begin.
            AppError: ClickHouse does not answer.
        """
        found = self._assignment
        metadata = decode_metadata(found.metadata)
        offset = found.offset
        self._notes.clear()
        if metadata is not None and metadata.stream != found.stream:
            # The position is one of another log: a topic that was made anew under its name.
            self._notes.append((offset or 0, "the topic is not the one that was read before"))
            offset = metadata = None
        if offset is None:
            offset = await self._first_position()
        elif metadata is None:
            self._notes.append((offset, "the position was committed by another program"))
        if metadata is not None:
            metadata = await restored(metadata, self._excluded)
        return Assigned(
            offset=offset,
            metadata=metadata,
            stream=found.stream,
            walk=new_walk(),
            partitions=found.partitions,
        )

    async def _first_position(self) -> int:
        found = self._assignment
        known = await self._landing.next_known(found.stream, found.partition.number)
        if known is not None:
            self._notes.append((known, "the commit was lost; behind everything that is stored"))
            return known
        if found.start is None:
            raise NowhereToStartError(
                "nothing was ever committed and KAFKA_AUTO_OFFSET_RESET is error:"
                " commit an offset for the group, or set earliest or latest"
            )
        self.is_first = not self._notes
        self._notes.append((found.start, "nothing was committed before"))
        return found.start

    def entries(self, at_ms: int) -> list[LedgerEntry]:
        """What the ledger should know of this beginning; nothing for one that goes on."""
        found = self._assignment
        return [
            start_entry(self._name, found.partition, found.stream, offset, note, at_ms)
            for offset, note in self._notes
        ]
