from __future__ import annotations

import pytest

from query.formats import (
    DEFAULT_SQL_FORMAT,
    FORMATS,
    output_settings,
    split_name,
    sql_format,
)
from shared.errors import BadRequestError, NotFoundError, ParameterError


@pytest.mark.parametrize("ending", FORMATS)
def test_the_ending_chooses_the_format(ending: str) -> None:
    pipe, found = split_name(f"top_pages.{ending.upper()}")
    assert (pipe, found.ending) == ("top_pages", ending)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("top_pages", "'top_pages.json'"),
        ("top_pages.jsn", "'json'"),
        ("top_pages.xlsx", "Known: .json"),
        ("", "'<pipe>.json'"),
        (".", "Known"),
    ],
)
def test_other_endings_are_not_found_and_the_hint_helps(name: str, hint: str) -> None:
    with pytest.raises(NotFoundError) as raised:
        split_name(name)
    assert hint in (raised.value.hint or "")


def test_a_format_that_is_not_offered_is_refused_with_the_near_miss() -> None:
    with pytest.raises(BadRequestError, match=r"JSONEachRw is not offered.*'JSONEachRow'"):
        sql_format("JSONEachRw")
    with pytest.raises(BadRequestError, match="Known: JSON, "):
        sql_format("Protobuf")


def test_formats_are_known_whatever_their_case() -> None:
    assert sql_format("jsoneachrow")[0] == "JSONEachRow"
    # Clients take an answer as text only when the type is exactly this.
    assert sql_format(DEFAULT_SQL_FORMAT) == ("TSV", "text/plain")


def test_output_settings_are_switches() -> None:
    sent = {"output_format_json_quote_denormals": "TRUE", "max_threads": "9", "readonly": "0"}
    assert output_settings(sent) == {"output_format_json_quote_denormals": 1}
    name = "output_format_parquet_string_as_string"
    assert output_settings({name: 0}) == {name: 0}
    with pytest.raises(ParameterError) as raised:
        output_settings({name: "2"})
    assert raised.value.errors == ({"parameter": name, "error": str(raised.value)},)
