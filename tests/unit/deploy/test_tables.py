from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from deploy.tables import cell_text, render_table, text_width


def test_columns_are_aligned_and_numbers_stand_at_the_right() -> None:
    lines = list(render_table(["name", "n"], [["a", 1], ["long name", 200]], numeric=[1]))
    assert lines == [
        "name         n",
        "─────────  ───",
        "a            1",
        "long name  200",
    ]


def test_values_that_are_no_text_are_shown_on_one_line() -> None:
    assert cell_text(None) == "NULL"
    assert cell_text({"a": [1, None]}) == '{"a":[1,null]}'
    assert cell_text("two\nlines\x1b[31m") == r"two\nlines\x1b[31m"


def test_wide_characters_take_two_columns() -> None:
    lines = list(render_table(["a", "b"], [["日本", "x"], ["é", "y"]]))
    assert lines[2] == "日本  x"
    assert lines[3] == "é     y"


def test_only_the_widest_columns_are_cut_to_the_terminal() -> None:
    lines = list(render_table(["id", "text"], [["123456", "x" * 100]], width=30))
    assert lines[2] == "123456  " + "x" * 21 + "…"


def test_the_first_column_is_cut_last() -> None:
    rows = [["name_of_15_char", "x" * 50, "y" * 50]]
    assert list(render_table(["a", "b", "c"], rows, width=40))[2].startswith("name_of_15_char  x")
    only = list(render_table(["a"], [["z" * 30]], width=20))
    assert only[2] == "z" * 19 + "…"


def test_a_table_without_rows_or_columns_is_no_error() -> None:
    assert list(render_table(["a"], [])) == ["a", "─"]
    assert list(render_table([], [])) == ["", ""]


@given(
    st.lists(st.lists(st.text(max_size=40), min_size=3, max_size=3), max_size=4),
    st.integers(min_value=1, max_value=120),
)
def test_no_line_is_wider_than_the_terminal(rows: list[list[str]], width: int) -> None:
    for line in render_table(["a", "b", "c"], rows, width=width):
        assert text_width(line) <= width
        assert line.isprintable()
