"""What the decoder passes on is what the engine stores, whichever route a record took."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

import chdb.session
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ingest.chunk import Chunk, Decoded, Partition
from ingest.decode import Decoder
from shared.clickhouse.sql import literal, quote_identifier
from shared.model.resources import Column, Datasource


class Engine:
    """The engine reads lines from memory with the structure that the decoder states."""

    def __init__(self, session: Any) -> None:
        self._session = session

    def rows(self, decoder: Decoder, decoded: Decoded) -> list[dict[str, Any]]:
        lines = b"".join(decoded.block.json_lines())
        if not lines:
            return []
        structure = ", ".join(
            f"{quote_identifier(name)} {type_text}"
            + (f" DEFAULT {decoder.defaults[name]}" if name in decoder.defaults else "")
            for name, type_text in decoder.columns
        )
        descriptor = os.memfd_create("lines")
        try:
            os.write(descriptor, lines)
            answer = self._session.query(
                f"SELECT * FROM file('/proc/self/fd/{descriptor}', 'JSONEachRow', "
                f"{literal(structure)}) SETTINGS input_format_parallel_parsing=0, "
                "output_format_json_quote_64bit_integers=0, session_timezone='UTC', "
                "output_format_json_quote_decimals=1, allow_suspicious_low_cardinality_types=1",
                "JSONEachRow",
            )
        finally:
            os.close(descriptor)
        rows = [msgspec.json.decode(line) for line in answer.bytes().splitlines()]
        assert len(rows) == decoded.block.row_count
        return rows


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    session: Any = chdb.session.Session()  # type: ignore[no-untyped-call]
    yield Engine(session)
    session.close()


def datasource(*columns: tuple[str, ...]) -> Datasource:
    return Datasource(
        name="events",
        columns=tuple(
            Column(name=c[0], type=c[1], jsonpath=c[2], default=c[3] if len(c) > 3 else None)
            for c in columns
        ),
    )


def chunk(values: Sequence[bytes | None]) -> Chunk:
    return Chunk(
        partition=Partition("t", 0),
        offsets=range(100, 100 + len(values)),
        values=values,
        timestamps_ms=[0] * len(values),
        next=100 + len(values),
    )


STORED = [
    ("Int8", b"-128", -128),
    ("UInt64", b"18446744073709551615", 18446744073709551615),
    ("Int64", b"-9223372036854775808", -9223372036854775808),
    ("Int128", b"170141183460469231731687303715884105727", 2**127 - 1),
    ("UInt256", b'"115792089237316195423570985008687907853269984665640564039457"', None),
    ("UInt8", b"true", 1),
    ("Float64", b"0.1", 0.1),
    ("Float64", b"3", 3),
    ("Float32", b"1.5", 1.5),
    ("Decimal(18, 4)", b"12345678901234.5678", "12345678901234.5678"),
    ("Decimal(18, 4)", b'"1.10"', "1.1"),
    ("Decimal(9, 2)", b"1e3", "1000"),
    ("Bool", b"1", True),
    ("Bool", b"false", False),
    ("String", b'"\\u0000\\n\\u00e9\\ud83d\\ude00/"', "\x00\n\u00e9\U0001f600/"),
    ("String", b'{"a" : [1.10, 2], "b":"\\u00e9"}', '{"a":[1.10,2],"b":"\\u00e9"}'),
    ("String", b"12.50", "12.50"),
    ("LowCardinality(String)", b"true", "true"),
    ("LowCardinality(Nullable(String))", b"null", None),
    ("FixedString(4)", b'"\xc3\xa9ab"', "\u00e9ab"),
    ("UUID", b'"550e8400e29b41d4a716446655440000"', "550e8400-e29b-41d4-a716-446655440000"),
    ("UUID", b'"550E8400-e29b-41d4-a716-446655440000"', "550e8400-e29b-41d4-a716-446655440000"),
    ("IPv4", b'"1.2.3.4"', "1.2.3.4"),
    ("IPv6", b'"1.2.3.4"', "::ffff:1.2.3.4"),
    ("Enum8('a' = 1, 'b' = 2)", b"2", "b"),
    ("Enum16('a' = 1, 'b' = 2)", b'"a"', "a"),
    ("Date", b'"2149-06-06"', "2149-06-06"),
    ("Date", b'"2025-01-31T23:00:00-05:00"', "2025-01-31"),
    ("Date32", b'"1900-01-01"', "1900-01-01"),
    ("DateTime", b'"2025-05-07 11:02:40"', "2025-05-07 11:02:40"),
    ("DateTime", b'"2025-05-07T11:02:40.9Z"', "2025-05-07 11:02:40"),
    ("DateTime", b'"2025-05-07T11:02:40+02:00"', "2025-05-07 09:02:40"),
    ("DateTime", b"1746615760", "2025-05-07 11:02:40"),
    ("DateTime", b"1746615760.75", "2025-05-07 11:02:40"),
    ("DateTime", b'"2106-02-07 06:28:15"', "2106-02-07 06:28:15"),
    ("DateTime('Europe/Madrid')", b'"2025-05-07T11:02:40Z"', "2025-05-07 13:02:40"),
    ("DateTime('Europe/Madrid')", b'"2025-05-07 11:02:40"', "2025-05-07 11:02:40"),
    ("DateTime64(3)", b'"2025-05-07T11:02:40.1239Z"', "2025-05-07 11:02:40.123"),
    ("DateTime64(3)", b"1746615760123", "2025-05-07 11:02:40.123"),
    ("DateTime64(2)", b"1746615760129", "2025-05-07 11:02:40.12"),
    ("DateTime64(0)", b"1746615760999", "2025-05-07 11:02:40"),
    ("DateTime64(9)", b"9223372035999", "2262-04-11 23:47:15.999000000"),
    ("DateTime", b'"2025-05-07"', "2025-05-07 00:00:00"),
    ("DateTime64(3)", b'"2025-05-07"', "2025-05-07 00:00:00.000"),
    ("DateTime64(3)", b"1746615760", "2025-05-07 11:02:40.000"),
    ("DateTime64(6)", b"1746615760.123456", "2025-05-07 11:02:40.123456"),
    ("DateTime64(3)", b"-1.5", "1969-12-31 23:59:58.500"),
    ("DateTime64(9)", b'"2262-04-11 00:00:00.123456789"', "2262-04-11 00:00:00.123456789"),
    ("DateTime64(3)", b'"1900-01-01 00:00:00"', "1900-01-01 00:00:00.000"),
    ("DateTime64(3)", b'"2299-12-31T23:59:59.999Z"', "2299-12-31 23:59:59.999"),
    ("DateTime64(3, 'Europe/Madrid')", b"1746615760123", "2025-05-07 13:02:40.123"),
    ("DateTime64(3, 'Europe/Madrid')", b'"2025-10-26T01:30:00Z"', "2025-10-26 02:30:00.000"),
    ("Array(Int32)", b"[1, 2]", [1, 2]),
    ("Array(String)", b'["a", 1, {"b": 2}]', ["a", "1", '{"b":2}']),
    ("Array(Array(DateTime))", b'[["2025-05-07T11:02:40Z"]]', [["2025-05-07 11:02:40"]]),
    ("Array(Nullable(Int32))", b"[1, null]", [1, None]),
    ("Map(String, Int32)", b'{"a": 1, "a": 2}', {"a": 2}),
    ("Map(UInt64, Date)", b'{"7": "2025-01-31"}', {"7": "2025-01-31"}),
    ("Tuple(x Int32, y Nullable(String))", b'{"x": 1}', {"x": 1, "y": None}),
    ("Tuple(x Int32, y String)", b'[1, "b"]', {"x": 1, "y": "b"}),
    ("Tuple(Int32, Date)", b'[1, "2025-01-31"]', [1, "2025-01-31"]),
    ("JSON", b'{"a": {"b": 1}, "c": [1], "a": {"b": 2}}', {"a": {"b": 2}, "c": [1]}),
    ("Point", b"[1, 2.5]", [1, 2.5]),
    ("SimpleAggregateFunction(sum, UInt64)", b"7", 7),
]


@pytest.mark.parametrize(("type_text", "raw", "stored"), STORED)
def test_a_value_is_stored_as_it_was_meant(
    engine: Engine, type_text: str, raw: bytes, stored: object
) -> None:
    decoder = Decoder(datasource(("c", type_text, "$.c")))
    decoded = decoder.decode(chunk([b'{"c": ' + raw + b"}"]))
    assert decoded.rejections == ()
    rows = engine.rows(decoder, decoded)
    if stored is not None or raw == b"null":
        assert rows == [{"c": stored}]


def test_a_missing_or_null_value_takes_the_default_of_its_row(engine: Engine) -> None:
    decoder = Decoder(
        datasource(
            ("a", "Int32", "$.a"),
            ("b", "Int32", "$.b", "a * 10"),
            ("c", "Nullable(String)", "$.c", "'none'"),
            ("d", "Array(DateTime)", "$.d", "[toDateTime(0)]"),
            ("e", "Nullable(Int32)", "$.e"),
        )
    )
    values = [b'{"a":1}', b'{"a":2,"b":null,"c":null,"d":null,"e":null}', b'{"a":3,"b":4,"c":"x"}']
    rows = engine.rows(decoder, decoder.decode(chunk(values)))
    epoch = ["1970-01-01 00:00:00"]
    assert rows == [
        {"a": 1, "b": 10, "c": "none", "d": epoch, "e": None},
        {"a": 2, "b": 20, "c": "none", "d": epoch, "e": None},
        {"a": 3, "b": 4, "c": "x", "d": epoch, "e": None},
    ]


SCHEMA = datasource(
    ("n", "Int32", "$.n"),
    ("u", "UInt64", "$.u", "7"),
    ("s", "String", "$.s"),
    ("t", "DateTime", "$.t"),
    ("m", "Nullable(DateTime64(3))", "$.m"),
    ("f", "Float64", "$.o.f", "0.5"),
    ("d", "Decimal(9, 2)", "$.o.d", "1"),
    ("l", "LowCardinality(Nullable(String))", "$.o.p.l"),
    ("e", "Enum8('a' = 1, 'b' = 2)", "$.e", "'a'"),
    ("a", "Array(Nullable(Int8))", "$.a[:]", "[]"),
    ("i", "Array(String)", "$.i[:].k", "['x']"),
    ("doc", "String", "$"),
)
FLAT = datasource(
    ("n", "Int32", "$.n"), ("s", "String", "$.s"), ("t", "DateTime", "$.t", "toDateTime(5)")
)

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-130, 130),
    st.integers(-(2**66), 2**66),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=4),
    st.sampled_from(["3", "a", "b", "2025-05-07 11:02:40", "2025-05-07T11:02:40.5Z", "2025-02-30"]),
)
NUMBERS = st.integers(-130, 130)
TIMES = st.sampled_from(["2025-05-07 11:02:40", "2025-05-07T11:02:40Z", 1746615760, "1969-01-01"])
OBJECTS = st.dictionaries(st.sampled_from(["f", "d", "k", "p"]), SCALARS, max_size=3)
KEYS = ["n", "u", "s", "t", "m", "o", "e", "a", "i", "__offset", "unknown"]
PAIRS = st.one_of(
    st.tuples(st.just("n"), NUMBERS),
    st.tuples(st.just("s"), st.text(max_size=5)),
    st.tuples(st.just("t"), TIMES),
    st.tuples(st.just("o"), OBJECTS),
    st.tuples(st.just("a"), st.lists(NUMBERS, max_size=3)),
    st.tuples(st.just("i"), st.lists(OBJECTS, max_size=2)),
    st.tuples(st.sampled_from(KEYS), st.one_of(SCALARS, st.lists(SCALARS, max_size=2), OBJECTS)),
)


@st.composite
def records(draw: st.DrawFn) -> bytes:
    """A record with repeated, unknown, escaped and reserved keys, or something broken."""
    base: list[tuple[str, object]] = [("n", 1), ("s", "x"), ("t", "2025-05-07 11:02:40")]
    pairs = [*base, *draw(st.lists(PAIRS, max_size=4))]
    if draw(st.booleans()):
        pairs = draw(st.permutations(pairs))
    members = []
    for key, value in pairs:
        name = msgspec.json.encode(key)
        if draw(st.integers(0, 9)) == 0:
            name = b'"\\u%04x' % ord(key[0]) + name[2:]
        members.append(name + b": " + msgspec.json.encode(value))
    text = b"{" + b", ".join(members) + b"}"
    return draw(
        st.sampled_from([text] * 8 + [text[:-1], b"", b"[]", text + b"\n" + text, b" " + text])
    )


@pytest.mark.parametrize("schema", [SCHEMA, FLAT], ids=["paths", "flat"])
@settings(
    max_examples=120,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_every_route_stores_equal_rows(
    engine: Engine, schema: Datasource, data: st.DataObject
) -> None:
    values = data.draw(st.lists(records(), min_size=1, max_size=12))
    together = Decoder(schema)
    first = together.decode(chunk(values))
    again = together.decode(chunk(values))
    alone = [Decoder(schema).decode(chunk([value])) for value in values]
    slow = Decoder(schema)
    slow._layout = msgspec.structs.replace(slow._layout, decode=_refuse)
    singly = slow.decode(chunk(values))

    rejected = [r.raw for r in first.rejections]
    assert rejected == [r.raw for d in alone for r in d.rejections]
    assert first.rejections == again.rejections == singly.rejections
    stored = engine.rows(together, first)
    assert engine.rows(together, again) == stored
    assert engine.rows(slow, singly) == stored
    assert [row for d in alone for row in engine.rows(together, d)] == stored
    assert sum(run.count for run in first.runs) == len(stored)
    assert together.check(values)[0] == len(stored)


def _refuse(value: bytes) -> object:
    raise msgspec.ValidationError("the fast route is closed")
