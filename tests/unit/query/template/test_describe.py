from __future__ import annotations

import pytest

from query.template.compile import compile_template
from query.template.describe import Parameter, parameters


def described(sql: str) -> dict[str, Parameter]:
    return {parameter.name: parameter for parameter in parameters(compile_template(sql))}


def required(sql: str) -> set[str]:
    return {name for name, parameter in described(sql).items() if parameter.required}


def test_a_declaration_says_everything_it_holds() -> None:
    sql = (
        "SELECT 1,\n{{ Int32(limit, 10, description='How many', required=False, enum=[10, 20],"
        " example='10', format='int') }}"
    )
    assert described(sql) == {
        "limit": Parameter(
            name="limit",
            type="Int32",
            default=10,
            required=False,
            description="How many",
            enum=("10", "20"),
            example="10",
            format="int",
            line=2,
        )
    }


@pytest.mark.parametrize(
    ("call", "type_", "default"),
    [
        ("String(p)", "String", None),
        (
            "DateTime64(p, default='2024-01-01 00:00:00.000')",
            "DateTime64",
            "2024-01-01 00:00:00.000",
        ),
        ("Array(p)", "Array(String)", None),
        ("Array(p, 'Int32', '1,2')", "Array(Int32)", "1,2"),
        ("Array(p, 'Nothing', default=[1])", "Array(String)", [1]),
        ("split_to_array(p, 'a,b')", "Array(String)", "a,b"),
        ("JSON(p, '{}')", "JSON", "{}"),
        ("column(p, 'id')", "String", "id"),
        ("p", "String", None),
        ("Int32(p, other)", "Int32", None),
    ],
)
def test_the_type_and_the_default_are_those_of_the_declaration(
    call: str, type_: str, default: object
) -> None:
    found = described(f"{{{{ {call} }}}}")["p"]
    assert (found.type, found.default) == (type_, default)


def test_parameters_come_in_order_of_appearance_and_once() -> None:
    sql = "{% if defined(b) %}{{String(a)}}{% end %}{{Int32(c, 1)}}{{a}}{{Int32(b, 2)}}"
    assert list(described(sql)) == ["b", "a", "c"]
    assert described(sql)["b"].type == "Int32"
    assert described(sql)["b"].default == 2


@pytest.mark.parametrize(
    ("sql", "names"),
    [
        ("{{String(a)}}{{String(b, 'x')}}{{c}}", {"a", "c"}),
        ("{{Int32(a, None)}}", {"a"}),
        ("{{Boolean(a)}}{% set x = JSON(b) %}{{split_to_array(c)}}", set()),
        ("{{sql_and(a=String(a, defined=False), b=b)}}", set()),
        ("{% if defined(a) %}{{String(a)}}{% end %}", set()),
        ("{% if defined('a') %}{{String(a)}}{% end %}", set()),
        ("{% if a %}{{String(a)}}{% end %}", set()),
        ("{% if a == 'x' %}{{a}}{% end %}", set()),
        ("{% if a is not None %}{{a}}{% end %}", set()),
        ("{% if defined(a) and defined(b) %}{{a}}{{b}}{% end %}", set()),
        ("{% if defined(a) or defined(b) %}{{a}}{% end %}", {"a"}),
        ("{% if defined(a) or b %}1{% else %}{{a}}{% end %}", {"a"}),
        ("{% if not defined(a) %}{{error('a')}}{% else %}{{a}}{% end %}", set()),
        ("{% if not defined(a) %}{{a}}{% end %}", {"a"}),
        ("{% if defined(a) %}1{% elif defined(b) %}{{b}}{{a}}{% end %}", {"a"}),
        ("{% if defined(a) %}{{a}}{% end %}{{String(a)}}", {"a"}),
        ("{{ a if defined(a) else b }}", {"b"}),
        ("{% if defined(a) and Int32(a) > 0 %}1{% end %}", set()),
        ("{% if Int32(a) > 0 %}1{% end %}", {"a"}),
        ("{% if a > 0 %}1{% end %}", {"a"}),
        ("{% if a == 'x' %}1{% end %}", set()),
        ("{{ a.split(',') }}", {"a"}),
        ("{{ day_diff(a, b) }}", {"a", "b"}),
        ("{% for x in Array(a) %}{{x}}{% end %}", {"a"}),
        ("{% for x in a %}{{x}}{% end %}", {"a"}),
        ("{% while a %}{{a}}{% break %}{% end %}", set()),
        ("{% try %}{{Int32(a)}}{% except %}{{b}}{% end %}", {"b"}),
        ("{{String(a, required=True)}}", {"a"}),
        ("{{String(a, required=False)}}", set()),
        ("{{String(a, 'x', required=True)}}", {"a"}),
    ],
)
def test_a_parameter_is_required_where_no_condition_has_made_sure_of_it(
    sql: str, names: set[str]
) -> None:
    assert required(sql) == names


@pytest.mark.parametrize(
    ("sql", "names"),
    [
        ("{% set x = String(a) %}{{x}}", ["a"]),
        ("{% set limit = Int32(limit, 5) %}{{limit}}", ["limit"]),
        ("{% for x in Array(a) %}{{x}}{% end %}", ["a"]),
        ("{% set y = [x for x in a] %}{{x}}", ["a", "x"]),
        ("{{ len(a) }}", ["a"]),
        ("{{ String(a, b) }}", ["a", "b"]),
        ("SELECT 1", []),
    ],
)
def test_names_that_the_template_assigns_are_no_parameters(sql: str, names: list[str]) -> None:
    assert list(described(sql)) == names
