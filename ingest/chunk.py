"""The values that travel through the pipeline: what a source yields, what a decoder returns."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from shared.clickhouse.contract import RowBlock, Run


class Partition(Struct, frozen=True, order=True):
    """One partition of one topic."""

    topic: str
    number: int


class Chunk(Struct, frozen=True, kw_only=True):
    """Consecutive records of one partition, as parallel lists of one length.

    Offsets ascend and may have holes. A value of None is a tombstone. ``next`` is the offset to
    read from afterwards; it may lie beyond the last offset plus one. ``keys`` and ``headers`` (name
    and value pairs of each record) are None unless the source was asked for them.
    """

    partition: Partition
    offsets: Sequence[int]
    values: Sequence[bytes | None]
    timestamps_ms: Sequence[int]
    next: int
    keys: Sequence[bytes | None] | None = None
    headers: Sequence[Sequence[tuple[str, bytes | None]]] | None = None

    def pick(self, places: Sequence[int]) -> Chunk:
        """The records at these positions, which ascend; ``next`` stays."""
        keys, headers = self.keys, self.headers
        return Chunk(
            partition=self.partition,
            offsets=[self.offsets[i] for i in places],
            values=[self.values[i] for i in places],
            timestamps_ms=[self.timestamps_ms[i] for i in places],
            next=self.next,
            keys=None if keys is None else [keys[i] for i in places],
            headers=None if headers is None else [headers[i] for i in places],
        )


def size_bytes(values: Sequence[bytes | None]) -> int:
    """Of the values together; tombstones have none."""
    try:
        return sum(map(len, values))  # type: ignore[arg-type]  # None raises TypeError.
    except TypeError:
        return sum(len(value) for value in values if value is not None)


class CellError(Struct, frozen=True):
    """Why one column of a record cannot be stored; an empty column means the whole record."""

    column: str
    message: str


class Rejection(Struct, frozen=True, kw_only=True):
    """A record that goes to quarantine, with every reason.

    ``cells`` holds the raw text of each column that could be found, for the quarantine table.
    """

    offset: int
    timestamp_ms: int
    raw: bytes
    errors: tuple[CellError, ...]
    cells: tuple[tuple[str, str | None], ...] = ()


class Decoded(Struct, frozen=True, kw_only=True):
    """A decoded chunk: rows ready to insert, in offset order, and the records that are not rows.

    ``runs`` are the offsets of the rows of ``block``, in order. Every record of the chunk is
    either a row, a rejection or a tombstone.
    """

    block: RowBlock
    runs: tuple[Run, ...]
    rejections: tuple[Rejection, ...]
