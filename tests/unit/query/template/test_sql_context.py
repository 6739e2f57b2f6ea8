from __future__ import annotations

import pytest

from query.template.compile import compile_template
from query.template.parser import parse
from query.template.render import render
from query.template.sql_context import START, Context, contexts, scan
from shared.errors import TemplateError


def context(sql: str) -> list[Context]:
    return list(contexts(parse(sql), sql).values())


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT '{{p}}'",
        "SELECT 'a''{{p}}'",
        r"SELECT 'a\'{{p}}'",
        r"SELECT 'a\\' || '{{p}}'",
        'SELECT "{{p}}"',
        "SELECT `{{p}}`",
        "SELECT ‘{{p}}’",
        "SELECT “{{p}}”",
        "SELECT $${{p}}$$",
        "SELECT $x$ $$ {{p}} $x$",
        "SELECT '-- {{p}}",
        "SELECT -- it's\n'{{p}}'",
        "{% if a %}SELECT '{% else %}SELECT {% end %}{{p}}'",
        "{% for x in y %}{{x}}'{% end %}",
        "{% for x in y %}{% if x %}'{% break %}{% end %}{% end %}{{p}}",
        "{% try %}{{a}}'{{'b'}}'{% except %}{{c}}{% end %}",
    ],
)
def test_a_placeholder_that_may_stand_inside_quotes_is_refused(sql: str) -> None:
    with pytest.raises(TemplateError) as caught:
        compile_template(sql)
    assert "inside quotes" in caught.value.message


def test_the_refusal_says_where() -> None:
    with pytest.raises(TemplateError) as caught:
        compile_template("SELECT 1,\n  'a' || '{{p}}'")
    (error,) = caught.value.errors
    assert (error["line"], error["column"]) == (2, 11)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 'it''s' || {{p}}",
        r"SELECT 'it\'s' || {{p}}",
        r"SELECT '\\' || {{p}}",
        "SELECT $$it's$$ || {{p}}",
        "SELECT a$b$c, {{p}}",
        "SELECT '{{!p}}' || {{p}}",
        "SELECT 1 -- it's\n + {{p}}",
        "SELECT 1 # it's\n + {{p}}",
        "SELECT /* it's /* it's */ */ {{p}}",
        "SELECT ‘it's’ || {{p}}",
        "SELECT '{% if a %}x{% else %}y{% end %}' || {{p}}",
        "SELECT {% if a %}'x'{% else %}\"y\"{% end %} || {{p}}",
        "SELECT '{# it's {{q}} #}' || {{p}}",
    ],
)
def test_quotes_that_end_do_no_harm(sql: str) -> None:
    assert context(sql) == ["code"]


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("-- {{p}}\n", "comment"),
        ("/* {{p}} */", "comment"),
        ("/* /* */ {{p}} */", "comment"),
        ("a LIKE {{p}}", "like"),
        ("a ilike\n{{p}}", "like"),
        ("a NOT LIKE {{p}}", "like"),
        ("lower(a) LIKE ({{p}})", "like"),
        ("a LIKE({{p}})", "like"),
        ("{{a}} LIKE {{p}}", "like"),
        ("'x' LIKE /* c */ {{p}}", "like"),
        ("`a` LIKE {{p}}", "like"),
        ("a LIKE lower({{p}})", "code"),
        ("a LIKE '%' || {{p}}", "code"),
        ("like({{p}}, 'x')", "code"),
        ("WHERE like({{p}}, 'x')", "code"),
        ("NOT like({{p}}, 'x')", "code"),
        ("a LIKE 'x' AND b = {{p}}", "code"),
        ("a LIKE {{q}} AND b = {{p}}", "code"),
        ("SELECT alike, {{p}}", "code"),
        ("FROM t SAMPLE {{p}}", "sample"),
        ("FROM t FINAL SAMPLE 1 / {{p}}", "sample"),
        ("FROM t SAMPLE {{q}} OFFSET {{p}}", "sample"),
        ("FROM t SAMPLE 0.1 OFFSET {{p}}", "sample"),
        ("FROM t SAMPLE 0.1 LIMIT {{p}}", "code"),
        ("FROM t LIMIT 1 OFFSET {{p}}", "code"),
        ("SELECT sample, {{p}}", "code"),
        ("a {% if b %}LIKE{% else %}ILIKE{% end %} {{p}}", "like"),
        ("a {% if b %}LIKE{% else %}={% end %} {{p}}", "mixed"),
        ("{% if b %}-- {% end %}{{p}}\n", "mixed"),
    ],
)
def test_the_words_before_a_tag_decide_how_it_is_written(sql: str, expected: str) -> None:
    assert context(sql)[-1] == expected


def test_what_was_written_decides_where_the_ways_differ() -> None:
    template = compile_template("a {% if b %}LIKE{% else %}={% end %} {{p}}")
    assert render(template, {"p": "50%", "b": "1"}).bindings == {"p1": "50\\%"}
    assert render(template, {"p": "50%"}).bindings == {"p1": "50%"}


def test_what_was_written_is_read_once_however_many_values_stand_in_it() -> None:
    outputs = "{% if b %} OR a LIKE {% else %} OR a = {% end %}{{p}}" * 300
    template = compile_template("SELECT 1 AS a" + ", 1" * 20_000 + " WHERE 0" + outputs)
    assert set(render(template, {"p": "%", "b": "1"}).bindings.values()) == {"\\%"}


def test_a_value_in_a_comment_is_not_written() -> None:
    rendered = render(compile_template("SELECT 1 -- {{p}}\n, {{p}} /* {{p}} */"), {"p": "*/ x"})
    assert rendered.sql == "SELECT 1 -- \n, {p1:String} /*  */"
    assert rendered.bindings == {"p1": "*/ x"}


def test_a_loop_is_followed_until_nothing_new_reaches_it() -> None:
    sql = "{% for x in y %}{{x}} {% if x %}LIKE{% end %} {% end %}"
    assert context(sql) == ["mixed"]


def test_loops_within_loops_stay_cheap_to_follow() -> None:
    loop = "{% for a in b %} a SAMPLE 1/ -- {% if c %} OFFSET {% else %} ( {% end %}"
    compile_template(loop * 29 + "\n */ " + "{% end %}" * 29)


def test_scanning_piece_by_piece_is_scanning_the_whole() -> None:
    sql = "a LIKE 'x' /* y /* */ */ -- z\n \"q\" SAMPLE $h$ $h$ NOT ilike ("
    for cut in range(len(sql)):
        if sql[cut - 1 : cut + 1] in ("/*", "*/", "--") or (sql[cut - 1] + sql[cut]).isalpha():
            continue  # A tag never cuts a word or a mark in two.
        if sql[cut - 1] == "$" or sql[cut] == "$" or sql[cut - 1 : cut + 1] == "$h":
            continue
        assert scan(scan(START, sql[:cut]), sql[cut:]) == scan(START, sql)
