"""What the engine writes as JSON is what the documentation says of its types."""

from __future__ import annotations

import msgspec
import pytest
from openapi_schema_validator import OAS31Validator, oas31_format_checker

from query.columns import output_columns
from query.planned import Planned
from query.schemas import column_schema
from shared.clickhouse.contract import Limits
from shared.clickhouse.embedded import EmbeddedClickHouse

EXPRESSIONS = (
    "toUInt8(255)",
    "toInt64(-9223372036854775808)",
    "toUInt64(18446744073709551615)",
    "toInt128('-170141183460469231731687303715884105728')",
    "toUInt256('115792089237316195423570985008687907853269984665640564039457584007913129639935')",
    "1.5 / 0",
    "toFloat32(0.1)",
    "nan",
    "toDecimal64('12.34', 2)",
    "toDecimal256('1.5', 30)",
    "true",
    "NULL",
    "CAST(NULL, 'Nullable(Int32)')",
    "CAST(NULL, 'Nullable(Enum8(\\'a\\' = 1))')",
    "toLowCardinality(toNullable('x'))",
    "toFixedString('ab', 4)",
    "toDate('2024-01-31')",
    "toDate32('1930-01-31')",
    "toDateTime('2024-01-31 10:00:00', 'Asia/Tokyo')",
    "toDateTime64('2024-01-31 10:00:00.123', 3)",
    "toUUID('61f0c404-5cb3-11e7-907b-a6006ad3dba0')",
    "toIPv4('127.0.0.1')",
    "toIPv6('::1')",
    "CAST('b', 'Enum16(\\'a\\' = 1, \\'b\\' = 2)')",
    "[toDate('2024-01-31')]",
    "[[1, 2], []]",
    "[NULL, 'a']",
    "map('a', [1], 'b', [])",
    "map(1, 'x')",
    "tuple(1, 'a', NULL)",
    "CAST((1, 'x'), 'Tuple(n Int8, s String)')",
    "CAST([(1, 'x')], 'Nested(n Int8, s String)')",
    "toIntervalDay(3)",
    "CAST('{\"a\": {\"b\": 1}}', 'JSON')",
    "CAST(1, 'Variant(String, UInt8)')",
    "CAST('x', 'Dynamic')",
    "countState()",
    "CAST(5, 'SimpleAggregateFunction(sum, UInt64)')",
    "(1.5, 2.5)::Point",
    "[(1., 2.), (3., 4.)]::Ring",
    "[[(1., 2.), (3., 4.)]]::Polygon",
    "now()",
    "count()",
    "quantiles(0.5, 0.9)(number)",
    "groupArray(number)",
    "topK(2)(number)",
)


def problems(type_: str, value: object) -> list[str]:
    validator = OAS31Validator(column_schema(type_), format_checker=oas31_format_checker)
    return [error.message for error in validator.iter_errors(value)]


@pytest.mark.parametrize("expression", EXPRESSIONS)
async def test_a_value_has_the_schema_of_its_type(
    engine: EmbeddedClickHouse, expression: str
) -> None:
    planned = Planned(sql=f"SELECT {expression} AS value FROM numbers(3) LIMIT 1", bindings={})
    (column,) = await output_columns(engine, planned)
    answer = await engine.fetch(planned.statement("JSON", limits=Limits()))
    (row,) = msgspec.json.decode(answer.body)["data"]
    assert problems(column.type, row["value"]) == []


@pytest.mark.parametrize(("type_", "value"), [("UInt8", "1"), ("Date", "31.1.2024"), ("Bool", 1)])
def test_a_wrong_schema_would_be_noticed(type_: str, value: object) -> None:
    assert problems(type_, value)
