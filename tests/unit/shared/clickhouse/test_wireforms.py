from __future__ import annotations

from typing import Any

import pytest
from msgspec import UNSET

from shared.clickhouse.nativeblock import fill, native_type
from shared.clickhouse.wireforms import converter
from shared.model.types import parse_type


def wire(type_text: str, *values: Any) -> list[Any]:
    convert = converter(parse_type(type_text))
    return list(values) if convert is None else convert(values)


@pytest.mark.parametrize(
    ("type_text", "value", "form"),
    [
        ("Date", "1970-01-02", 1),
        ("Date32", "1969-12-31", -1),
        ("DateTime", "1970-01-01 01:00:01", 3601),
        ("DateTime", "1970-01-02", 86_400),
        ("DateTime", 1_746_615_760, 1_746_615_760),
        ("DateTime64(3)", "1970-01-01 00:00:01.5", 1500),
        ("DateTime64(3)", "1970-01-01 00:00:01.123987", 1123),
        ("DateTime64(3)", "1969-12-31 23:59:58.500", -1500),
        ("DateTime64(3)", "1746615760.123", 1_746_615_760_123),
        ("DateTime64(0)", "1746615760", 1_746_615_760),
        ("DateTime('Europe/Madrid')", "2025-07-01 12:00:00", 1_751_364_000),
        ("Decimal(9, 2)", "-0.5", -50),
        ("Decimal(38, 10)", "12345678901234567890.0123456789", 123456789012345678900123456789),
        ("UUID", "550e8400-e29b-41d4-a716-446655440000", 0x550E8400E29B41D4A716446655440000),
        ("Enum8('a' = -1, 'b' = 2)", "a", -1),
        ("IPv4", "1.2.3.4", 0x01020304),
        ("IPv6", "::1", bytes(15) + b"\x01"),
        ("Array(Nullable(Date))", ["1970-01-03", None], [2, None]),
        ("Map(String, Date)", {"k": "1970-01-03"}, {"k": 2}),
        ("Map(UInt64, String)", {"7": "x"}, {7: "x"}),
        ("LowCardinality(Nullable(String))", None, None),
    ],
)
def test_a_value_has_its_wire_form(type_text: str, value: Any, form: Any) -> None:
    assert wire(type_text, value, value) == [form, form]


def test_texts_and_numbers_may_stand_in_one_column_of_times() -> None:
    assert wire("DateTime", "1970-01-01 00:01:00", 5) == [60, 5]


@pytest.mark.parametrize(
    "type_text",
    ["JSON", "Tuple(Int8, String)", "Point", "BFloat16", "Array(Tuple(a Int8))", "Variant(Int8)"],
)
def test_exotic_types_are_left_to_lines(type_text: str) -> None:
    assert native_type(type_text) is None


def test_defaults_are_flagged_where_a_value_is_missing() -> None:
    native = native_type("Date")
    assert native is not None
    filled = fill(native, ["1970-01-02", UNSET, None], has_default=True)
    assert (filled.items, filled.missing) == ([1, 0, 0], [False, True, True])
    assert fill(native, ["1970-01-02"], has_default=True).missing is None


def test_null_is_a_value_of_a_nullable_column_with_a_default() -> None:
    native = native_type("Nullable(String)")
    assert native is not None
    filled = fill(native, [None, UNSET, "x"], has_default=True)
    assert (filled.items, filled.missing) == ([None, None, "x"], [False, True, False])
