from __future__ import annotations

import pytest

from query.template.lexer import split
from shared.errors import TemplateError


def kinds(sql: str) -> list[tuple[str, str]]:
    return [(piece.kind, piece.text) for piece in split(sql)]


def test_text_and_tags_alternate() -> None:
    assert kinds("a {{ b }} c {% if d %}") == [
        ("text", "a "),
        ("output", " b "),
        ("text", " c "),
        ("block", " if d "),
    ]


def test_a_piece_knows_where_it_stands() -> None:
    tag = split("ab{{ c }}")[1]
    assert (tag.offset, tag.start) == (2, 4)


@pytest.mark.parametrize(
    ("sql", "inside"),
    [
        ("{{ f({'a': {'b': 1}}) }}", " f({'a': {'b': 1}}) "),
        ("{{ {'a': {}}}}", " {'a': {}}"),
        ("{{ '}}' }}", " '}}' "),
        ("{{ \"%}\" + '{{' }}", " \"%}\" + '{{' "),
        (r"{{ 'it\'s }}' }}", r" 'it\'s }}' "),
        ("{% set a = '%}' %}", " set a = '%}' "),
        ("{% set a = {1: 2} %}", " set a = {1: 2} "),
    ],
)
def test_strings_and_brackets_do_not_end_a_tag(sql: str, inside: str) -> None:
    assert [text for _, text in kinds(sql)] == [inside]


def test_comments_are_left_out_and_may_hold_anything() -> None:
    assert kinds("a{# it's {{ b }} #}b{% comment it's ( %}c") == [
        ("text", "a"),
        ("text", "b"),
        ("text", "c"),
    ]


def test_an_exclamation_mark_makes_a_mark_text() -> None:
    assert "".join(text for _, text in kinds("{{!a}} {%!b%} {#!c#}")) == "{{a}} {%b%} {#c#}"


def test_the_innermost_of_three_braces_opens_a_tag() -> None:
    assert kinds("{{{a}}: 1}") == [("text", "{"), ("output", "a"), ("text", ": 1}")]


@pytest.mark.parametrize(
    ("sql", "line", "column"),
    [
        ("SELECT {{ a", 1, 8),
        ("SELECT\n  {% if a", 2, 3),
        ("{# a", 1, 1),
        ("{{ it's }}", 1, 6),
        ("{{ f(a }}", 1, 8),
        ("{{ a) }}", 1, 5),
        ("{{ (a] }}", 1, 6),
        ("{% if (a %}", 1, 1),
    ],
)
def test_a_tag_that_does_not_end_is_refused_with_its_place(
    sql: str, line: int, column: int
) -> None:
    with pytest.raises(TemplateError) as caught:
        split(sql)
    (error,) = caught.value.errors
    assert (error["line"], error["column"]) == (line, column)
