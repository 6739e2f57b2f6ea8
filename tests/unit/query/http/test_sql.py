from __future__ import annotations

import pytest

from query.http.sql import FreeSql, body_parameters, read_free_sql
from shared.errors import BadRequestError


@pytest.mark.parametrize(
    ("text", "select", "output_format"),
    [
        ("SELECT 1", "SELECT 1", "TSV"),
        (" SELECT 1 ; ", "SELECT 1", "TSV"),
        ("SELECT 1 FORMAT JSON", "SELECT 1", "JSON"),
        ("SELECT 1\nformat CSVWithNames;", "SELECT 1", "CSVWithNames"),
        ("SELECT 1 AS format", "SELECT 1 AS format", "TSV"),
        ("SELECT ' FORMAT JSON'", "SELECT ' FORMAT JSON'", "TSV"),
        ("% SELECT {{Int32(a)}} FORMAT CSV", "% SELECT {{Int32(a)}}", "CSV"),
        ("SELECT 1 FORMAT CSV -- for now", "SELECT 1", "CSV"),
        ("SELECT 1\nFORMAT CSV; -- it's", "SELECT 1", "CSV"),
        ("SELECT 1 -- it's\nFORMAT CSV", "SELECT 1 -- it's", "CSV"),
        ("SELECT 1 -- FORMAT CSV", "SELECT 1 -- FORMAT CSV", "TSV"),
        ("SELECT 1 -- FORMAT CSV -- no", "SELECT 1 -- FORMAT CSV -- no", "TSV"),
        ("SELECT 1 -- a\n-- FORMAT CSV", "SELECT 1 -- a\n-- FORMAT CSV", "TSV"),
        ("SELECT 'a FORMAT CSV -- b'", "SELECT 'a FORMAT CSV -- b'", "TSV"),
        ("SELECT 1 FORMAT CSV SETTINGS max_threads=1", "SELECT 1\nSETTINGS max_threads=1", "CSV"),
        (
            "SELECT 1 FORMAT CSV settings a = 1, b='hash' ;",
            "SELECT 1\nsettings a = 1, b='hash'",
            "CSV",
        ),
        ("SELECT 1 SETTINGS max_threads=1 FORMAT CSV", "SELECT 1 SETTINGS max_threads=1", "CSV"),
    ],
)
def test_a_format_at_the_end_is_taken_off(text: str, select: str, output_format: str) -> None:
    assert read_free_sql(text) == FreeSql(select=select, format=output_format)


@pytest.mark.parametrize(
    ("text", "select"),
    [
        ("DESCRIBE events", "SELECT * FROM events"),
        ("describe table events", "SELECT * FROM events"),
        ("DESC (SELECT 1)", "(SELECT 1)"),
        ("DESCRIBE SELECT 1", "SELECT 1"),
    ],
)
def test_what_is_described_is_a_select_like_any_other(text: str, select: str) -> None:
    assert read_free_sql(text) == FreeSql(select=select, describes=True)


@pytest.mark.parametrize("text", ["", "  ", ";"])
def test_no_sql_is_a_bad_request(text: str) -> None:
    with pytest.raises(BadRequestError, match="The request has no SQL"):
        read_free_sql(text)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"", {}),
        (b"SELECT 1 WHERE a = 'b=c&d'", {"q": "SELECT 1 WHERE a = 'b=c&d'"}),
        (b"q=SELECT+1&a=2", {"q": "SELECT 1", "a": "2"}),
        (b'{"q": "SELECT 1", "a": [1, 2]}', {"q": "SELECT 1", "a": [1, 2]}),
        (b"q=SELECT+1&a=2&a=3", {"q": "SELECT 1", "a": "2,3"}),
    ],
)
def test_a_body_is_a_json_object_a_form_or_the_sql_itself(
    body: bytes, expected: dict[str, object]
) -> None:
    assert body_parameters(body, sql_is_known=False) == expected


def test_a_form_without_sql_is_parameters_only_where_the_sql_is_known() -> None:
    assert body_parameters(b"a=2", sql_is_known=True, is_form=True) == {"a": "2"}
    assert body_parameters(b"SELECT 1", sql_is_known=False, is_form=True) == {"q": "SELECT 1"}
    assert body_parameters(b"a=2&q=SELECT+1", sql_is_known=False, is_form=True)["q"] == "SELECT 1"


@pytest.mark.parametrize("body", [b"{", b"{1}", b"SELECT \xff", b'{"q":' + b"[" * 9999])
def test_a_body_that_is_neither_is_a_bad_request(body: bytes) -> None:
    with pytest.raises(BadRequestError):
        body_parameters(body, sql_is_known=False)
