from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.timestamps import Refusal, TimeRule, normalise, normalise_all, time_rule
from shared.errors import DatafileError
from shared.model.types import parse_type


def rule(type_text: str) -> TimeRule:
    return time_rule(parse_type(type_text))


@pytest.mark.parametrize(
    ("type_text", "value", "stored"),
    [
        ("DateTime", "2025-05-07 11:02:40", "2025-05-07 11:02:40"),
        ("DateTime", "2025-05-07", "2025-05-07 00:00:00"),
        ("DateTime", "2025-05-07T11:02:40.999", "2025-05-07 11:02:40"),
        ("DateTime", "2025-05-07T11:02:40Z", 1746615760),
        ("DateTime", "2025-05-07T11:02:40-0130", 1746615760 + 5400),
        ("DateTime", 0, 0),
        ("DateTime", 4294967295, 4294967295),
        ("DateTime", Decimal("1.9"), 1),
        ("DateTime64(3)", "2025-05-07 11:02:40.123456", "2025-05-07 11:02:40.123"),
        ("DateTime64(3)", "2025-05-07T11:02:40.5+02", "2025-05-07 09:02:40.5"),
        ("DateTime64(0)", "2025-05-07 11:02:40.5", "2025-05-07 11:02:40"),
        ("DateTime64(3)", 1746615760, "2025-05-07 11:02:40"),
        ("DateTime64(3)", 1746615760123, "2025-05-07 11:02:40.123"),
        ("DateTime64(6)", 1746615760123456, "2025-05-07 11:02:40.123456"),
        ("DateTime64(9)", 1746615760123456789, "2025-05-07 11:02:40.123456789"),
        ("DateTime64(3)", Decimal("-0.25"), "1969-12-31 23:59:59.75"),
        ("Date", "2025-05-07T23:00:00-05:00", "2025-05-07"),
        ("Date32", "1900-01-01", "1900-01-01"),
    ],
)
def test_accepted_forms_become_one_form(type_text: str, value: object, stored: object) -> None:
    assert normalise(rule(type_text), value) == stored


@pytest.mark.parametrize(
    ("type_text", "value"),
    [
        ("DateTime", "2025-02-30 00:00:00"),
        ("DateTime", "2025-13-01 00:00:00"),
        ("DateTime", "2025-05-07 24:00:00"),
        ("DateTime", "2025-05-07 11:60:00"),
        ("DateTime", "2025-05-07 11:02:60"),
        ("DateTime", "2025-05-07 11:02"),
        ("DateTime", "1969-12-31 23:59:59"),
        ("DateTime", "2106-02-07 06:28:16"),
        ("DateTime", "1970-01-01T00:00:00+01:00"),
        ("DateTime", "2025-05-07T11:02:40+25:00"),
        ("DateTime", "1746615760"),
        ("DateTime", "2025-05-07 11:02:40\n"),
        ("DateTime", "２０25-05-07 11:02:40"),
        ("DateTime", ""),
        ("DateTime", 1746615760123),
        ("DateTime", -1),
        ("DateTime64(3)", "1899-12-31 23:59:59"),
        ("DateTime64(3)", "2300-01-01 00:00:00"),
        ("DateTime64(9)", "2262-04-12 00:00:00"),
        ("DateTime64(3)", 2**64),
        ("DateTime64(3)", Decimal("1e300")),
        ("Date", "2149-06-07"),
        ("Date", "1969-12-31"),
        ("Date", 20000),
        ("Date32", "2300-01-01"),
        ("Date", "20250507"),
        ("Date", "2025-W01-1"),
    ],
)
def test_what_the_engine_would_bend_is_refused(type_text: str, value: object) -> None:
    assert isinstance(normalise(rule(type_text), value), Refusal)
    if not isinstance(value, Decimal):
        (together,) = normalise_all(rule(type_text), [value])
        assert isinstance(together, Refusal)


def test_values_that_need_no_change_are_the_same_list() -> None:
    values: list[object] = ["2025-05-07 11:02:40", "2025-12-31 23:59:59"]
    assert normalise_all(rule("DateTime"), values) is values


def test_one_bad_value_does_not_touch_its_neighbours() -> None:
    good = ["2025-05-07 11:02:40", "2025-05-08T00:00:00.5Z", 7]
    stored = normalise_all(rule("DateTime64(3)"), [*good, "2025-02-29 00:00:00", *good])
    assert isinstance(stored[3], Refusal)
    assert stored[:3] == stored[4:]
    assert not any(isinstance(form, Refusal) for form in stored[:3])


def test_milliseconds_of_many_rows_become_seconds_with_a_fraction() -> None:
    values = [1746615760123, 1746615760004]
    stored = normalise_all(rule("DateTime64(2)"), list(values))
    assert stored == ["1746615760.12", "1746615760.00"]
    assert normalise_all(rule("DateTime"), [5, 4294967295]) == [5, 4294967295]
    refused = normalise_all(rule("DateTime"), [5, 4294967296])
    assert refused[0] == 5 and isinstance(refused[1], Refusal)


def test_an_instant_in_the_repeated_hour_keeps_its_meaning() -> None:
    madrid = rule("DateTime64(3, 'Europe/Madrid')")
    first = normalise(madrid, "2025-10-26T00:30:00Z")
    second = normalise(madrid, "2025-10-26T01:30:00Z")
    assert (first, second) == ("1761438600", "1761442200")


def test_an_unknown_time_zone_is_refused() -> None:
    with pytest.raises(DatafileError):
        rule("DateTime('Mars/Olympus')")


TWO_DIGITS = st.integers(0, 99)


@given(
    st.lists(
        st.one_of(
            st.tuples(
                st.sampled_from([1899, 1969, 1970, 1999, 2000, 2024, 2099, 2106, 2299]),
                st.integers(0, 19),
                st.integers(0, 39),
                st.integers(0, 29),
                st.integers(0, 69),
                st.integers(0, 69),
            ),
            st.datetimes(
                datetime.fromisoformat("1999-01-01"), datetime.fromisoformat("2101-01-01")
            ).map(lambda d: (d.year, d.month, d.day, d.hour, d.minute, d.second)),
        ),
        min_size=1,
        max_size=5,
    ),
    st.sampled_from(["DateTime", "DateTime('Europe/Madrid')", "DateTime64(3)", "Date", "Date32"]),
    st.sampled_from(["{} {}", "{}T{}", "{}T{}Z", "{}"]),
)
def test_many_at_once_are_judged_as_one_by_one(
    parts: list[tuple[int, ...]], type_text: str, pattern: str
) -> None:
    texts = [
        pattern.format(f"{p[0]:04d}-{p[1]:02d}-{p[2]:02d}", f"{p[3]:02d}:{p[4]:02d}:{p[5]:02d}")
        for p in parts
    ]
    one_rule = rule(type_text)
    together = normalise_all(one_rule, list(texts))
    for text, form in zip(texts, together, strict=True):
        alone = normalise(one_rule, text)
        assert isinstance(form, Refusal) == isinstance(alone, Refusal), text
        if not isinstance(alone, Refusal):
            assert meaning(form) == meaning(alone), text


def meaning(form: object) -> object:
    """A number of seconds is the same moment as its text; a lone day is its midnight."""
    if isinstance(form, int) or str(form).isdigit():
        return datetime.fromtimestamp(int(str(form)), UTC)
    return datetime.fromisoformat(str(form)).replace(tzinfo=UTC)
