from __future__ import annotations

import pytest

from shared.datafile.diagnostics import Diagnostics
from shared.datafile.schema import MAX_COLUMNS, parse_indexes, parse_schema
from shared.datafile.source import MappedText, Piece, mapped_text
from shared.model.resources import Column


def body(text: str) -> MappedText:
    return mapped_text("f", [Piece(n, 1, line) for n, line in enumerate(text.split("\n"), 1)])


def columns(text: str) -> list[Column]:
    diagnostics = Diagnostics()
    found = parse_schema(body(text), diagnostics)
    assert [d.message for d in diagnostics.sorted()] == []
    return list(found)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a String", ("a", "String", None, None, None)),
        ("`a` String `json:$.a`", ("a", "String", "$.a", None, None)),
        ("`a`String`json:$.a`,", ("a", "String", "$.a", None, None)),
        ("a.b Array(String) `json:$.a[:].b`", ("a.b", "Array(String)", "$.a[:].b", None, None)),
        ("doc JSON `json:$`", ("doc", "JSON", "$", None, None)),
        ("doc String `json:$.`", ("doc", "String", "$.", None, None)),
        ("a String `json:$.a-b.c`", ("a", "String", "$.a-b.c", None, None)),
        ("a String DEFAULT 'x, y'", ("a", "String", None, "'x, y'", None)),
        ("a String default now() codec(ZSTD(1))", ("a", "String", None, "now()", "ZSTD(1)")),
        (
            "a UInt8 `json:$.a` DEFAULT if(1, 2, 3) CODEC(Delta(4), LZ4)",
            ("a", "UInt8", "$.a", "if(1, 2, 3)", "Delta(4), LZ4"),
        ),
        ("a UInt8 DEFAULT 3 `json:$.a`", ("a", "UInt8", "$.a", "3", None)),
        ("a Nullable(UInt8) DEFAULT NULL", ("a", "Nullable(UInt8)", None, None, None)),
        ("a LowCardinality(String) -- note, more", ("a", "LowCardinality(String)") + (None,) * 3),
        ("a Map(String,UInt64)", ("a", "Map(String, UInt64)", None, None, None)),
        ("a DEFAULT 'x'", ("a", "String", None, "'x'", None)),
        ("a DEFAULT -3", ("a", "Int64", None, "-3", None)),
        ("a DEFAULT now()", ("a", "DateTime", None, "now()", None)),
        ("a String DEFAULT '--'", ("a", "String", None, "'--'", None)),
        ("a-b String", ("a-b", "String", None, None, None)),
        ("default String", ("default", "String", None, None, None)),
    ],
)
def test_a_column_is_read(text: str, expected: tuple[str, ...]) -> None:
    (column,) = columns(text)
    found = (column.name, column.type, column.jsonpath, column.default, column.codec)
    assert found == expected


def test_columns_may_be_laid_out_in_any_way() -> None:
    found = columns("a String, b Tuple(x Int8,\n  y String)\n, -- c UInt8,\n\n`d`\n\tUInt8,\n")
    assert [(c.name, c.type) for c in found] == [
        ("a", "String"),
        ("b", "Tuple(x Int8, y String)"),
        ("d", "UInt8"),
    ]
    assert [(c.span.line, c.span.column) for c in found if c.span] == [(1, 1), (1, 11), (5, 1)]


def test_a_bad_column_does_not_hide_the_others() -> None:
    diagnostics = Diagnostics()
    found = parse_schema(body("a Strin,\nb UInt8,\nc Array(Intt8, x),\nd UInt8"), diagnostics)
    assert [c.name for c in found] == ["b", "d"]
    places = [(d.code, d.span.line, d.span.column) for d in diagnostics.sorted()]
    assert places == [("bad_type", 1, 3), ("bad_type", 3, 9)]


def test_an_open_bracket_of_a_default_is_told_where_it_stands() -> None:
    diagnostics = Diagnostics()
    assert parse_schema(body("a UInt8 DEFAULT f(')', (1),\nb UInt8 DEFAULT 1"), diagnostics) == ()
    (problem,) = diagnostics.sorted()
    assert (problem.code, problem.span.line, problem.span.column) == ("bad_column", 1, 18)


def test_parts_know_where_they_begin() -> None:
    found = columns("a String `json:$.a` -- 1\n  DEFAULT\n 'x' CODEC(ZSTD(1)), b Int8 DEFAULT 1")
    places = [(c.default_span.line, c.default_span.column) for c in found if c.default_span]
    assert places == [(3, 2), (3, 37)]
    (index,) = parse_indexes(body("\n  INDEX a a TYPE minmax"), Diagnostics())
    assert index.span and (index.span.line, index.span.column) == (2, 11)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("i a TYPE minmax", ("i", "a", "minmax", 1)),
        ("INDEX i lower(a) TYPE set(100) GRANULARITY 4,", ("i", "lower(a)", "set(100)", 4)),
        (
            "`i` (a, b) type bloom_filter(0.01) granularity 2",
            ("i", "(a, b)", "bloom_filter(0.01)", 2),
        ),
    ],
)
def test_an_index_is_read(text: str, expected: tuple[str, str, str, int]) -> None:
    diagnostics = Diagnostics()
    (index,) = parse_indexes(body(text), diagnostics)
    assert diagnostics.sorted() == ()
    assert (index.name, index.expression, index.type, index.granularity) == expected


def test_a_schema_of_too_many_columns_is_refused() -> None:
    diagnostics = Diagnostics()
    pieces = [Piece(number, 1, f"c{number} String,") for number in range(1, MAX_COLUMNS + 2)]
    parse_schema(mapped_text("wide.datasource", pieces), diagnostics)
    assert [d.code for d in diagnostics.sorted()] == ["too_many_columns"]
    diagnostics = Diagnostics()
    parse_schema(mapped_text("wide.datasource", pieces[:MAX_COLUMNS]), diagnostics)
    assert diagnostics.sorted() == ()
