"""Codecs of all types: what each takes and refuses, on both routes."""

from __future__ import annotations

import msgspec
import pytest
from msgspec import Raw

from ingest.coerce import codec
from ingest.jsonpath import DECODE_ERRORS
from ingest.timestamps import Refusal
from shared.errors import DatafileError
from shared.model.types import parse_type

ACCEPTED = [
    ("Int8", b"127", b"127"),
    ("Int8", b"-0", b"0"),
    ("UInt8", b"true", b"1"),
    ("UInt64", b"18446744073709551615", b"18446744073709551615"),
    ("Int256", b'"-57896044618658097711785492504343953926634992332820282019728"', None),
    ("Float64", b"1e308", b"1e308"),
    ("Float64", b"3", b"3.0"),
    ("Decimal(9, 2)", b"1.10", b'"1.1"'),
    ("Decimal(9, 2)", b'"-1.100"', b'"-1.1"'),
    ("Decimal(38, 10)", b"1234567890123456789.0123456789", b'"1234567890123456789.0123456789"'),
    ("Decimal(9, 2)", b"0e999999", b'"0"'),
    ("Decimal(9, 2)", b"1.5e2", b'"150"'),
    ("Bool", b"0", b"false"),
    ("String", b'"\\u00e9"', '"é"'.encode()),
    ("String", b'{"a" : 1.10}', b'"{\\"a\\":1.10}"'),
    ("String", b"1e5", b'"1e5"'),
    ("FixedString(3)", '"é"'.encode(), '"é"'.encode()),
    ("Enum8('a' = 1, 'b' = -2)", b"-2", b'"b"'),
    ("Enum8('a' = 1, 'b' = -2)", b'"a"', b'"a"'),
    ("LowCardinality(Nullable(String))", b'"x"', b'"x"'),
    ("Array(UInt8)", b"[1, true]", b"[1,1]"),
    ("Array(Nullable(Date))", b'["2025-01-31", null]', b'["2025-01-31",null]'),
    ("Map(String, String)", b'{"a": 1, "b": "x"}', b'{"a":"1","b":"x"}'),
    ("Map(Date, UInt8)", b'{"2025-01-31": 1}', b'{"2025-01-31":1}'),
    ("Tuple(a Int8, b Nullable(Int8))", b'{"a": 1, "c": 9}', b'{"a":1,"b":null}'),
    ("Tuple(Int8, String)", b"[1, 2]", b'[1,"2"]'),
    ("JSON", b'{"a" : {"b": 1, "b": 2}}', b'{"a":{"b":2}}'),
    ("Dynamic", b"[1, 2]", b"[1,2]"),
    ("Ring", b"[[1, 2]]", b"[[1.0,2.0]]"),
    ("Time", b'"23:59:59"', b'"23:59:59"'),
]

REFUSED = [
    ("Int8", b"128"),
    ("Int8", b'"3"'),
    ("Int8", b"1.0"),
    ("Int8", b"true"),
    ("UInt8", b"-1"),
    ("UInt64", b"18446744073709551616"),
    ("UInt128", b"-1"),
    ("Int128", b"170141183460469231731687303715884105728"),
    ("Int128", b"1.5"),
    ("Float64", b"1e400"),
    ("Float64", b'"1"'),
    ("Float64", b'"nan"'),
    ("Float32", b"3.5e38"),
    ("Decimal(9, 2)", b"1.239"),
    ("Decimal(9, 2)", b"12345678"),
    ("Decimal(9, 2)", b"1e999999"),
    ("Decimal(9, 2)", b"1e-999999"),
    ("Decimal(9, 2)", b'"NaN"'),
    ("Decimal(9, 2)", b"true"),
    ("Bool", b"2"),
    ("Bool", b'"true"'),
    ("String", b"null"),
    ("String", b'"\xff"'),
    ("String", b'{"a":"\xff"}'),
    ("FixedString(3)", b'"abcd"'),
    ("FixedString(3)", b"1"),
    ("UUID", b'"550e8400-e29b-41d4-a716-44665544000"'),
    ("UUID", b'"550e8400-e29b-41d4-a716-44665544000g"'),
    ("IPv4", b'"1.2.3"'),
    ("IPv4", b'"::1"'),
    ("IPv6", b'"fe80::1%eth0"'),
    ("Enum8('a' = 1)", b'"c"'),
    ("Enum8('a' = 1)", b"2"),
    ("Enum8('a' = 1)", b"true"),
    ("DateTime", b"1746615760123"),
    ("DateTime", b"true"),
    ("Date", b"20000"),
    ("Array(Int8)", b"[1, null]"),
    ("Array(Int8)", b"1"),
    ("Array(Date)", b'["2025-02-30"]'),
    ("Map(UInt8, String)", b'{"300": "x"}'),
    ("Map(String, Int8)", b"[]"),
    ("Tuple(a Int8, b Int8)", b'{"a": 1}'),
    ("Tuple(Int8, Int8)", b"[1]"),
    ("JSON", b"[1]"),
    ("JSON", b'"{}"'),
    ("Time", b'"25 o\'clock"'),
]


def fast(type_text: str, raw: bytes) -> bytes | Refusal | None:
    """What the fast route makes of a value, None where it leaves it to the other one."""
    found = codec(parse_type(type_text).unwrapped)
    try:
        value = msgspec.json.decode(raw, type=found.field_type)
    except DECODE_ERRORS:
        return None
    if found.finish is not None:
        value = found.finish([value])[0]
    return value if isinstance(value, Refusal) else msgspec.json.encode(value)


@pytest.mark.parametrize(("type_text", "raw", "stored"), ACCEPTED)
def test_both_routes_store_the_same(type_text: str, raw: bytes, stored: bytes | None) -> None:
    found = codec(parse_type(type_text).unwrapped)
    result = found.coerce(raw)
    assert not isinstance(result, Refusal)
    assert stored is None or result == stored
    quick = fast(type_text, raw)
    assert quick == result or (quick is None and found.lenient)
    loosened = found.loosened().finish
    assert loosened is not None
    assert bytes(loosened([Raw(raw)])[0]) == result


@pytest.mark.parametrize(("type_text", "raw"), REFUSED)
def test_no_route_stores_what_does_not_fit(type_text: str, raw: bytes) -> None:
    result = codec(parse_type(type_text).unwrapped).coerce(raw)
    assert isinstance(result, Refusal)
    assert result.message.endswith(".")
    assert fast(type_text, raw) is None or isinstance(fast(type_text, raw), Refusal)


def test_a_refusal_shows_only_the_beginning_of_a_long_value() -> None:
    result = codec(parse_type("Int8")).coerce(b'"' + b"x" * 10_000 + b'"')
    assert isinstance(result, Refusal)
    assert len(result.message) < 200


def test_a_type_that_json_cannot_feed_is_refused() -> None:
    with pytest.raises(DatafileError):
        codec(parse_type("AggregateFunction(sum, UInt64)"))
