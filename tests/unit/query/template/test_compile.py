from __future__ import annotations

from collections.abc import Mapping

import pytest

from query.template.compile import compile_template
from query.template.render import render
from shared.errors import TemplateError


def text(sql: str, arguments: Mapping[str, object] | None = None) -> str:
    return render(compile_template(sql), arguments or {}).sql


def values(sql: str, arguments: Mapping[str, object] | None = None) -> list[object]:
    return list(render(compile_template(sql), arguments or {}).bindings.values())


def refusal(sql: str, arguments: Mapping[str, object] | None = None) -> TemplateError:
    with pytest.raises(TemplateError) as caught:
        text(sql, arguments)
    return caught.value


# Blocks


@pytest.mark.parametrize(
    ("sql", "written"),
    [
        ("{% if a %}1{% elif b %}2{% elif c %}3{% else %}4{% end %}", "4"),
        ("{% if 0 %}1{% elif 1 %}2{% elif 1 %}3{% end %}", "2"),
        ("{% for x in [] %}a{% else %}b{% end %}", "b"),
        ("{% for x in [1, 2] %}a{% else %}b{% end %}", "aab"),
        ("{% for x in [1, 2] %}a{% break %}{% else %}b{% end %}", "a"),
        ("{% for x in [1, 2, 3] %}{% if x == 2 %}{% continue %}{% end %}a{% end %}", "aa"),
        (
            "{% for x in range(3) %}{% for y in range(3) %}{% if y == 1 %}{% break %}{% end %}a"
            "{% end %}{% end %}",
            "aaa",
        ),
        ("{% set n = 3 %}{% while n %}a{% set n -= 1 %}{% end %}", "aaa"),
        ("{% set n = 3 %}{% while n %}{% set n -= 1 %}{% continue %}a{% else %}b{% end %}", "b"),
        ("{% for (a, (b, c)) in [(1, (2, 3))] %}{% if a + b == c %}y{% end %}{% end %}", "y"),
        ("{% for k, v in {'a': 1}.items() %}{% if k == 'a' and v == 1 %}y{% end %}{% end %}", "y"),
        ("{% set a, b = 1, 2 %}{% if a < b %}y{% end %}", "y"),
        ("{% set a = 'x' %}{% set a += 'y' %}{% if a == 'xy' %}y{% end %}", "y"),
        ("{% set a = 2 %}{% set a *= 3 %}{% if a == 6 %}y{% end %}", "y"),
        ("{% set a\n = [\n1,\n2] %}{% if a[1] == 2 %}y{% end %}", "y"),
        ("{% if a\n or\n not b %}y{% end %}", "y"),
        ("{% whitespace oneline %}y", "y"),
        ("{% try %}a{% finally %}b{% end %}", "ab"),
        ("{% try %}a{% except %}b{% else %}c{% finally %}d{% end %}", "acd"),
        ("{% try %}a{{1 + 'x'}}{% except ValueError %}b{% finally %}d{% end %}", "abd"),
        (
            "{% try %}{{error('no')}}{% except E as e %}{% if e == 'no' %}y{% end %}{% end %}",
            "y",
        ),
        ("{% try %}{% try %}{{Int8('x')}}{% finally %}a{% end %}{% except %}b{% end %}", "ab"),
        ("{% for x in [1, 2] %}{% try %}{% break %}{% finally %}a{% end %}{% end %}", "a"),
    ],
)
def test_blocks_run_as_in_python(sql: str, written: str) -> None:
    assert text(sql) == written


def test_names_of_a_loop_outlive_it_and_those_of_a_comprehension_do_not() -> None:
    assert values("{% for x in [1, 2] %}{% end %}{{x}}") == [2]
    assert text("{% set y = [x for x in [1, 2]] %}{% if x is None %}y{% end %}") == "y"


def test_a_failure_outside_the_try_is_not_caught_by_it() -> None:
    refusal("{% try %}a{% except %}b{% end %}{{1 + 'x'}}")


@pytest.mark.parametrize(
    ("sql", "line", "column"),
    [
        ("a\n{% if x %}b", 2, 1),
        ("{% end %}", 1, 1),
        ("a {% else %}", 1, 3),
        ("{% elif x %}", 1, 1),
        ("{% for x in y %}{% elif z %}{% end %}", 1, 17),
        ("{% if x %}{% else %}{% else %}{% end %}", 1, 21),
        ("{% if x %}{% else %}{% elif y %}{% end %}", 1, 21),
        ("{% break %}", 1, 1),
        ("{% if x %}{% continue %}{% end %}", 1, 11),
        ("{% try %}a{% end %}", 1, 1),
        ("{% try %}{% except 1 + 1 %}{% end %}", 1, 10),
        ("{% import os %}", 1, 1),
        ("{% endif %}", 1, 1),
        ("{% %}", 1, 1),
        ("{% if %}{% end %}", 1, 7),
        ("{{ }}", 1, 3),
        ("{{ a b }}", 1, 3),
        ("{% for x %}{% end %}", 1, 8),
        ("{% for x in y if z %}{% end %}", 1, 8),
        ("{% for x.y in z %}{% end %}", 1, 8),
        ("{% set x %}", 1, 8),
        ("{% set x == 1 %}", 1, 8),
        ("{% set x.y = 1 %}", 1, 8),
        ("{% set x['a'] = 1 %}", 1, 8),
        ("{% set a, b += 1 %}", 1, 8),
        ("{% set q = 1 %}", 1, 8),
        ("{% for format in x %}{% end %}", 1, 8),
        ("SELECT {{ String(format) }}", 1, 18),
        ("SELECT\n  {{ a +\n nofunction(b) }}", 3, 2),
        ("{{ 'é' + nofunction(b) }}", 1, 10),
    ],
)
def test_what_does_not_compile_is_refused_with_its_place(sql: str, line: int, column: int) -> None:
    with pytest.raises(TemplateError) as caught:
        compile_template(sql)
    (error,) = caught.value.errors
    assert (error["line"], error["column"]) == (line, column)
    assert f"line {line}, column {column}" in caught.value.message


def test_a_failure_while_rendering_has_the_place_of_its_tag() -> None:
    (error,) = refusal("SELECT 1,\n  {{ 'a' + 1 }}").errors
    assert (error["line"], error["column"]) == (2, 3)


def test_a_template_without_tags_is_static() -> None:
    assert compile_template("SELECT '50%' LIKE '%'").is_static
    assert not compile_template("SELECT {{a}}").is_static
    assert not compile_template("{% set a = 1 %}SELECT 1").is_static


# Expressions


@pytest.mark.parametrize(
    "condition",
    [
        "1 < 2 < 3",
        "not 1 < 2 < 2",
        "'a' in 'abc' and 1 not in [2]",
        "10 / 4 == 2.5 and 10 // 4 == 2 and 10 % 4 == 2 and 2 ** 3 == 8",
        "-(1 - 3) == +2",
        "[1, 2][-1] == 2 and 'abc'[1:] == 'bc' and [1, 2, 3][::2] == [1, 3]",
        "{'a': [1]}['a'][0] == 1",
        "[x * 2 for x in range(5) if x % 2] == [2, 6]",
        "[(x, y) for x in 'ab' for y in 'cd'][3] == ('b', 'd')",
        "{x: y for x, y in [('a', 1)]} == {'a': 1}",
        "{x for x in 'aab'} == {'a', 'b'}",
        "sum(x for x in [1, 2]) == 3",
        "f'{1 + 1}-{\"a\"!r}-{1.5:.2f}-{7:03d}' == \"2-'a'-1.50-007\"",
        "'a-b'.split('-') == ['a', 'b'] and 'a b'.split() == ['a', 'b']",
        "','.join(['a', 'b']) == 'a,b'",
        "' a '.strip().upper().lower().replace('a', 'b') == 'b'",
        "'abc'.startswith('ab') and 'abc'.endswith(('x', 'c'))",
        "{'a': 1}.get('a') == 1 and {'a': 1}.get('b', 2) == 2",
        "list({'a': 1}.keys()) + list({'a': 1}.values()) == ['a', 1]",
        "list(enumerate('ab')) == [(0, 'a'), (1, 'b')]",
        "zip([1, 2], 'ab', [3]) == [(1, 'a', 3)]",
        "enumerate_with_last('ab') == [(False, 'a'), (True, 'b')]",
        "sorted([3, 1, 2]) == [1, 2, 3] and sorted([1, 2], reverse=True) == [2, 1]",
        "reversed([1, 2]) == [2, 1] and tuple([1]) == (1,) and set([1, 1]) == {1}",
        "min([3, 1]) == 1 and max(1, 3) == 3 and abs(-1) == 1 and round(1.25, 1) == 1.2",
        "any([0, 1]) and not all([0, 1]) and bool('x') and not bool('')",
        "str(1) == '1' and int('7') == 7 and int(2.9) == 2 and float('1e3') == 1000.0",
        "dict([('a', 1)]) == {'a': 1} and len({'a': 1}) == 1",
        "('x' if 0 else 'y') == 'y'",
        "(None or 'a') == 'a' and (0 and 'a') == 0",
        "undefined is None and undefined == None and not undefined and undefined != 'x'",
        "not defined(undefined) and not defined('undefined')",
        "Int32('5') + 1 == 6 and Int32('5') == 5 and String('5') != 5",
        "Array('1,2', 'Int32')[1] == 2 and 2 in Array('1,2', 'Int32')",
        "date_diff_in_hours('2024-01-01T00:00:00Z', '2024-01-01 05:59:59.5') == 5",
        "date_diff_in_days('x', 'y', none_if_error=True) is None",
        "date_diff_in_days('x', 'y', default=3) == 3",
        "date_diff_in_days('2024-01-03', '2024-01-01', backup_date_format='%Y-%m-%d') == 2",
        "split_to_array(' a ; b ', separator=';') == ['a', 'b']",
    ],
)
def test_an_expression_is_what_it_is_in_python(condition: str) -> None:
    assert text(f"{{% if {condition} %}}y{{% end %}}") == "y"


@pytest.mark.parametrize(
    "expression",
    [
        "().__class__",
        "a.b",
        "a.split",
        "a.__class__()",
        "''.format(1)",
        "'{0}'.format_map(a)",
        "[].append(1)",
        "__import__('os')",
        "eval('1')",
        "exec('1')",
        "getattr(a, 'b')",
        "type(a)",
        "open('x')",
        "globals()",
        "(lambda: 1)()",
        "(x := 1)",
        "await_ if 1 else (yield)",
        "[*a]",
        "{**a}",
        "min(*a)",
        "min(**a)",
        "a[0]()",
        "String()()",
        "b'x'",
        "1j",
        "...",
        "~1",
        "1 << 2",
        "1 | 2",
        "a @ b",
        "f'{1:9999}'",
        "f'{1:{2}}'",
        "9" * 400,
        "len()",
        "len(1, 2)",
        "len(x=1)",
        "String()",
        "Int32(p, defualt=1)",
        "'a'.upper(x=1)",
        "defined()",
        "defined(a, b)",
        "sql_and('a')",
        "columns(p, 'a', 'su m')",
        "-" * 60 + "1",
        "not " * 60 + "1",
        "(" * 300 + "1" + ")" * 300,
    ],
)
def test_what_the_language_does_not_have_is_refused_when_compiled(expression: str) -> None:
    for sql in (f"{{{{ {expression} }}}}", f"{{% if {expression} %}}{{% end %}}"):
        with pytest.raises(TemplateError):
            compile_template(sql)


@pytest.mark.parametrize("expression", ["a == b", "a < b", "a is None", "1 / 2", "1 % 2", "2 ** 2"])
def test_outputs_are_stricter_than_conditions(expression: str) -> None:
    with pytest.raises(TemplateError):
        compile_template(f"{{{{ {expression} }}}}")
    compile_template(f"{{% if {expression} %}}{{% end %}}")


@pytest.mark.parametrize(
    ("expression", "reason"),
    [
        ("p > 0", "write Int32(name)"),
        ("1 < 'a'", "'<' cannot be applied to a number and text"),
        ("'a' in 5", "cannot be applied"),
        ("p[9] == 'a'", "too short"),
        ("{'a': 1}['b']", "There is no item"),
        ("1 / 0", "Division by zero"),
        ("(-8) ** 0.5", "no such power"),
        ("int('x')", "int() takes a whole number, not 'x'"),
        ("float('x')", "float() takes a number"),
        ("range('x')", "whole numbers"),
        ("sum(['a'])", "numbers"),
        ("len(5)", "A list is needed"),
        ("{[1]}", "unhashable"),
        ("p.get('a')", "has no method 'get'"),
        ("p.split(1)", "Text is needed"),
        ("p.split('')", "empty separator"),
        ("p.upper('a')", "cannot be evaluated"),
        ("sorted([1, 'a'])", "cannot be evaluated"),
        ("-p", "A sign stands before numbers"),
        ("[1][0][0]", "Only texts, lists and objects"),
        ("day_diff('x', 'y')", "YYYY-MM-DD"),
        ("date_diff_in_days('x', 'y', '%Q')", "date format"),
        ("round(1, 'x')", "digits"),
    ],
)
def test_what_cannot_be_evaluated_is_explained(expression: str, reason: str) -> None:
    assert reason in refusal(f"{{% if {expression} %}}{{% end %}}", {"p": "x"}).message


def test_an_unknown_function_comes_with_the_near_miss() -> None:
    with pytest.raises(TemplateError) as caught:
        compile_template("{{ Strng(p) }}")
    assert caught.value.hint == "Did you mean 'String'?"
