from __future__ import annotations

import pytest

from query.template.compile import compile_template
from query.template.needs import Need, needed_names, needed_secrets


def needed(sql: str) -> list[str]:
    return [secret.name for secret in needed_secrets(compile_template(sql))]


@pytest.mark.parametrize(
    "sql",
    [
        "{{tb_secret('a')}}",
        "{{ tb_var ( 'a', None ) }}{{tb_secret('a')}}",
        "{{String(p, tb_secret('a'))}}",
        "{% set x = tb_secret('a') %}{{x}}",
        "{% if tb_secret('a') == 'x' %}1{% end %}",
        "{% if defined(p) %}{% for i in [1] %}{{tb_secret('a')}}{% end %}{% else %}1{% end %}",
        "{% for i in [tb_secret('a')] %}{{i}}{% end %}",
        "{% if defined(p) %}1{% else %}{{tb_secret('a') if p else 1}}{% end %}",
        "{% try %}1{% except %}{{tb_secret('a')}}{% end %}",
    ],
)
def test_a_secret_without_a_default_is_needed_wherever_it_is_named(sql: str) -> None:
    assert needed(sql) == ["a"]


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 1",
        "{{tb_secret('a', '')}}",
        "{{tb_secret('a', default='d')}}",
        "{{tb_secret('a', tb_secret('b'))}}",
        "{{tb_secret(name)}}",
        "{# {{tb_secret('a')}} #}",
        "{% try %}{{tb_secret('a')}}{% except %}1{% end %}",
    ],
)
def test_a_template_can_do_without_what_has_a_default_or_is_not_known_before(sql: str) -> None:
    assert needed(sql) == []


def test_the_place_is_that_of_the_call() -> None:
    found = needed_secrets(compile_template("SELECT 1,\n {{ 'é' + tb_secret('a') }}"))
    assert found == (Need(function="tb_secret", name="a", line=2, column=11),)


def test_a_name_without_a_default_is_one_that_only_a_request_can_give() -> None:
    sql = (
        "{{table('x')}}{{table(a)}}{{column(b, 'n')}}{{columns(c, None)}}{{symbol('p_' + d)}}"
        "{{Int32(e)}}"
    )
    found = needed_names(compile_template(sql))
    assert [(n.function, n.name) for n in found] == [
        ("table", "a"),
        ("columns", "c"),
        ("symbol", "'p_' + d"),
    ]
