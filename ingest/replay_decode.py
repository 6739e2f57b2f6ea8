"""Quarantined records decoded once more: rows that ClickHouse would take, and what is still bad."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from msgspec import Struct

from ingest.batch import Batch, make_batch
from ingest.chunk import CellError, Chunk, Partition, Rejection
from ingest.landing import Landing
from ingest.replay_store import Place, Quarantined

# Beyond the numbers of partitions, whose pipelines search in tables named by those.
_SCRATCH = 1_000_000_000
_REPLACED = "\N{REPLACEMENT CHARACTER}"
_NOT_TEXT = "The record was not valid UTF-8 and the log does not have it any more."

# To read so many records more is cheaper than to ask once more.
_NEAR = 1_000

# Nothing where the log has another stream by now.
ReadLog = Callable[[Place, int, int], Awaitable[Sequence[Chunk]]]


class _Original(Struct, frozen=True, kw_only=True):
    """A record as the log has it."""

    value: bytes | None = None
    key: bytes | None = None
    headers: tuple[tuple[str, bytes | None], ...] = ()

    def value_of(self, text: str) -> bytes | None:
        """The bytes that quarantine shows as this text; None where these are others."""
        if self.value is None or self.value.decode("utf-8", "replace") != text:
            return None
        return self.value


class RecordDecoder:
    """Decodes quarantined records as they would be on arrival.

    Args:
        landing: Where they would go.
        has_keys: Whether keys and headers are columns; the log has them, quarantine does not.
        read: Asks the log, None where it cannot be asked.
    """

    def __init__(self, landing: Landing, *, has_keys: bool, read: ReadLog | None) -> None:
        self._landing = landing
        self._has_keys = has_keys
        self._read = read

    async def decode(
        self, place: Place, records: Sequence[Quarantined]
    ) -> tuple[Batch, list[Rejection]]:
        """The rows that ClickHouse would take, and the records that are still bad."""
        chunk, unreadable = await self._chunk(place, records)
        decoded = self._landing.decoder.decode(chunk)
        guilty: dict[int, str] = {}
        if decoded.block.row_count:
            guilty = await self._landing.find_guilty(_SCRATCH + place.partition, [chunk])
        bad = [*unreadable, *decoded.rejections]
        if guilty:
            bad += [_rejection(r, m) for r in records if (m := guilty.get(r.offset))]
            decoded = self._landing.decoder.decode(_only(chunk, set(chunk.offsets) - set(guilty)))
        first, next_ = _bounds(chunk)
        return make_batch(first, next_, [decoded]), bad

    async def _chunk(
        self, place: Place, records: Sequence[Quarantined]
    ) -> tuple[Chunk, list[Rejection]]:
        """The records as they came, and those whose bytes cannot be had."""
        partition = Partition(place.topic, place.partition)
        originals = await self._originals(
            place, [r.offset for r in records if self._has_keys or _REPLACED in r.raw]
        )
        kept: list[tuple[Quarantined, bytes, _Original]] = []
        lost: list[Rejection] = []
        for record in records:
            original = originals.get(record.offset, _Original())
            raw: bytes | None = record.raw.encode()
            if _REPLACED in record.raw:
                raw = original.value_of(record.raw)
            if raw is None:
                lost.append(_rejection(record, _NOT_TEXT))
            else:
                kept.append((record, raw, original))
        chunk = Chunk(
            partition=partition,
            offsets=[record.offset for record, _, _ in kept],
            values=[raw for _, raw, _ in kept],
            timestamps_ms=[record.timestamp_ms for record, _, _ in kept],
            next=kept[-1][0].offset + 1 if kept else 0,
            keys=[original.key for _, _, original in kept] if self._has_keys else None,
            headers=[original.headers for _, _, original in kept] if self._has_keys else None,
        )
        return chunk, lost

    async def _originals(self, place: Place, offsets: Sequence[int]) -> dict[int, _Original]:
        """What the log still has of these records, which quarantine does not keep whole."""
        found: dict[int, _Original] = {}
        if self._read is None:
            return found
        wanted = set(offsets)
        for first, next_ in _spans(offsets):
            for chunk in await self._read(place, first, next_):
                for i, offset in enumerate(chunk.offsets):
                    if offset not in wanted:
                        continue
                    found[offset] = _Original(
                        value=chunk.values[i],
                        key=None if chunk.keys is None else chunk.keys[i],
                        headers=() if chunk.headers is None else tuple(chunk.headers[i]),
                    )
        return found


def _spans(offsets: Sequence[int]) -> list[tuple[int, int]]:
    """Few ranges that have all of some ascending offsets."""
    spans: list[tuple[int, int]] = []
    for offset in offsets:
        if spans and offset - spans[-1][1] < _NEAR:
            spans[-1] = (spans[-1][0], offset + 1)
        else:
            spans.append((offset, offset + 1))
    return spans


def _rejection(record: Quarantined, message: str) -> Rejection:
    return Rejection(
        offset=record.offset,
        timestamp_ms=record.timestamp_ms,
        raw=record.raw.encode(),
        errors=(CellError("", message),),
    )


def _only(chunk: Chunk, offsets: set[int]) -> Chunk:
    return chunk.pick([i for i, offset in enumerate(chunk.offsets) if offset in offsets])


def _bounds(chunk: Chunk) -> tuple[int, int]:
    return (chunk.offsets[0], chunk.next) if chunk.offsets else (0, 0)
