"""What the delivery of a partition asks of the log and of the tables about a range of offsets."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable, Sequence

from ingest import messages
from ingest.batch import Batch, make_batch
from ingest.chunk import Chunk, Decoded, Partition, Rejection
from ingest.landing import REFUSED_MESSAGE, Landing, refusals, without
from ingest.messages import State
from ingest.runs import as_runs, offsets_of
from ingest.source.contract import Source
from shared.clickhouse.contract import Run


class Ranges:
    """Reads ranges again and compares them with what is stored.

    Args:
        partition: Whose ranges.
        source: The log.
        landing: The tables.
        decode: Makes rows of records.
    """

    def __init__(
        self,
        partition: Partition,
        source: Source,
        landing: Landing,
        decode: Callable[[Chunk], Awaitable[Decoded]],
    ) -> None:
        self._partition = partition
        self._source = source
        self._landing = landing
        self._decode = decode
        # Why ClickHouse refused an offset, as far as it was searched for.
        self.reasons: dict[int, str] = {}

    async def batch(self, state: State, first: int, next_: int) -> Batch:
        """The rows of a range once more, without what its intent leaves out."""
        assert state.intent is not None
        chunks = await self._source.read(self._partition, first, next_)
        return await self._batch_of(first, next_, without(chunks, state.intent.excluded))

    async def _batch_of(self, first: int, next_: int, chunks: Sequence[Chunk]) -> Batch:
        return make_batch(first, next_, [await self._decode(chunk) for chunk in chunks])

    async def look(self, batch: Batch, state: State) -> messages.Looked:
        """How much of a range the table holds."""
        holding = await self._landing.holding(batch, state.stream, self._partition.number)
        return messages.Looked(holding)

    async def look_ahead(self, state: State, position: int) -> messages.Ahead:
        """What log and table have from a position on."""
        start, end = await self._source.bounds(self._partition)
        stored = await self._landing.stored_from(state.stream, self._partition.number, position)
        return messages.Ahead(log_start=start, log_end=end, stored=stored, walk=new_walk())

    async def missing(self, batch: Batch, state: State) -> tuple[Run, ...]:
        """The offsets of a batch's rows that the table does not hold."""
        held = await self._landing.held_offsets(
            state.stream, self._partition.number, batch.first, batch.next
        )
        return as_runs(offsets_of(batch.runs) - held)

    async def lost(self, state: State, first: int, next_: int) -> tuple[Run, ...]:
        """What of a range that the log lost is not in the table either."""
        if not self._landing.carries_identity:
            return (Run(first, next_ - first),)
        held = await self._landing.held_offsets(state.stream, self._partition.number, first, next_)
        lost, position = [], first
        for offset in [*sorted(held), next_]:
            if offset > position:
                lost.append(Run(position, offset - position))
            position = offset + 1
        return tuple(lost)

    async def search(self, state: State, first: int, next_: int) -> messages.Found:
        """The rows of a range that ClickHouse refuses for good."""
        assert state.intent is not None
        chunks = await self._source.read(self._partition, first, next_)
        guilty = await self._landing.find_guilty(
            self._partition.number, without(chunks, state.intent.excluded)
        )
        self.reasons |= guilty
        return messages.Found(tuple(Run(offset, 1) for offset in sorted(guilty)))

    async def complement(self, state: State, action: messages.Quarantine) -> list[Rejection]:
        """Everything of a range that is not, or was not, stored, with the reason."""
        chunks = await self._source.read(self._partition, action.first, action.next)
        batch = await self._batch_of(action.first, action.next, chunks)
        rejected = {r.offset: r for r in batch.rejections}
        missing = offsets_of(action.excluded)
        if action.is_complement and self._landing.carries_identity:
            held = await self._landing.held_offsets(
                state.stream, self._partition.number, action.first, action.next
            )
            if self._landing.keeps_every_row:
                missing = offsets_of(batch.runs)
            missing -= held
            rejected = {o: r for o, r in rejected.items() if o not in held}
        reasons = {o: self.reasons.get(o, REFUSED_MESSAGE) for o in missing if o not in rejected}
        return [*rejected.values(), *refusals(chunks, reasons)]


def new_walk() -> str:
    """A fresh draw."""
    return uuid.uuid4().hex[:12]
