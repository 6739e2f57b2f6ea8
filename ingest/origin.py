"""The columns of a Kafka data source that say where a row comes from, beside the decoded ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import msgspec

from ingest.chunk import Chunk
from shared.clickhouse.contract import Run
from shared.model.identity import IDENTITY_COLUMNS, carries_identity
from shared.model.kafka_columns import kafka_columns
from shared.model.resources import Datasource

# What a DateTime holds.
_LAST_SECOND = 4_294_967_295
_encode_lines = msgspec.json.Encoder().encode_lines


class Origin:
    """Values of the origin columns for the rows of a chunk.

    Those that identify a row are written with it anyway, where its table carries them.

    Args:
        datasource: Whose columns; without Kafka lines there are none.
    """

    def __init__(self, datasource: Datasource) -> None:
        source = datasource.kafka
        self._keeps_value = source is not None and source.store_raw_value
        identity = {name for name, _ in IDENTITY_COLUMNS} if carries_identity(datasource) else set()
        found = kafka_columns(source) if source is not None else ()
        self.columns = tuple(column for column in found if column[0] not in identity)
        self.needs_keys = source is not None
        self.needs_headers = source is not None and source.store_headers

    def values(self, chunk: Chunk, runs: Sequence[Run]) -> list[list[Any]]:
        """One list a column, with a value for each row; the runs are the offsets of the rows."""
        places = list(_places(chunk, runs))
        return [self._column(name, chunk, places) for name, _ in self.columns]

    def _column(self, name: str, chunk: Chunk, places: Sequence[int]) -> list[Any]:
        match name:
            case "__topic":
                return [chunk.partition.topic] * len(places)
            case "__partition":
                return [chunk.partition.number] * len(places)
            case "__offset":
                return [chunk.offsets[i] for i in places]
            case "__timestamp":
                return [_second(chunk.timestamps_ms[i] // 1000) for i in places]
            case "__key":
                keys = chunk.keys
                return [""] * len(places) if keys is None else [_text(keys[i]) for i in places]
            case "__value":
                if not self._keeps_value:
                    return [""] * len(places)
                return [_text(chunk.values[i]) for i in places]
            case _:
                found = chunk.headers
                if found is None:
                    return [{} for _ in places]
                return [{key: _text(value) for key, value in found[i]} for i in places]

    def add_to_lines(self, lines: bytes, values: Sequence[Sequence[Any]]) -> bytes:
        """Rows as NDJSON with the columns put in front."""
        names = [name for name, _ in self.columns]
        rows = [dict(zip(names, row, strict=True)) for row in zip(*values, strict=True)]
        heads = _encode_lines(rows).split(b"\n")
        bodies = lines.split(b"\n")
        return b"".join(
            head[:-1] + (b"}\n" if body == b"{}" else b"," + body[1:] + b"\n")
            for head, body in zip(heads, bodies, strict=True)
            if body
        )


def _places(chunk: Chunk, runs: Sequence[Run]) -> Iterator[int]:
    """The position in the chunk of every row."""
    rows = [offset for run in runs for offset in range(run.first, run.first + run.count)]
    if len(rows) == len(chunk.offsets):
        yield from range(len(rows))
        return
    place = 0
    for offset in rows:
        while chunk.offsets[place] != offset:
            place += 1
        yield place


def _text(value: bytes | None) -> str:
    return "" if value is None else value.decode("utf-8", "replace")


@lru_cache(4096)
def _second(second: int) -> str:
    bounded = min(max(second, 0), _LAST_SECOND)
    return f"{datetime.fromtimestamp(bounded, UTC):%Y-%m-%d %H:%M:%S}"
