"""How records lie in the embedded log's file, and the SQL that puts them there and finds them.

Records are kept in segments, one row for what was appended to a partition in one transaction, so
that a record costs no row of its own. The values of a segment are joined by newlines, or kept with
their lengths where one contains a newline.
"""

from __future__ import annotations

import contextlib
import sqlite3
import struct
from collections.abc import Iterator, Sequence

from msgspec import Struct

from ingest.chunk import Chunk, Partition

SCHEMA = """
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS topics (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, uuid TEXT NOT NULL,
    partitions INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS segments (
    topic INTEGER NOT NULL, partition INTEGER NOT NULL, first INTEGER NOT NULL,
    next INTEGER NOT NULL, appended_ms INTEGER NOT NULL, lengths BLOB, payload BLOB NOT NULL);
CREATE UNIQUE INDEX IF NOT EXISTS segments_by_offset ON segments (topic, partition, first);
CREATE TABLE IF NOT EXISTS ends (
    topic INTEGER NOT NULL, partition INTEGER NOT NULL, start INTEGER NOT NULL,
    next INTEGER NOT NULL, PRIMARY KEY (topic, partition)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS commits (
    consumer TEXT NOT NULL, topic INTEGER NOT NULL, partition INTEGER NOT NULL,
    position INTEGER NOT NULL, metadata TEXT NOT NULL, committed_ms INTEGER NOT NULL,
    PRIMARY KEY (consumer, topic, partition)) WITHOUT ROWID;
"""

# One segment is read whole; larger groups of appends are cut.
SEGMENT_BYTES = 4 << 20


class Wanted(Struct, frozen=True, kw_only=True):
    """Offsets ``[first, next)``, of which at most so many rows and about so many bytes."""

    first: int
    next: int
    max_rows: int
    max_bytes: int


def cut_into_segments(appends: Sequence[Sequence[bytes]]) -> Iterator[list[bytes]]:
    """The values of all appends in order, cut where a segment is large enough."""
    values: list[bytes] = []
    size = 0
    for appended in appends:
        added = sum(map(len, appended))
        # Only an append that is too large for one segment is looked at value by value.
        for piece in [appended] if added <= SEGMENT_BYTES else [[v] for v in appended]:
            values.extend(piece)
            size += added if piece is appended else len(piece[0])
            if size >= SEGMENT_BYTES:
                yield values
                values, size = [], 0
    if values:
        yield values


def insert_segment(
    db: sqlite3.Connection,
    topic: int,
    partition: int,
    first: int,
    values: Sequence[bytes],
    now_ms: int,
) -> None:
    """Write the values as one row, with offsets from ``first`` on."""
    payload = b"\n".join(values)
    lengths: bytes | None = None
    if payload.count(b"\n") != len(values) - 1:
        payload = b"".join(values)
        lengths = struct.pack(f"<{len(values)}I", *map(len, values))
    db.execute(
        "INSERT INTO segments VALUES (?, ?, ?, ?, ?, ?, ?)",
        (topic, partition, first, first + len(values), now_ms, lengths, payload),
    )


def _split(payload: bytes, lengths: bytes | None) -> list[bytes]:
    if lengths is None:
        return payload.split(b"\n")
    values = []
    at = 0
    for (length,) in struct.iter_unpack("<I", lengths):
        values.append(payload[at : at + length])
        at += length
    return values


def read_chunk(
    db: sqlite3.Connection, topic: int, partition: Partition, wanted: Wanted
) -> Chunk | None:
    """The first of the wanted records, at least one if there is any; None when there are none."""
    place = (topic, partition.number)
    rows = db.execute(
        "SELECT first, next, appended_ms, lengths, payload FROM segments"
        " WHERE topic = ? AND partition = ? AND next > ? AND first < ?"
        # The newest segment that begins at or before the offset is where to look first.
        " AND first >= coalesce((SELECT max(first) FROM segments"
        " WHERE topic = ? AND partition = ? AND first <= ?), 0) ORDER BY first",
        (*place, wanted.first, wanted.next, *place, wanted.first),
    )
    offsets: list[int] = []
    values: list[bytes | None] = []
    timestamps: list[int] = []
    size = 0
    with contextlib.closing(rows):
        for begin, end, appended_ms, lengths, payload in rows:
            low, high = max(wanted.first, begin), min(wanted.next, end)
            found = _split(payload, lengths)[low - begin : high - begin]
            room = wanted.max_rows - len(values)
            found = found[:room]
            offsets.extend(range(low, low + len(found)))
            values.extend(found)
            timestamps.extend([appended_ms] * len(found))
            size += len(payload)
            if size >= wanted.max_bytes or len(values) >= wanted.max_rows:
                break
    if not values:
        return None
    return Chunk(
        partition=partition,
        offsets=offsets,
        values=values,
        timestamps_ms=timestamps,
        next=offsets[-1] + 1,
    )
