from __future__ import annotations

from collections.abc import Sequence

import pytest

from ingest.chunk import CellError, Chunk, Decoded, Partition
from ingest.decode import PIECE_ROWS, Decoder, LineBlock, concat_blocks
from shared.clickhouse.contract import RowBlock, Run
from shared.errors import DatafileError
from shared.model.resources import Column, Datasource


def datasource(*columns: tuple[str, str, str | None, str | None]) -> Datasource:
    return Datasource(
        name="events",
        columns=tuple(Column(name=n, type=t, jsonpath=p, default=d) for n, t, p, d in columns),
    )


SIMPLE = datasource(("id", "Int32", "$.id", None), ("s", "String", "$.s", "'none'"))


def chunk(values: Sequence[bytes | None], offsets: Sequence[int] | None = None) -> Chunk:
    offsets = offsets if offsets is not None else range(len(values))
    return Chunk(
        partition=Partition("t", 0),
        offsets=offsets,
        values=values,
        timestamps_ms=[1000 + offset for offset in offsets],
        next=offsets[-1] + 1 if offsets else 0,
    )


def lines(decoded: Decoded) -> list[bytes]:
    return b"".join(decoded.block.json_lines()).splitlines()


def test_only_columns_with_a_path_are_fed() -> None:
    decoder = Decoder(
        datasource(
            ("id", "Int32", "$.id", None),
            ("at", "DateTime", None, "now()"),
            ("s", "LowCardinality(String)", "$.s", "'none'"),
        )
    )
    assert decoder.columns == (("id", "Int32"), ("s", "LowCardinality(String)"))
    assert decoder.defaults == {"s": "'none'"}


def test_rows_keep_the_order_of_their_offsets_whichever_route_they_took() -> None:
    values = [b'{"id":0,"s":"a"}', b'{"s":{"b": 1},"id":1}', b'{"id":"x"}', b'{"id":3}']
    decoded = Decoder(SIMPLE).decode(chunk(values, [10, 11, 13, 14]))
    assert lines(decoded) == [
        b'{"id":0,"s":"a"}',
        b'{"id":1,"s":"{\\"b\\":1}"}',
        b'{"id":3}',
    ]
    assert decoded.runs == (Run(10, 2), Run(14, 1))
    assert [(r.offset, r.timestamp_ms, r.raw) for r in decoded.rejections] == [
        (13, 1013, b'{"id":"x"}')
    ]


def test_a_rejection_names_every_bad_column_and_keeps_every_cell() -> None:
    decoder = Decoder(
        datasource(
            ("a", "Int8", "$.a", None),
            ("b", "DateTime", "$.b", None),
            ("c", "String", "$.c", None),
            ("d", "String", "$.d", None),
        )
    )
    (rejection,) = decoder.decode(chunk([b'{"a": 300, "b":"2025-02-30", "d": "x"}'])).rejections
    assert [error.column for error in rejection.errors] == ["a", "b", "c"]
    assert rejection.errors[0].message == "300 is not a whole number from -128 to 127."
    assert rejection.errors[2].message == "The value is missing or null."
    assert rejection.cells == (("a", "300"), ("b", "2025-02-30"), ("d", "x"))


@pytest.mark.parametrize(
    "raw", [b"", b" ", b"[]", b"3", b"null", b'{"id":1', b'{"id":1}{"id":2}', b"\xef\xbb\xbf{}"]
)
def test_what_is_no_single_object_is_rejected_as_a_whole(raw: bytes) -> None:
    decoded = Decoder(SIMPLE).decode(chunk([b'{"id":1}', raw, b'{"id":2}']))
    assert [r.errors[0].column for r in decoded.rejections] == [""]
    assert decoded.rejections[0].raw == raw
    assert decoded.runs == (Run(0, 1), Run(2, 1))


def test_broken_records_that_fit_together_shift_nothing() -> None:
    values = [b'{"id":1', b',"s":"x"}', b'{"id":2}\n{"id":3}', b"", b'{"id":\n4}']
    decoded = Decoder(SIMPLE).decode(chunk(values))
    assert [r.offset for r in decoded.rejections] == [0, 1, 2, 3]
    assert lines(decoded) == [b'{"id":4}']
    assert decoded.runs == (Run(4, 1),)


def test_a_record_nested_beyond_reason_is_rejected() -> None:
    deep = b'{"id":1,"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    decoded = Decoder(SIMPLE).decode(chunk([deep, b'{"id":2}']))
    assert decoded.rejections[0].errors == (CellError("", "The record is nested too deeply."),)
    assert decoded.block.row_count == 1


def test_tombstones_are_neither_rows_nor_rejections() -> None:
    decoded = Decoder(SIMPLE).decode(chunk([None, b'{"id":1}', None, b'{"id":2}', b"x", None]))
    assert decoded.runs == (Run(1, 1), Run(3, 1))
    assert decoded.block.row_count == 2
    assert [r.offset for r in decoded.rejections] == [4]


def test_an_empty_chunk_has_no_rows() -> None:
    decoded = Decoder(SIMPLE).decode(chunk([]))
    assert (decoded.block.row_count, decoded.runs, decoded.rejections) == (0, (), ())


def test_the_last_of_repeated_keys_counts_and_unknown_keys_vanish() -> None:
    decoded = Decoder(SIMPLE).decode(chunk([b'{"id":1,"__offset":5,"s":"a","x":[1],"id":2}']))
    assert lines(decoded) == [b'{"id":2,"s":"a"}']


def test_paths_lead_through_objects_and_arrays() -> None:
    decoder = Decoder(
        datasource(
            ("renamed", "Int32", "$.id", None),
            ("city", "Nullable(String)", "$.user.address.city", None),
            ("zip", "String", "$.user.address.zip", "'0'"),
            ("names", "Array(String)", "$.items[:].name", None),
            ("items", "String", "$.items", None),
            ("tags", "Array(Int8)", "$.tags[:]", None),
            ("doc", "String", "$", None),
        )
    )
    full = (
        b'{"id":1,"user":{"address":{"city":"Madrid","zip":"28"}},'
        b'"items":[{"name":"a"},{"name":"b"}],"tags":[1]}'
    )
    bare = b'{"id":2,"user":null,"items":[],"tags":[]}'
    decoded = Decoder.decode(decoder, chunk([full, bare]))
    assert decoded.rejections == ()
    first, second = lines(decoded)
    assert b'"city":"Madrid","zip":"28","names":["a","b"],"items":"[{' in first
    assert b'"renamed":1' in first and b'"doc":"{\\"id\\":1,' in first
    assert b'"city":null,"names":[],"items":"[]","tags":[]' in second


def test_a_required_value_behind_a_missing_object_is_missing() -> None:
    decoder = Decoder(datasource(("city", "String", "$.user.city", None)))
    values = [b'{"user":{"city":"a"}}', b"{}", b'{"user":null}', b'{"user":3}', b'{"user":{}}']
    decoded = decoder.decode(chunk(values))
    assert [r.offset for r in decoded.rejections] == [1, 2, 3, 4]
    assert {r.errors[0].message for r in decoded.rejections} == {"The value is missing or null."}


def test_one_bad_record_costs_one_record_in_a_large_chunk() -> None:
    values = [b'{"id":%d,"s":"x"}' % i for i in range(3 * PIECE_ROWS)]
    values[PIECE_ROWS] = b'{"id":"no"}'
    decoded = Decoder(SIMPLE).decode(chunk(values))
    assert [r.offset for r in decoded.rejections] == [PIECE_ROWS]
    assert decoded.runs == (Run(0, PIECE_ROWS), Run(PIECE_ROWS + 1, 2 * PIECE_ROWS - 1))
    expected = [value for i, value in enumerate(values) if i != PIECE_ROWS]
    assert lines(decoded) == expected


def test_what_it_learns_changes_no_row() -> None:
    values = [b'{"id":%d,"s":{"n": %d}}' % (i, i) for i in range(20)] + [b'{"id":99,"s":"plain"}']
    decoder = Decoder(SIMPLE)
    before = decoder._layout
    first = decoder.decode(chunk(values))
    assert decoder._layout is not before
    second = decoder.decode(chunk(values))
    assert lines(first) == lines(second)
    assert second.rejections == ()


def test_checking_counts_what_decoding_would() -> None:
    values = [b'{"id":1}', b"x", b'{"id":"3"}', b'{"id":2}']
    accepted, rejections = Decoder(SIMPLE).check(values)
    assert accepted == 2
    assert [(r.offset, r.raw) for r in rejections] == [(1, b"x"), (2, b'{"id":"3"}')]


def test_blocks_are_joined_in_order_and_can_be_read_again() -> None:
    decoder = Decoder(SIMPLE)
    blocks = [decoder.decode(chunk([b'{"id":%d}' % i])).block for i in range(3)]
    joined = concat_blocks(blocks)
    assert isinstance(joined, RowBlock)
    assert joined.row_count == 3
    assert b"".join(joined.json_lines()) == b'{"id":0}\n{"id":1}\n{"id":2}\n'
    assert list(joined.json_lines()) == list(joined.json_lines())
    assert concat_blocks([]) == LineBlock((), 0)


def test_a_schema_that_json_cannot_feed_is_refused() -> None:
    with pytest.raises(DatafileError):
        Decoder(datasource(("a", "AggregateFunction(sum, UInt64)", "$.a", None)))
    with pytest.raises(DatafileError):
        Decoder(datasource(("a", "Int32", "$['a']", None)))
