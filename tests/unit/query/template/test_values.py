from __future__ import annotations

import math
import re
from datetime import date

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from query.template.values import SCALARS, BadValueError


@pytest.mark.parametrize(
    ("type_", "given", "value"),
    [
        ("Int8", "-128", -128),
        ("Int8", "+127", 127),
        ("Int32", "007", 7),
        ("UInt256", str(2**256 - 1), 2**256 - 1),
        ("Int64", 5, 5),
        ("Float64", "1.", 1.0),
        ("Float64", ".5", 0.5),
        ("Float64", "-1E-3", -0.001),
        ("Float64", "-Infinity", -math.inf),
        ("Float64", 3, 3.0),
        ("Boolean", "TRUE", 1),
        ("Boolean", "False", 0),
        ("Boolean", "", 0),
        ("Boolean", 0, 0),
        ("Boolean", False, 0),
        ("Boolean", "no", 1),
        ("Boolean", ["false"], 1),
        ("String", 1.5, "1.5"),
        ("String", True, "True"),
        ("Date", "2024-02-29", "2024-02-29"),
        ("DateTime", "2024-01-01 10:00:00", "2024-01-01 10:00:00"),
        ("DateTime", "2024-01-01T10:00:00", "2024-01-01 10:00:00"),
        ("DateTime", "2024-01-01t10:00:00z", "2024-01-01 10:00:00"),
        ("DateTime", "2024-01-01 10:00:00.5", "2024-01-01 10:00:00.5"),
        ("DateTime", "2024-01-01T10:00:00.000Z", "2024-01-01 10:00:00"),
        ("DateTime", "2024-01-01T00:30:00+01:00", "2023-12-31 23:30:00"),
        ("DateTime", "2023-12-31T23:30:00-0100", "2024-01-01 00:30:00"),
        ("DateTime64", "2024-01-01T10:00:00.123456789Z", "2024-01-01 10:00:00.123456789"),
    ],
)
def test_a_value_is_read_as_its_type(type_: str, given: object, value: object) -> None:
    assert SCALARS[type_].read(given) == value


@pytest.mark.parametrize(
    ("type_", "given"),
    [
        *(
            ("Int32", text)
            for text in ("", " 1", "1 ", "1.0", "1e3", "0x1", "1_0", "٣", "--1", "+")
        ),
        ("Int8", "128"),
        ("Int8", "-129"),
        ("UInt8", "-1"),
        ("UInt256", "9" * 79),
        ("Int64", "9" * 100_000),
        ("Int64", True),
        ("Int64", 1.0),
        ("Int64", [1]),
        *(("Float64", text) for text in ("", " 1", "1_0", "1e", ".", "e5", "0x1p3", "in", "nane")),
        ("Float64", "1e999"),
        ("Float64", 10**400),
        ("Float64", True),
        ("Float32", "1e39"),
        *(("Date", text) for text in ("", "2024-1-1", "2024-02-30", "20240101", "2024-99-99")),
        ("Date", "1899-12-31"),
        ("Date", "2300-01-01"),
        ("Date", "٢٠٢٤-01-01"),
        ("Date", ["2024-01-01"]),
        ("DateTime", "2024-01-01"),
        ("DateTime", "2024-01-01 24:00:00"),
        ("DateTime", "2024-01-01 10:60:00"),
        ("DateTime", "2024-01-01 10:00"),
        ("DateTime", "2024-01-01  10:00:00"),
        ("DateTime", "2024-01-01 10:00:00 UTC"),
        ("DateTime", "2024-01-01 10:00:00' OR 1=1 --"),
        ("DateTime", "2024-01-01 10:00:00+15:00"),
        ("DateTime", "2024-01-01 10:00:00+01:60"),
        ("DateTime", "1900-01-01 00:00:00+01:00"),
        ("DateTime", "2024-01-01 10:00:00.1234567890"),
        ("DateTime64", "2024-01-01 10:00:00"),
        ("DateTime64", "2024-01-01 10:00:00."),
    ],
)
def test_what_is_no_value_of_the_type_is_refused(type_: str, given: object) -> None:
    with pytest.raises(BadValueError):
        SCALARS[type_].read(given)


def test_every_type_reads_its_own_example_and_stand_in() -> None:
    for scalar in SCALARS.values():
        scalar.read(scalar.example)
        assert type(scalar.read(str(scalar.stand_in))) is type(scalar.stand_in)


_DAY_LIKE = st.text("0123456789-W ", min_size=8, max_size=11)
_DAYS = st.dates(date(1890, 1, 1), date(2310, 1, 1)).map(str)


@settings(max_examples=300)
@given(text=st.one_of(_DAYS, _DAY_LIKE, _DAYS.map(lambda day: day.replace("-0", "-W", 1))))
def test_a_day_is_read_exactly_where_it_is_one(text: str) -> None:
    try:
        is_day = re.fullmatch(r"\d{4}-\d\d-\d\d", text, re.ASCII) is not None
        is_day = is_day and 1900 <= date.fromisoformat(text).year < 2300
    except ValueError:
        is_day = False
    try:
        assert SCALARS["Date"].read(text) == text and is_day
    except BadValueError:
        assert not is_day


@settings(max_examples=300)
@given(
    day=st.one_of(_DAYS, _DAY_LIKE),
    clock=st.one_of(st.times().map(lambda t: t.strftime("%H:%M:%S")), st.text("0123456789:.+Z ")),
)
def test_a_time_is_read_alike_in_both_its_spellings(day: str, clock: str) -> None:
    """The common spelling is read by a shorter way, which must know the same times."""

    def read(separator: str) -> object:
        try:
            return SCALARS["DateTime"].read(f"{day}{separator}{clock}")
        except BadValueError:
            return None

    assert read(" ") == read("T")
