"""Rows that went to a server by column are those that went to the embedded engine as lines."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ingest.decode import ColumnarBlock, Decoder, concat_blocks
from shared.clickhouse.contract import ClickHouse, Identity, Insert, Statement
from shared.clickhouse.embedded import EmbeddedClickHouse
from shared.clickhouse.server import open_server
from shared.clickhouse.serverengine import ServerClickHouse
from shared.clickhouse.sql import quote_identifier
from shared.model.resources import Datasource
from tests.clickhouse_target import opened, targets
from tests.contract.test_decode_stored import FLAT, SCHEMA, STORED, chunk, datasource, records

_numbers = itertools.count(1)


class Pair:
    """Both engines, each with a database of its own."""

    def __init__(
        self, runner: asyncio.Runner, embedded: EmbeddedClickHouse, server: ServerClickHouse
    ) -> None:
        self._runner = runner
        self.embedded = embedded
        self.server = server
        self.database = f"columns_{next(_numbers)}"
        self._each(f"CREATE DATABASE IF NOT EXISTS {self.database} ENGINE = Atomic")

    def _each(self, sql: str) -> None:
        for engine in (self.embedded, self.server):
            self._runner.run(engine.execute(Statement(sql=sql)))

    def create(self, source: Datasource) -> str:
        """A table for a data source, in both; returns its name."""
        name = f"t{next(_numbers)}"
        columns = ", ".join(f"{quote_identifier(c.name)} {c.type}" for c in source.columns)
        self._each(
            f"CREATE TABLE {self.database}.{name} ({columns}, __stream UInt64 MATERIALIZED 0,"
            " __partition Int32 MATERIALIZED 0, __offset Int64 MATERIALIZED 0)"
            " ENGINE = MergeTree ORDER BY tuple()"
            " SETTINGS non_replicated_deduplication_window = 100"
        )
        return name

    def stored(
        self, engine: ClickHouse, table: str, source: Datasource, values: Sequence[bytes | None]
    ) -> list[dict[str, Any]]:
        """What one engine holds after records went to it in the form it takes."""
        columnar = engine.capabilities.takes_columns
        decoder = Decoder(source, columnar=columnar)
        decoded = decoder.decode(chunk(values))
        self.insert(engine, table, decoder, concat_blocks([decoded.block]), decoded.runs)
        where = f"{self.database}.{table}"
        result = self._runner.run(
            engine.fetch(
                Statement(
                    sql=f"SELECT *, __stream, __partition, __offset FROM {where}",
                    format="JSONEachRow",
                    settings={"output_format_json_quote_decimals": 1},
                )
            )
        )
        self._runner.run(engine.execute(Statement(sql=f"TRUNCATE TABLE {where}")))
        rows = [json.loads(line) for line in result.body.splitlines()]
        return sorted(rows, key=lambda row: json.dumps(row, sort_keys=True))

    def insert(
        self, engine: ClickHouse, table: str, decoder: Decoder, block: Any, runs: Any
    ) -> None:
        self._runner.run(
            engine.insert(
                Insert(
                    database=self.database,
                    table=table,
                    columns=decoder.columns,
                    block=block,
                    defaults=decoder.defaults,
                    identity=Identity(stream=2**64 - 1, partition=3, runs=runs),
                )
            )
        )


@pytest.fixture(scope="module", params=targets())
def pair(
    request: pytest.FixtureRequest,
    engine: EmbeddedClickHouse,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Pair]:
    with (
        opened(request.param, tmp_path_factory.mktemp("server")) as url,
        asyncio.Runner() as runner,
    ):
        server = runner.run(open_server(url))
        yield Pair(runner, engine, server)
        runner.run(server.close())


MORE = [
    ("Array(Nullable(DateTime64(3)))", b'["2025-05-07 11:02:40.5", null]'),
    ("Array(LowCardinality(String))", b'["a", "b", "a"]'),
    ("Array(Array(UInt8))", b"[[1], [], [2, 3]]"),
    ("Map(String, Array(Int32))", b'{"a": [1, 2], "b": []}'),
    ("Map(LowCardinality(String), String)", b'{"a": "x"}'),
    ("Map(Date, UInt64)", b'{"2025-01-31": 7}'),
    ("Nullable(UUID)", b"null"),
    ("Nullable(Decimal(38, 10))", b'"-123456789.0123456789"'),
    ("Decimal(76, 20)", b'"-0.5"'),
    ("Nullable(FixedString(5))", b"null"),
    ("LowCardinality(FixedString(3))", b'"ab"'),
    ("LowCardinality(Nullable(String))", b'""'),
    ("Nullable(Enum8('x' = -3))", b'"x"'),
    ("IPv6", b'"2001:db8::1"'),
    ("Nullable(IPv4)", b'"10.0.0.1"'),
    ("Int256", b"-5"),
    ("DateTime('Europe/Madrid')", b'"2025-03-30 02:30:00"'),
    ("DateTime('Europe/Madrid')", b'"2025-10-26 02:30:00"'),
    ("DateTime('America/New_York')", b'"2025-11-02 01:30:00"'),
    ("DateTime64(6, 'Asia/Kolkata')", b'"1969-12-31 23:59:59.999999"'),
    ("DateTime64(3)", b'"2025-05-07 11:02:40.12"'),
    ("Date32", b'"2299-12-31"'),
    ("Float32", b"3.4028234663852886e38"),
    ("BFloat16", b"1.5"),
    ("Variant(String, UInt64)", b"7"),
    ("Array(Tuple(a Int8, b String))", b'[{"a": 1, "b": "x"}]'),
]
CASES = [(type_text, raw) for type_text, raw, _ in STORED] + MORE


@pytest.mark.parametrize(("type_text", "raw"), CASES)
def test_a_value_is_stored_alike(pair: Pair, type_text: str, raw: bytes) -> None:
    source = datasource(("c", type_text, "$.c"))
    table = pair.create(source)
    values = [b'{"c": ' + raw + b"}"] * 3
    rows = pair.stored(pair.embedded, table, source, values)
    assert len(rows) == 3
    assert pair.stored(pair.server, table, source, values) == rows


def test_common_types_go_by_column(pair: Pair) -> None:
    for type_text, _ in CASES:
        decoder = Decoder(datasource(("c", type_text, "$.c")), columnar=True)
        is_columnar = isinstance(decoder.decode(chunk([])).block, ColumnarBlock)
        exotic = ("Tuple", "JSON", "Point", "BFloat16", "Variant")
        assert is_columnar is not any(name in type_text for name in exotic), type_text


def test_a_missing_value_takes_the_default_of_its_row(pair: Pair) -> None:
    source = datasource(
        ("a", "Int32", "$.a"),
        ("b", "Int32", "$.b", "a * 10"),
        ("c", "Nullable(String)", "$.c", "'none'"),
        ("d", "Array(DateTime)", "$.d", "[toDateTime(0)]"),
        ("e", "Nullable(Int32)", "$.e"),
        ("f", "LowCardinality(String)", "$.f", "concat('it''s ', toString(b))"),
        ("m", "Map(String, UInt8)", "$.m", "map('k', 1)"),
        ("u", "UUID", "$.u", "toUUID('00000000-0000-0000-0000-000000000001')"),
    )
    table = pair.create(source)
    values = [
        b'{"a":1}',
        b'{"a":2,"b":null,"c":null,"d":null,"e":null,"f":null}',
        b'{"a":3,"b":4,"c":"x","d":[],"f":"","m":{},"u":"550e8400-e29b-41d4-a716-446655440000"}',
        b'{"a":4,"b":5,"c":"x"}',
    ]
    rows = pair.stored(pair.embedded, table, source, values)
    assert [row["f"] for row in rows] == ["it's 10", "it's 20", "", "it's 5"]
    assert pair.stored(pair.server, table, source, values) == rows


def test_a_table_with_other_types_takes_what_can_be_cast(pair: Pair) -> None:
    table = pair.create(datasource(("n", "Int64", "$.n"), ("s", "LowCardinality(String)", "$.s")))
    source = datasource(("n", "Int32", "$.n"), ("s", "String", "$.s"))
    values = [b'{"n": -5, "s": "x"}', b'{"n": 6, "s": "y"}']
    rows = pair.stored(pair.embedded, table, source, values)
    assert pair.stored(pair.server, table, source, values) == rows
    assert [row["n"] for row in rows] == [-5, 6]


@pytest.mark.parametrize("schema", [SCHEMA, FLAT], ids=["paths", "flat"])
@settings(
    max_examples=40,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_any_records_are_stored_alike(pair: Pair, schema: Datasource, data: st.DataObject) -> None:
    values = data.draw(st.lists(records(), min_size=1, max_size=12))
    table = _TABLES.get((id(pair), id(schema))) or pair.create(schema)
    _TABLES[id(pair), id(schema)] = table
    rows = pair.stored(pair.embedded, table, schema, values)
    assert pair.stored(pair.server, table, schema, values) == rows


_TABLES: dict[tuple[int, int], str] = {}


@pytest.mark.parametrize("schema", [SCHEMA, FLAT], ids=["paths", "flat"])
@settings(max_examples=100)
@given(data=st.data())
def test_columns_are_what_the_lines_say(schema: Datasource, data: st.DataObject) -> None:
    values = data.draw(st.lists(records(), min_size=1, max_size=12))
    lines = Decoder(schema).decode(chunk(values))
    columns = Decoder(schema, columnar=True).decode(chunk(values))
    assert columns.runs == lines.runs
    assert columns.rejections == lines.rejections
    wanted = [json.loads(line) for line in b"".join(lines.block.json_lines()).splitlines()]
    assert [json.loads(n) for n in b"".join(columns.block.json_lines()).splitlines()] == wanted
