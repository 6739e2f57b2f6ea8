"""The compiled decoder: record values to rows ready to insert, and rejections with every reason.

Records are read by a Struct compiled from the schema, many in one call, in pieces small enough to
stay in the processor's cache. Whatever that refuses is looked at once more, alone and column by
column: it either becomes the same row that the fast route would have made of it, or a rejection.

Rows are encoded again rather than passed on as received: what was validated is then exactly what
the engine reads, also for repeated keys (the last one counts), unknown keys and escaped keys. For
an engine that takes columns they are transposed instead, while they are still in the cache.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, groupby
from typing import Any

import msgspec
from msgspec import NODEFAULT, UNSET, Raw, Struct

from ingest.chunk import CellError, Chunk, Decoded, Rejection
from ingest.coerce import codec
from ingest.jsonpath import DECODE_ERRORS, EACH, extract, parse_path, raw_object
from ingest.layout import Feed, Layout, compile_layout
from ingest.origin import Origin
from ingest.scalars import NULL, compact
from ingest.timestamps import Refusal
from shared.clickhouse.contract import RowBlock, Run
from shared.clickhouse.nativeblock import native_type
from shared.model.resources import Datasource
from shared.model.types import parse_type

PIECE_ROWS = 512
_LEARN_SHARE = 16
_LARGE_BLOCK_BYTES = 31 << 20
_encode = msgspec.json.encode
_encode_lines = msgspec.json.Encoder().encode_lines


class LineBlock(Struct, frozen=True):
    """Rows as pieces of NDJSON, each ending with a newline."""

    pieces: tuple[bytes, ...]
    row_count: int

    def json_lines(self) -> Iterable[bytes]:
        """The rows in order."""
        return self.pieces


class ColumnarBlock(Struct, frozen=True):
    """Rows by column, in pieces of some rows each; lines are made only when asked for.

    A piece has one list a column, in the order of ``names``.
    """

    names: tuple[str, ...]
    pieces: tuple[Sequence[list[Any]], ...]
    row_count: int

    def columns(self) -> Sequence[Sequence[Any]]:
        """The values by column; UNSET where the key is missing."""
        if len(self.pieces) == 1:
            return self.pieces[0]
        parts = list(zip(*self.pieces, strict=True))
        return [list(chain.from_iterable(part)) for part in parts] or [[] for _ in self.names]

    def json_lines(self) -> Iterable[bytes]:
        """The rows in order."""
        for piece in self.pieces:
            rows = zip(*piece, strict=True)
            yield _encode_lines(
                [
                    {name: value for name, value in pairs if value is not UNSET}
                    for pairs in (zip(self.names, row, strict=True) for row in rows)
                ]
            )


def concat_blocks(blocks: Iterable[RowBlock]) -> RowBlock:
    """The rows of several blocks of one decoder as one, in the order given."""
    held = list(blocks)
    columnar = [block for block in held if isinstance(block, ColumnarBlock)]
    if columnar and len(columnar) == len(held):
        joined = tuple(piece for block in columnar for piece in block.pieces)
        return ColumnarBlock(columnar[0].names, joined, sum(b.row_count for b in columnar))
    pieces = tuple(piece for block in held for piece in block.json_lines())
    return LineBlock(pieces, sum(block.row_count for block in held))


class Refused(Struct, frozen=True):
    """Why a record is not a row, with the text of the cells that were found."""

    errors: tuple[CellError, ...]
    cells: tuple[tuple[str, str | None], ...] = ()


class Piece(Struct, frozen=True):
    """Some records, decoded: what to encode in order, and the positions of what is no row.

    ``lines`` are Structs, and ``Raw`` lines for records that took the long way.
    """

    lines: list[Any]
    refused: Mapping[int, Refused]
    tombstones: tuple[int, ...]
    layout: Layout | None = None
    has_raw: bool = False


class Decoder:
    """Decodes the records of one data source.

    Args:
        datasource: Whose records.
        columnar: Whether blocks hold columns, where every type allows it, and not lines: what
            ``Capabilities.takes_columns`` of the engine says.

    One may be used by several threads. It learns: where most records hold, say, objects in a
    String column, the fast route is compiled anew to take them. That changes speed, never rows.

    Attributes:
        columns: Name and ClickHouse type of the columns that records feed, in schema order.
        defaults: SQL text of the default of each of these that has one. Lines leave out the key
            of a missing value, so the insert has to state the default for the engine to take it.

    Raises:
        DatafileError: A path or type of the schema cannot be read from JSON.
    """

    def __init__(self, datasource: Datasource, *, columnar: bool = False) -> None:
        fed = [c for c in datasource.columns if c.jsonpath is not None]
        self._origin = Origin(datasource)
        self._names = tuple(c.name for c in fed)
        self.columns = (*((c.name, c.type) for c in fed), *self._origin.columns)
        self.defaults = {c.name: c.default for c in fed if c.default is not None}
        self._feeds = [_feed(c.name, c.type, c.jsonpath or "", c.default) for c in fed]
        keys = dict.fromkeys(feed.path[0] for feed in self._feeds if feed.path)
        self._decode_raw = msgspec.json.Decoder(raw_object(tuple(keys))).decode
        self._raw_fields = {key: f"f{index}" for index, key in enumerate(keys)}
        self._columnar = columnar and all(native_type(t) is not None for _, t in self.columns)
        self._layout = compile_layout(self._feeds)
        # Where glibc has seen a large block freed it keeps memory of that size; before, it hands
        # the pages of every chunk back to the kernel and faults them in again, 15 % of the time.
        bytes(_LARGE_BLOCK_BYTES)

    def decode(self, chunk: Chunk) -> Decoded:
        """Rows and rejections of a chunk; tombstones are neither."""
        offsets, timestamps = chunk.offsets, chunk.timestamps_ms
        found: list[Piece] = []
        rejections: list[Rejection] = []
        places: list[int] | range = range(len(offsets))
        gone: set[int] = set()
        for start, piece in self._pieces(chunk.values):
            found.append(piece if self._columnar else self._as_line(piece, chunk, start))
            gone.update(start + i for i in piece.tombstones)
            for i, refused in piece.refused.items():
                place = start + i
                gone.add(place)
                raw = chunk.values[place] or b""
                rejections.append(_rejection(refused, offsets[place], timestamps[place], raw))
        if gone:
            places = [place for place in places if place not in gone]
            offsets = [offsets[place] for place in places]
        block = self._block(found, len(offsets))
        if isinstance(block, ColumnarBlock) and self._origin.columns:
            names = tuple(name for name, _ in self.columns)
            columns = [*map(list, block.columns()), *self._origin.values(chunk, places)]
            block = ColumnarBlock(names, (columns,), block.row_count)
        return Decoded(block=block, runs=_runs(offsets), rejections=tuple(rejections))

    def _as_line(self, piece: Piece, chunk: Chunk, start: int) -> Piece:
        """The rows of a piece as one text, encoded while they are still in the cache."""
        if not piece.lines:
            return Piece([], {}, ())
        lines = _encode_lines(piece.lines)
        if self._origin.columns:
            places: list[int] | range = range(start, min(start + PIECE_ROWS, len(chunk.values)))
            if gone := {*piece.refused, *piece.tombstones}:
                places = [place for place in places if place - start not in gone]
            lines = self._origin.add_to_lines(lines, chunk, places)
        return Piece([lines], {}, ())

    def _block(self, pieces: Sequence[Piece], row_count: int) -> RowBlock:
        if not self._columnar:
            return LineBlock(tuple(p.lines[0] for p in pieces if p.lines), row_count)
        parts = []
        # Together as far as they are of one layout: another thread may have learnt meanwhile.
        for _, group in groupby(pieces, key=lambda piece: id(piece.layout)):
            same = list(group)
            layout = same[0].layout
            assert layout is not None
            lines = list(chain.from_iterable(piece.lines for piece in same))
            if lines:
                parts.append(layout.transpose(lines, has_raw=any(p.has_raw for p in same)))
        return ColumnarBlock(self._names, tuple(parts), row_count)

    def check(self, values: Sequence[bytes]) -> tuple[int, tuple[Rejection, ...]]:
        """How many of the values are rows, and the rejections of the others.

        Offsets of the rejections are positions in ``values``, their timestamps 0.
        """
        rejections = [
            _rejection(refused, start + i, 0, values[start + i])
            for start, piece in self._pieces(values)
            for i, refused in piece.refused.items()
        ]
        return len(values) - len(rejections), tuple(rejections)

    def _pieces(self, values: Sequence[bytes | None]) -> Iterator[tuple[int, Piece]]:
        """Each piece with the position of its first record."""
        for start in range(0, len(values), PIECE_ROWS):
            yield start, self._decode_piece(values[start : start + PIECE_ROWS])

    def _decode_piece(self, values: Sequence[bytes | None]) -> Piece:
        # Taken once: another thread may learn meanwhile.
        layout = self._layout
        rows, failed = _read(layout, values)
        places = range(len(values)) if not failed else _others(failed, len(values))
        lines, refused = _settle(layout, rows, values, places)
        if not failed and not refused:
            return Piece(lines, {}, (), layout)
        failed += [places[i] for i in refused]
        done: dict[int, Any] = dict(zip(places, lines, strict=True))
        refusals: dict[int, Refused] = {}
        tombstones, saved = [], []
        for place in sorted(failed):
            done.pop(place, None)
            value = values[place]
            if value is None:
                tombstones.append(place)
                continue
            result = self._decode_one(value)
            if isinstance(result, Refused):
                refusals[place] = result
            else:
                done[place] = Raw(result)
                saved.append(value)
        if len(saved) * _LEARN_SHARE > len(values):
            self._learn(saved[-1])
        rows_done = [done[place] for place in sorted(done)]
        return Piece(rows_done, refusals, tuple(tombstones), layout, bool(saved))

    def _decode_one(self, value: bytes) -> bytes | Refused:
        """The line of one record, or every reason why it has none."""
        try:
            document = self._decode_raw(value)
        except DECODE_ERRORS as error:
            return Refused((CellError("", _malformed(error)),))
        members, errors, cells = [], [], []
        for feed in self._feeds:
            found = self._find(feed, document, value)
            if found is not None:
                cells.append((feed.name, _cell_text(found)))
            if found is None or found == NULL:
                stored: bytes | Refusal | None = None if feed.blank is UNSET else NULL
                if feed.blank is NODEFAULT:
                    stored = Refusal("The value is missing or null.")
            else:
                stored = feed.codec.coerce(found)
            if isinstance(stored, Refusal):
                errors.append(CellError(feed.name, stored.message))
            elif stored is not None:
                members.append(_encode(feed.name) + b":" + stored)
        if errors:
            return Refused(tuple(errors), tuple(cells))
        return b"{" + b",".join(members) + b"}"

    def _find(self, feed: Feed, document: Any, value: bytes) -> bytes | None:
        if not feed.path:
            return value
        found = getattr(document, self._raw_fields[feed.path[0]])
        return None if found is UNSET else extract(bytes(found), feed.path[1:])

    def _learn(self, value: bytes) -> None:
        """Loosen the columns that kept this record, which is a row, from the fast route."""
        document = self._decode_raw(value)
        feeds = []
        for feed in self._feeds:
            found = self._find(feed, document, value)
            if feed.codec.lenient and found not in (None, NULL) and _is_refused(feed, found):
                feeds.append(msgspec.structs.replace(feed, codec=feed.codec.loosened()))
            else:
                feeds.append(feed)
        if feeds != self._feeds:
            self._feeds = feeds
            self._layout = compile_layout(feeds)


def _feed(name: str, type_text: str, jsonpath: str, default: str | None) -> Feed:
    column_type = parse_type(type_text)
    path = parse_path(jsonpath)
    # An array column takes the array itself: a last [:] says no more than that.
    path = path[:-1] if path[-1:] == (EACH,) else path
    blank: Any = NODEFAULT
    if default is not None:
        blank = UNSET
    elif column_type.is_nullable:
        blank = None
    return Feed(name=name, path=path, codec=codec(column_type.unwrapped), blank=blank)


def _is_refused(feed: Feed, raw: bytes | None) -> bool:
    try:
        msgspec.json.decode(raw or NULL, type=feed.codec.field_type)
    except DECODE_ERRORS:
        return True
    return False


def _others(taken: list[int], count: int) -> list[int]:
    skipped = set(taken)
    return [place for place in range(count) if place not in skipped]


def _read(layout: Layout, values: Sequence[bytes | None]) -> tuple[list[Any], list[int]]:
    """The rows of the records that the layout takes, and the positions of the others."""
    rows: list[Any] = []
    failed: list[int] = []
    remaining = map(layout.decode, values)  # type: ignore[arg-type]  # None raises TypeError
    while True:
        try:
            # What came before a record that raises stays in the list; the iterator is behind it.
            rows.extend(remaining)
        except (*DECODE_ERRORS, TypeError):
            failed.append(len(rows) + len(failed))
        else:
            return rows, failed


def _settle(
    layout: Layout, rows: list[Any], values: Sequence[Any], places: Sequence[int]
) -> tuple[list[Any], list[int]]:
    """What to encode for each row, and which of the rows cannot be stored.

    ``places`` are the positions of the rows in ``values``.
    """
    if not layout.is_direct:
        values = [values[place] for place in places]
    refused: set[int] = set()
    columns: list[list[Any]] = []
    for feed, fetch, attribute in zip(layout.feeds, layout.fetches, layout.attributes, strict=True):
        if layout.is_direct and not feed.needs_settling:
            continue
        fetched = fetch(rows, values)
        settled = feed.settle(fetched) if feed.needs_settling else fetched
        if settled is not fetched:
            refused.update(i for i, v in enumerate(settled) if type(v) is Refusal)
            if layout.is_direct:
                for row, value in zip(rows, settled, strict=True):
                    setattr(row, attribute, value)
        columns.append(settled)
    if not layout.is_direct:
        rows = list(map(layout.row_out, *columns))
    return rows, sorted(refused)


def _malformed(error: Exception) -> str:
    if isinstance(error, msgspec.ValidationError):
        return "The record is not a JSON object."
    if isinstance(error, RecursionError):
        return "The record is nested too deeply."
    return f"The record is not valid JSON: {error}"


def _cell_text(raw: bytes) -> str:
    """A found cell as the quarantine table shows it: strings without their quotes."""
    if raw[:1] == b'"':
        try:
            return msgspec.json.decode(raw, type=str)
        except DECODE_ERRORS:
            return raw.decode(errors="replace")
    return compact(raw) or raw.decode(errors="replace")


def _rejection(refused: Refused, offset: int, timestamp_ms: int, raw: bytes) -> Rejection:
    return Rejection(
        offset=offset,
        timestamp_ms=timestamp_ms,
        raw=raw,
        errors=refused.errors,
        cells=refused.cells,
    )


def _runs(offsets: Sequence[int]) -> tuple[Run, ...]:
    """Ascending offsets as runs of consecutive ones."""
    if not offsets:
        return ()
    if offsets[-1] - offsets[0] == len(offsets) - 1:
        return (Run(offsets[0], len(offsets)),)
    runs: list[Run] = []
    first = previous = offsets[0]
    for offset in offsets[1:]:
        if offset != previous + 1:
            runs.append(Run(first, previous - first + 1))
            first = offset
        previous = offset
    return (*runs, Run(first, previous - first + 1))
