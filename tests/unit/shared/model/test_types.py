from __future__ import annotations

import pytest

from shared.model.types import MAX_DEPTH, TypeSyntaxError, parse_type, parse_type_prefix

CANONICAL = [
    "String",
    "UInt256",
    "BFloat16",
    "FixedString(16)",
    "Date32",
    "DateTime",
    "DateTime('Europe/Berlin')",
    "DateTime64(3)",
    "DateTime64(6, 'UTC')",
    "Time64(3)",
    "Decimal(18, 4)",
    "Enum8('a' = 1, 'b' = 2)",
    "Enum16('it\\'s' = -5, '' = 300)",
    "Array(Array(Nullable(String)))",
    "Tuple(String, Nullable(Int8))",
    "Tuple(a Int8, `b c` String)",
    "Enum8('``' = 1, '\\'\\'' = 2)",
    "Tuple(`''` Int8, `\\`` Int8)",
    "Tuple(`from` Int8, `Table` Int8, until Int8)",
    "Tuple()",
    "Map(String, Array(UInt64))",
    "LowCardinality(Nullable(String))",
    "Nested(a String, b UInt8)",
    "Variant(Array(String), String, UInt64)",
    "Dynamic(max_types=3)",
    "JSON",
    "JSON(max_dynamic_paths=10, a UInt8, `a.b` UInt32, SKIP `c.d`, SKIP REGEXP 'x.*')",
    "AggregateFunction(count)",
    "AggregateFunction(quantiles(0.5, 0.9), UInt64)",
    "AggregateFunction(argMax, String, DateTime)",
    "SimpleAggregateFunction(groupUniqArrayArray, Array(String))",
    "Polygon",
    "Nothing",
]

SPELLINGS = [
    ("  Array( String )  ", "Array(String)"),
    ("Map(String,UInt64)", "Map(String, UInt64)"),
    ("Tuple(a Int8,b String)", "Tuple(a Int8, b String)"),
    ("DateTime64(3,'UTC')", "DateTime64(3, 'UTC')"),
    ("Decimal", "Decimal(10, 0)"),
    ("Decimal(5)", "Decimal(5, 0)"),
    ("Decimal32(4)", "Decimal(9, 4)"),
    ("Decimal256(4)", "Decimal(76, 4)"),
    ("Enum('a', 'b')", "Enum8('a' = 1, 'b' = 2)"),
    ("Enum('a' = 1000, 'b')", "Enum16('a' = 1000, 'b' = 1001)"),
    ("Enum8('b' = 2, 'a' = 1)", "Enum8('a' = 1, 'b' = 2)"),
    ("Variant(UInt8, String, UInt8)", "Variant(String, UInt8)"),
    ("datetime('UTC')", "DateTime('UTC')"),
    ("bigint", "Int64"),
    ("VARCHAR", "String"),
    ("JSON( a.b UInt32,skip c.d )", "JSON(`a.b` UInt32, SKIP `c.d`)"),
    ("Array(\n  String\n)", "Array(String)"),
    ("Enum8('it''s' = 1)", "Enum8('it\\'s' = 1)"),
]

REFUSED = [
    ("Boolean", 0, "Use Bool"),
    ("Array(Boolean)", 6, "Use Bool"),
    ("DateTime64", 0, "DateTime64(3)"),
    ("DateTime64('UTC')", 0, "DateTime64(3)"),
    ("Int", 0, "Int32"),
    ("uint", 0, "UInt32"),
    ("Strin", 0, "'String'"),
    ("Object('json')", 0, "JSON"),
    ("Nullable(LowCardinality(String))", 0, "LowCardinality(Nullable(…))"),
    ("Enum8('a' = 300)", 0, "Enum16"),
    ("FixedString", 0, "FixedString(16)"),
    ("FixedString(0)", 0, None),
    ("DateTime64(10)", 0, None),
    ("DateTime(3)", 0, "DateTime('UTC')"),
    ("Decimal(4, 5)", 0, None),
    ("Enum8('a' = 1, 'b' = 1)", 0, None),
    ("Nullable(Array(String))", 0, None),
    ("LowCardinality(Decimal(3, 2))", 0, None),
    ("Map(Nullable(String), String)", 0, None),
    ("Tuple(a Int8, String)", 0, None),
    ("Nested(String)", 0, "Nested(a String"),
    ("JSON(max_paths=3)", 0, "max_dynamic_paths"),
    ("SimpleAggregateFunction(sum)", 0, "SimpleAggregateFunction(sum, UInt64)"),
    ("Array()", 5, None),
    ("Array(String", 12, None),
    ("String(3)", 6, None),
    ("Array(String) x", 14, None),
    ("", 0, None),
    ("Enum8(a = 1)", 6, None),
]


@pytest.mark.parametrize("text", CANONICAL)
def test_a_canonical_spelling_is_printed_unchanged(text: str) -> None:
    assert str(parse_type(text)) == text


@pytest.mark.parametrize(("text", "canonical"), SPELLINGS)
def test_other_spellings_become_the_canonical_one(text: str, canonical: str) -> None:
    assert str(parse_type(text)) == canonical
    assert parse_type(text) == parse_type(canonical)


@pytest.mark.parametrize(("text", "position", "hint"), REFUSED)
def test_what_is_no_type_is_refused_at_its_place(
    text: str, position: int, hint: str | None
) -> None:
    with pytest.raises(TypeSyntaxError) as refused:
        parse_type(text)
    assert refused.value.position == position
    if hint is None:
        assert refused.value.hint is None or "Did you mean" in refused.value.hint
    else:
        assert hint in (refused.value.hint or "")


def test_nullability_is_seen_through_wrappers() -> None:
    nullable = ("Nullable(UInt8)", "LowCardinality(Nullable(String))")
    for text in (*nullable, "SimpleAggregateFunction(any, Nullable(String))"):
        assert parse_type(text).is_nullable, text
    for text in ("UInt8", "Array(Nullable(UInt8))", "LowCardinality(String)", "Variant(UInt8)"):
        assert not parse_type(text).is_nullable, text


def test_the_type_of_a_value_is_without_its_wrappers() -> None:
    assert str(parse_type("LowCardinality(Nullable(String))").unwrapped) == "String"
    wrapped = "SimpleAggregateFunction(max, Nullable(DateTime64(3)))"
    assert str(parse_type(wrapped).unwrapped) == "DateTime64(3)"
    assert str(parse_type("Array(Nullable(UInt8))").unwrapped) == "Array(Nullable(UInt8))"


def test_the_arguments_can_be_asked_for_by_kind() -> None:
    assert parse_type("DateTime64(3, 'UTC')").constants == (3, "UTC")
    assert parse_type("Enum8('a', 'b')").members == {"a": 1, "b": 2}
    pair = parse_type("Tuple(a Int8, b String)")
    assert pair.element_names == ("a", "b")
    assert [str(t) for t in pair.types] == ["Int8", "String"]
    assert [str(t) for t in parse_type("Map(String, UInt8)").types] == ["String", "UInt8"]


def test_a_type_can_be_read_out_of_a_longer_text() -> None:
    text = "a Array(String) DEFAULT []"
    parsed, end = parse_type_prefix(text, 1)
    assert str(parsed) == "Array(String)"
    assert text[end:] == " DEFAULT []"


def test_nesting_has_an_end() -> None:
    deepest = "Array(" * (MAX_DEPTH - 1) + "UInt8" + ")" * (MAX_DEPTH - 1)
    assert str(parse_type(deepest)) == deepest
    with pytest.raises(TypeSyntaxError, match="nested"):
        parse_type(f"Array({deepest})")
