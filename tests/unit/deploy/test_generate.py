"""Made-up events: repeatable, and always rows of their data source."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deploy.generate import now_utc, sample_rows
from ingest.decode import Decoder
from shared.errors import BadRequestError
from shared.model.resources import Column, Datasource

UNTIL = datetime(2025, 3, 1, 12, 0, tzinfo=UTC)


def rows_of(columns: dict[str, str], *, seed: int | None = 1, rows: int = 40) -> list[bytes]:
    """Rows for columns given as JSON path (or bare name) and type."""
    return list(sample_rows(_datasource(columns), rows, seed=seed, until=UNTIL))


def _datasource(columns: dict[str, str]) -> Datasource:
    return Datasource(
        name="events",
        columns=tuple(
            Column(
                name=path.strip("$.").replace(".", "_").replace("[:]", "_") or "document",
                type=type_,
                jsonpath=path if path.startswith("$") else f"$.{path}",
            )
            for path, type_ in columns.items()
        ),
    )


def assert_all_rows(columns: dict[str, str], *, seed: int = 1) -> None:
    values = rows_of(columns, seed=seed)
    good, rejections = Decoder(_datasource(columns)).check(values)
    assert not rejections, (rejections[0].errors, rejections[0].raw)
    assert good == 40


SCALARS = (
    *(f"{sign}Int{bits}" for sign in ("", "U") for bits in (8, 16, 32, 64, 128, 256)),
    *("Float32", "Float64", "BFloat16", "Bool", "String", "UUID", "IPv4", "IPv6"),
    *("Date", "Date32", "DateTime", "DateTime('Europe/Berlin')", "Time", "Time64(3)"),
    *("DateTime64(0)", "DateTime64(3)", "DateTime64(6)", "DateTime64(3, 'Asia/Tokyo')"),
    *("Decimal(9, 2)", "Decimal(4, 4)", "Decimal(3, 0)", "Decimal(76, 38)", "Decimal(1, 0)"),
    *("Enum8('a' = 1, 'b' = 2)", "Enum16('x y' = -5, 'it''s' = 300)"),
    *("FixedString(1)", "FixedString(16)"),
)
KEYS = ("String", "LowCardinality(String)", "UInt8", "Int64", "UUID", "Date", "FixedString(3)")
COMPOSED = (
    *("Nullable(String)", "LowCardinality(String)", "LowCardinality(Nullable(String))"),
    *("Array(String)", "Array(Nullable(Int32))", "Array(LowCardinality(String))"),
    *("Array(Array(Float64))", "Array(Map(String, UInt8))", "Array(Decimal(2, 2))"),
    *("Tuple(UInt8, String)", "Tuple(a UInt8, b Nullable(Date))", "JSON"),
    "SimpleAggregateFunction(sum, UInt64)",
    *(f"Map({key}, Array(Int16))" for key in KEYS),
)


@pytest.mark.parametrize("type_", SCALARS + COMPOSED)
def test_rows_of_every_type_are_taken_by_the_decoder(type_: str) -> None:
    assert_all_rows({"plain": type_, "$.in.side": type_, "$.list[:].each": f"Array({type_})"})


@pytest.mark.parametrize(
    "columns",
    [
        {"$": "String", "$.a": "UInt8"},
        {"$.a": "UInt8", "$": "String"},
        {"$": "JSON", "$.a.b": "UInt8"},
        {"$.": "String"},
        {"$.a.b": "Int32", "$.a": "String"},
        {"$.a.b": "Int32", "$.a.c.d": "Date", "$.a": "JSON"},
        {"$.items[:].price": "Array(Float64)", "$.items[:].name": "Array(String)"},
        {"$.items[:].tags[:]": "Array(Array(String))", "$.items[:].id": "Array(UInt64)"},
        {"$.items[:].a.b": "Array(UInt8)", "$.items[:].a.c": "Array(UInt8)", "$.items": "String"},
        {"$.tags[:]": "Array(String)"},
    ],
    ids=lambda c: " ".join(c),
)
def test_columns_that_share_a_part_of_the_document_are_all_there(columns: dict[str, str]) -> None:
    for seed in range(5):
        assert_all_rows(columns, seed=seed)


@pytest.mark.parametrize(
    "column",
    ["user_id", "_id", "country", "event_type", "page_url", "properties", "message_content"],
)
@pytest.mark.parametrize("type_", ["String", "LowCardinality(String)", "UInt64", "Array(String)"])
def test_what_a_name_suggests_never_overrules_its_type(column: str, type_: str) -> None:
    assert_all_rows({column: type_})


@settings(max_examples=60)
@given(
    st.dictionaries(
        st.from_regex(r"[a-z]{1,3}(\.[a-z]{1,2}){0,2}\Z", fullmatch=True),
        st.sampled_from(SCALARS + COMPOSED),
        min_size=1,
        max_size=6,
    ),
    st.integers(0, 2**32),
)
def test_rows_of_any_columns_are_taken_by_the_decoder(columns: dict[str, str], seed: int) -> None:
    # A column inside another one's value needs that one to be able to hold an object.
    outer = [p for p in columns if any(q.startswith(p + ".") for q in columns)]
    assert_all_rows(
        {f"$.{p}": "String" if p in outer else t for p, t in columns.items()}, seed=seed
    )


COLUMNS = {"user_id": "String", "ts": "DateTime", "uid": "UUID", "tags": "Array(String)"}


def test_the_same_seed_gives_the_same_rows() -> None:
    assert rows_of(COLUMNS, seed=7) == rows_of(COLUMNS, seed=7)
    assert rows_of(COLUMNS, seed=7) != rows_of(COLUMNS, seed=8)
    assert rows_of(COLUMNS, seed=None) != rows_of(COLUMNS, seed=None)


def test_more_rows_begin_with_the_same_ones() -> None:
    assert rows_of(COLUMNS, rows=5) == rows_of(COLUMNS, rows=9)[:5]
    assert rows_of(COLUMNS, rows=0) == []


def test_times_lie_in_the_day_before() -> None:
    for row in rows_of({"ts": "DateTime64(3)", "day": "Date"}, rows=200):
        event = json.loads(row)
        at = datetime.fromisoformat(event["ts"]).replace(tzinfo=UTC)
        assert timedelta() <= UNTIL - at <= timedelta(hours=24, seconds=1)
        assert event["day"] in ("2025-02-28", "2025-03-01")


def test_names_give_plausible_values() -> None:
    events = [json.loads(row) for row in rows_of({"user_id": "String", "country": "String"})]
    assert {e["user_id"].partition("_")[0] for e in events} == {"user"}
    assert "US" in {e["country"] for e in events}


def test_every_member_of_an_enum_appears() -> None:
    rows = rows_of({"kind": "Enum8('a' = 1, 'b' = 2, 'c' = 3)"})
    assert {json.loads(row)["kind"] for row in rows} == {"a", "b", "c"}


def test_columns_without_a_path_are_left_to_their_default() -> None:
    made = Datasource(name="e", columns=(Column(name="at", type="DateTime", default="now()"),))
    assert list(sample_rows(made, 2, seed=1, until=UNTIL)) == [b"{}", b"{}"]


@pytest.mark.parametrize("type_", ["AggregateFunction(uniq, UInt64)", "IntervalDay"])
def test_a_type_without_made_up_values_is_named(type_: str) -> None:
    with pytest.raises(BadRequestError, match=r"events\.state.*" + type_[:8]):
        rows_of({"state": type_})


def test_now_is_in_utc() -> None:
    assert now_utc().utcoffset() == timedelta()
