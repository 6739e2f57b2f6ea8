from __future__ import annotations

import json
from collections.abc import Iterable

from shared.clickhouse.contract import Identity, Insert, Run
from shared.clickhouse.insert import input_sql, values_sql
from shared.clickhouse.lines import server_lines


class Block:
    """Lines in one piece."""

    def __init__(self, *lines: bytes) -> None:
        self.row_count = len(lines)
        self._lines = lines

    def json_lines(self) -> Iterable[bytes]:
        return [b"\n".join(self._lines) + b"\n"]


def insert(block: Block, **changes: object) -> Insert:
    fields: dict[str, object] = {
        "database": "d",
        "table": "t",
        "columns": (("a", "Int32"), ("s", "Nullable(String)")),
        "block": block,
        "identity": Identity(stream=1, partition=2, runs=(Run(5, 1), Run(9, 2))),
    }
    return Insert(**(fields | changes))  # type: ignore[arg-type]


def test_lines_that_need_nothing_are_passed_on() -> None:
    block = Block(b'{"a":1}')
    assert list(server_lines(insert(block), has_offsets=False)) == [b'{"a":1}\n']


def test_missing_values_are_flagged_and_offsets_put_in() -> None:
    block = Block(b'{"a":1,"s":null}', b"{}", b'{"a":null,"s":"x"}')
    given = insert(block, defaults={"a": "7", "s": "'y'"})
    (piece,) = server_lines(given, has_offsets=True)
    assert [json.loads(line) for line in piece.splitlines()] == [
        {"__offset_of_row": 5, "a": 1, "s": None},
        {"__missing_0": 1, "__missing_1": 1, "__offset_of_row": 9},
        {"__missing_0": 1, "__offset_of_row": 10, "a": None, "s": "x"},
    ]


def test_a_broken_line_stays_broken() -> None:
    (piece,) = server_lines(insert(Block(b'{"a":1', b"no")), has_offsets=True)
    assert piece == b'{"__offset_of_row":5,"a":1\nno\n'


def test_the_statement_before_a_native_block_names_every_column() -> None:
    assert values_sql(insert(Block())) == (
        "INSERT INTO `d`.`t` (`a`, `s`, `__stream`, `__partition`, `__offset`) VALUES"
    )


def test_defaults_are_taken_where_the_flag_says_so() -> None:
    given = insert(Block(), defaults={"s": "toString(a)"})
    assert input_sql(given, ["s"], has_offsets=True, form="Native") == (
        "INSERT INTO `d`.`t` (`a`, `s`, `__stream`, `__partition`, `__offset`)"
        " SELECT r.`a` AS `a`,"
        " if(r.__missing_1, CAST(toString(a) AS Nullable(String)), r.`s`) AS `s`,"
        " 1, 2, r.__offset_of_row"
        " FROM input('`a` Int32, `s` Nullable(String), __missing_1 UInt8, __offset_of_row Int64')"
        " AS r FORMAT Native"
    )


def test_rows_that_come_after_the_deadline_are_refused() -> None:
    text = input_sql(insert(Block()), [], has_offsets=True, form="Native", deadline_s=1_800_000_000)
    assert text.endswith(
        " AS r WHERE throwIf(nowInBlock() > fromUnixTimestamp(1800000000),"
        " 'The insert came after its deadline') = 0 FORMAT Native"
    )
