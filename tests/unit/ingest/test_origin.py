"""The columns that say where a row of a Kafka data source comes from, on both routes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from msgspec import structs

from ingest.chunk import Chunk, Partition
from ingest.decode import PIECE_ROWS, Decoder
from shared.model.resources import Column, Datasource, EngineSpec, KafkaSource

KAFKA = KafkaSource(connection="cluster", topic="clicks", group_id="g")
DATASOURCE = Datasource(
    name="clicks",
    columns=(
        Column(name="id", type="Int32", jsonpath="$.id", default="7"),
        Column(name="text", type="Nullable(String)", jsonpath="$.text"),
    ),
    kafka=KAFKA,
)
EMPTY = {"__key": "", "__value": "", "__headers": {}}


def chunk_of(
    values: Sequence[bytes | None],
    *,
    keys: Sequence[bytes | None] | None = None,
    headers: Any = None,
    step_ms: int = 0,
) -> Chunk:
    return Chunk(
        partition=Partition("cli%cks", 3),
        offsets=range(10, 10 + len(values)),
        values=values,
        timestamps_ms=[1_700_000_000_000 + i * step_ms for i in range(len(values))],
        next=10 + len(values),
        keys=keys,
        headers=headers,
    )


def rows_of(datasource: Datasource, chunk: Chunk) -> list[dict[str, Any]]:
    """The rows as lines have them, what they leave out filled in; the columns say the same."""
    lines = Decoder(datasource).decode(chunk)
    rows = [msgspec.json.decode(line) for line in b"".join(lines.block.json_lines()).splitlines()]
    columns = Decoder(datasource, columnar=True).decode(chunk)
    assert columns.runs == lines.runs
    names = [name for name, _ in Decoder(datasource).columns]
    blank = {name: value for name, value in EMPTY.items() if name in names}
    filled = [blank | row for row in rows]
    found = [
        msgspec.json.decode(line) for line in b"".join(columns.block.json_lines()).splitlines()
    ]
    assert [blank | row for row in found] == filled
    return filled


def test_every_row_says_topic_second_and_key() -> None:
    rows = rows_of(
        DATASOURCE, chunk_of([b'{"id": 1}', b'{"id": 2}'], keys=[b"a\n%b", None], step_ms=1500)
    )
    assert [(r["id"], r["__key"], r["__timestamp"]) for r in rows] == [
        (1, "a\n%b", "2023-11-14 22:13:20"),
        (2, "", "2023-11-14 22:13:21"),
    ]
    assert {r["__topic"] for r in rows} == {"cli%cks"}


def test_keys_and_values_that_are_not_text_become_text() -> None:
    keeping = structs.replace(DATASOURCE, kafka=structs.replace(KAFKA, store_raw_value=True))
    (row,) = rows_of(keeping, chunk_of([b'{ "id": 1}'], keys=[b"\xff"]))
    assert (row["__key"], row["__value"]) == ("\N{REPLACEMENT CHARACTER}", '{ "id": 1}')


def test_headers_are_those_of_their_record() -> None:
    keeping = structs.replace(DATASOURCE, kafka=structs.replace(KAFKA, store_headers=True))
    headers = [[("a", b"1"), ("b", None)], [], [("c", b"\n{}")]]
    rows = rows_of(keeping, chunk_of([b'{"id":1}', b'{"id":2}', b'{"id":3}'], headers=headers))
    assert [r["__headers"] for r in rows] == [{"a": "1", "b": ""}, {}, {"c": "\n{}"}]


@pytest.mark.parametrize("keys", [None, [b"k"] * 4])
def test_records_without_any_member_are_rows_too(keys: list[bytes | None] | None) -> None:
    rows = rows_of(DATASOURCE, chunk_of([b"{}", b'{"text": "{}"}', b"{}", b"{ }"], keys=keys))
    assert [r.get("text") for r in rows] == [None, "{}", None, None]
    assert [r["__topic"] for r in rows] == ["cli%cks"] * 4


def test_what_is_no_row_takes_its_key_and_its_time_with_it() -> None:
    count = PIECE_ROWS * 2 + 100
    values: list[bytes | None] = [b'{"id": %d}' % i for i in range(count)]
    for place in (0, 5, PIECE_ROWS - 1, PIECE_ROWS, count - 2):
        values[place] = b"broken" if place % 2 else None
    chunk = chunk_of(values, keys=[b"%d" % i for i in range(count)], step_ms=1000)
    rows = rows_of(DATASOURCE, chunk)
    assert [r["__key"] for r in rows] == [str(r["id"]) for r in rows]
    seconds = [r["__timestamp"][-2:] for r in rows]
    assert seconds == [f"{(20 + r['id']) % 60:02d}" for r in rows]
    assert len(rows) == count - 5


def test_a_piece_without_any_row_adds_nothing() -> None:
    rows = rows_of(DATASOURCE, chunk_of([None] * PIECE_ROWS + [b'{"id": 1}']))
    assert [r["id"] for r in rows] == [1]


def test_tables_that_add_rows_up_have_the_place_among_their_columns() -> None:
    adding = structs.replace(DATASOURCE, engine=EngineSpec(name="SummingMergeTree"))
    rows = rows_of(adding, chunk_of([b'{"id":1}', b"broken", b'{"id":2}']))
    assert [(r["__partition"], r["__offset"]) for r in rows] == [(3, 10), (3, 12)]
