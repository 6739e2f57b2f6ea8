"""Values of every typed function go in as parameters and come back from ClickHouse unchanged."""

from __future__ import annotations

import math
from datetime import UTC, date, datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from query.template.compile import compile_template
from query.template.render import render
from query.template.values import INTEGER_RANGES
from shared.clickhouse.contract import Statement
from shared.clickhouse.embedded import EmbeddedClickHouse

QUICKLY = settings(
    max_examples=30,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
TEXT = st.text(
    st.one_of(st.characters(exclude_categories=["Cs"]), st.sampled_from("\\'\"`\0\t\n\r\b\f%_{}")),
    max_size=40,
)
INTEGERS = [*INTEGER_RANGES, "Int", "Integer"]
# Years whose every moment the engine's Date32 and DateTime64 hold.
FIRST, LAST = date(1900, 1, 2), date(2299, 12, 30)


async def _answer(engine: EmbeddedClickHouse, sql: str, value: object) -> Any:
    """What the template answers for ``v``; one column of one row."""
    rendered = render(compile_template(sql), {"v": value})
    result = await engine.fetch(
        Statement(
            sql=rendered.sql,
            parameters=rendered.bindings,
            format="JSONCompactEachRow",
            readonly=True,
            settings={"output_format_json_quote_denormals": 1},
        )
    )
    return msgspec.json.decode(result.body)[0]


@QUICKLY
@given(value=TEXT)
async def test_text_comes_back(engine: EmbeddedClickHouse, value: str) -> None:
    found = await _answer(engine, "SELECT hex({{String(v)}})", value)
    assert bytes.fromhex(found) == value.encode()


@QUICKLY
@given(values=st.lists(TEXT.map(lambda text: text.replace(",", ";")), min_size=1, max_size=5))
async def test_lists_of_text_come_back(engine: EmbeddedClickHouse, values: list[str]) -> None:
    sql = "SELECT arrayMap(x -> hex(x), {{Array(v, 'String')}})"
    for given_as in (values, ",".join(values)):
        found = await _answer(engine, sql, given_as)
        assert [bytes.fromhex(item).decode() for item in found] == values


@pytest.mark.parametrize("name", INTEGERS)
@QUICKLY
@given(data=st.data())
async def test_whole_numbers_come_back(
    engine: EmbeddedClickHouse, name: str, data: st.DataObject
) -> None:
    low, high = INTEGER_RANGES.get(name, INTEGER_RANGES["Int64"])
    value = data.draw(st.one_of(st.integers(low, high), st.sampled_from([low, high, 0])))
    sql = f"SELECT tuple(toString({{{{{name}(v)}}}}), toTypeName({{{{{name}(v)}}}}))"
    text, type_name = await _answer(engine, sql, str(value))
    assert (int(text), type_name) == (value, name if name in INTEGER_RANGES else "Int64")
    listed = f"SELECT arrayMap(x -> toString(x), {{{{Array(v, '{name}')}}}})"
    assert await _answer(engine, listed, f"{value},{low},{high}") == [
        str(number) for number in (value, low, high)
    ]


@QUICKLY
@given(value=st.floats())
async def test_fractions_come_back(engine: EmbeddedClickHouse, value: float) -> None:
    found = float(await _answer(engine, "SELECT {{Float64(v)}}", repr(value)))
    assert found == value or (math.isnan(found) and math.isnan(value))


@QUICKLY
@given(value=st.floats(width=32))
async def test_short_fractions_come_back(engine: EmbeddedClickHouse, value: float) -> None:
    sql = "SELECT toFloat64({{Float32(v)}})"
    if abs(value) >= 3.4028235e38 and not math.isinf(value):
        return
    found = float(await _answer(engine, sql, repr(value)))
    assert found == value or (math.isnan(found) and math.isnan(value))


@QUICKLY
@given(value=st.booleans())
async def test_truth_values_come_back(engine: EmbeddedClickHouse, value: bool) -> None:
    for spelling in (value, str(value), str(value).lower(), str(int(value))):
        assert await _answer(engine, "SELECT {{Boolean(v)}}", spelling) == int(value)


@QUICKLY
@given(value=st.dates(FIRST, LAST))
async def test_days_come_back(engine: EmbeddedClickHouse, value: date) -> None:
    assert await _answer(engine, "SELECT toDate32({{Date(v)}})", str(value)) == str(value)
    listed = "SELECT arrayMap(x -> toDate32(x), {{Array(v, 'Date')}})"
    assert await _answer(engine, listed, f"{value},{FIRST}") == [str(value), str(FIRST)]


_TIMES = st.builds(datetime.combine, st.dates(FIRST, LAST), st.times())


@QUICKLY
@given(value=_TIMES, hours=st.integers(-12, 14))
async def test_times_come_back_in_utc(
    engine: EmbeddedClickHouse, value: datetime, hours: int
) -> None:
    sql = "SELECT toString(toDateTime64({{DateTime(v)}}, 0, 'UTC'))"
    whole = value.replace(microsecond=0)
    expected = whole.isoformat(sep=" ")
    for spelling in (expected, whole.isoformat(), whole.replace(tzinfo=UTC).isoformat()):
        assert await _answer(engine, sql, spelling) == expected
    local = whole + timedelta(hours=hours)
    offset = f"{'-' if hours < 0 else '+'}{abs(hours):02d}:00"
    if local.year in range(1900, 2300):
        assert await _answer(engine, sql, local.isoformat() + offset) == expected


@QUICKLY
@given(value=_TIMES)
async def test_times_with_a_fraction_come_back(engine: EmbeddedClickHouse, value: datetime) -> None:
    sql = "SELECT toString(toDateTime64({{DateTime64(v)}}, 6, 'UTC'))"
    expected = value.strftime("%Y-%m-%d %H:%M:%S.%f")
    assert await _answer(engine, sql, expected) == expected


@QUICKLY
@given(value=st.integers(-(2**53), 2**53) | TEXT)
async def test_items_of_json_come_back(engine: EmbeddedClickHouse, value: int | str) -> None:
    document = msgspec.json.encode({"k": value}).decode()
    found = await _answer(engine, "SELECT toString({{JSON(v).get('k')}})", document)
    assert found == str(value)
