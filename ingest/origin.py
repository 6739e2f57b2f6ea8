"""The columns of a Kafka data source that say where a row comes from, beside the decoded ones."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from ingest.chunk import Chunk
from shared.model.identity import IDENTITY_COLUMNS, carries_identity
from shared.model.kafka_columns import kafka_columns
from shared.model.resources import Datasource

# What a DateTime holds.
_LAST_SECOND = 4_294_967_295
_encode = msgspec.json.encode
_encode_lines = msgspec.json.Encoder().encode_lines
# What the engine takes where a key is missing.
_EMPTY: dict[str, Any] = {"__key": "", "__value": "", "__headers": {}}
T = TypeVar("T")
# Positions in a chunk; ascending, a range where none is left out.
Places = range | list[int]


class _Same(Struct, frozen=True):
    """One value that every row has."""

    value: Any


class Origin:
    """Values of the origin columns for the rows of a chunk.

    Those that identify a row are written with it anyway, where its table carries them.

    Args:
        datasource: Whose columns; without Kafka lines there are none.

    Attributes:
        columns: Name and ClickHouse type.
    """

    def __init__(self, datasource: Datasource) -> None:
        source = datasource.kafka
        self._keeps_value = source is not None and source.store_raw_value
        identity = {name for name, _ in IDENTITY_COLUMNS} if carries_identity(datasource) else set()
        found = kafka_columns(source) if source is not None else ()
        self.columns = tuple(column for column in found if column[0] not in identity)
        self.needs_keys = source is not None
        self.needs_headers = source is not None and source.store_headers

    def values(self, chunk: Chunk, places: Places) -> list[list[Any]]:
        """One list a column, with a value for each row; the rows are the records at the places."""
        return [
            [found.value] * len(places) if isinstance(found, _Same) else list(found)
            for found in (self._column(name, chunk, places) for name, _ in self.columns)
        ]

    def add_to_lines(self, lines: bytes, chunk: Chunk, places: Places) -> bytes:
        """Rows as NDJSON, a line each, with the columns put in front; empty ones are left out."""
        members: list[bytes] = []
        varying: list[list[bytes]] = []
        for name, _ in self.columns:
            found = self._column(name, chunk, places)
            if not isinstance(found, _Same):
                varying.append(_split(_encode_lines(found)))
                members.append(_escaped(name) + b":%b")
            elif found.value != _EMPTY.get(name):
                members.append(_escaped(name) + b":" + _escaped(found.value))
        template = b"{" + b"".join(member + b"," for member in members)
        rest = [line[1:] for line in _split(lines)]
        if b"}" in rest and members:
            # An empty object: nothing may stand between its last comma and its end.
            template = template[:-1]
            rest = [line if line == b"}" else b"," + line for line in rest]
        if not varying:
            head = template % ()
            return head + (b"\n" + head).join(rest) + b"\n"
        template += b"%b\n"
        return b"".join([template % cells for cells in zip(*varying, rest, strict=True)])

    def _column(self, name: str, chunk: Chunk, places: Places) -> _Same | Sequence[Any]:
        match name:
            case "__topic":
                return _Same(chunk.partition.topic)
            case "__partition":
                return _Same(chunk.partition.number)
            case "__offset":
                return list(_picked(chunk.offsets, places))
            case "__timestamp":
                return _seconds(_picked(chunk.timestamps_ms, places))
            case "__key":
                return _texts(_picked(chunk.keys, places) if chunk.keys else ())
            case "__value":
                return _texts(_picked(chunk.values, places) if self._keeps_value else ())
            case _:
                found = _picked(chunk.headers, places) if chunk.headers else ()
                if not any(found):
                    return _Same({})
                return [{key: _text(value) for key, value in each} for each in found]


def _escaped(value: Any) -> bytes:
    """The JSON of a value as part of a template."""
    return _encode(value).replace(b"%", b"%%")


def _split(lines: bytes) -> list[bytes]:
    return lines[:-1].split(b"\n")


def _picked(values: Sequence[T], places: Places) -> Sequence[T]:
    if isinstance(places, range):
        return values[places.start : places.stop]
    return [values[place] for place in places]


def _texts(values: Sequence[bytes | None]) -> _Same | Sequence[str]:
    return [_text(value) for value in values] if any(values) else _Same("")


def _text(value: bytes | None) -> str:
    return "" if value is None else value.decode("utf-8", "replace")


def _seconds(times_ms: Sequence[int]) -> _Same | Sequence[str]:
    if times_ms and min(times_ms) // 1000 == max(times_ms) // 1000:
        return _Same(_second(times_ms[0] // 1000))
    return [_second(at_ms // 1000) for at_ms in times_ms]


@lru_cache(4096)
def _second(second: int) -> str:
    bounded = min(max(second, 0), _LAST_SECOND)
    return f"{datetime.fromtimestamp(bounded, UTC):%Y-%m-%d %H:%M:%S}"
