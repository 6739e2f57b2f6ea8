from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from query.template.compile import compile_template
from query.template.render import Rendered, render
from query.template.state import RenderLimits
from shared.errors import ParameterError, TemplateCustomError, TemplateError


def rendered(sql: str, arguments: Mapping[str, object] | None = None, **options: Any) -> Rendered:
    return render(compile_template(sql), arguments or {}, **options)


# Bindings


def test_a_value_is_bound_and_never_written() -> None:
    found = rendered("WHERE a = {{String(a)}} LIMIT {{Int32(n, 10)}}", {"a": "x' OR 1=1 --"})
    assert found.sql == "WHERE a = {p1:String} LIMIT {p2:Int32}"
    assert found.bindings == {"p1": "x' OR 1=1 --", "p2": 10}


def test_bindings_are_plain_values() -> None:
    sql = "{{Int8(n)}}{{Int64(n)}}{{Float32(n)}}{{Boolean(n)}}{{Array(n, 'UInt8')}}{{String(n)}}"
    found = rendered(sql, {"n": "1"})
    kinds = [type(value) for value in found.bindings.values()]
    assert kinds == [int, int, float, int, list, str]
    assert [type(item) for item in found.bindings["p5"]] == [int]  # type: ignore[union-attr]


def test_bindings_are_numbered_on_from_those_of_the_same_statement() -> None:
    found = rendered("{{a}}, {{a}}", {"a": "x"}, first_binding=7)
    assert found.sql == "{p7:String}, {p8:String}"
    assert found.next_binding == 9


@pytest.mark.parametrize(
    ("expression", "type_", "value"),
    [
        ("'a'", "String", "a"),
        ("1", "Int64", 1),
        ("1.5", "Float64", 1.5),
        ("True", "Bool", True),
        (str(2**63), "UInt64", 2**63),
        (str(2**64), "Int256", 2**64),
        (str(2**255), "UInt256", 2**255),
        ("[1, 2]", "Array(Int64)", [1, 2]),
        ("[1, 2.5]", "Array(Float64)", [1, 2.5]),
        ("['a', None]", "Array(Nullable(String))", ["a", None]),
        ("[]", "Array(String)", []),
        ("[[1], [2]]", "Array(Array(Int64))", [[1], [2]]),
        ("range(2)", "Array(Int64)", [0, 1]),
        ("[Int8('1'), Int32('2')]", "Array(Int64)", [1, 2]),
        ("Array('1', 'UInt8')", "Array(UInt8)", [1]),
        ("Boolean('x')", "UInt8", 1),
        ("{'a': [1]}", "String", '{"a":[1]}'),
    ],
)
def test_a_computed_value_is_bound_as_what_it_is(
    expression: str, type_: str, value: object
) -> None:
    found = rendered(f"{{{{ {expression} }}}}")
    assert found.sql == f"{{p1:{type_}}}"
    assert found.bindings == {"p1": value}


@pytest.mark.parametrize("expression", ["{1, 2}", "['a', 1]", "[{}]", str(2**300), "{(1, 2): 3}"])
def test_what_sql_has_no_value_for_is_refused(expression: str) -> None:
    with pytest.raises(TemplateError):
        rendered(f"{{{{ {expression} }}}}")


SHAPES = (
    "SELECT {{String(s)}}, {{s}}, {{Int32(i)}}, {{Float64(f)}}, {{Date(d)}}, {{DateTime(t)}},"
    " {{Boolean(b)}}, {{Array(l, 'Int32')}}, {{Array(w)}}, {{split_to_array(w)}}, {{s + '!'}},"
    " {{Int64(i) + 1}}, {{sql_and(a=s, b__in=Array(l, 'Int32'))}} FROM t WHERE s LIKE {{String(s)}}"
    " {% if defined(s) %}AND s = {{s}}{% end %} AND s {% if defined(b) %}ILIKE{% else %}={% end %}"
    " {{s}} AND i IN {{JSON(l)}} {% for x in JSON(l) %}OR i = {{x}}{% break %}{% end %}"
)


@settings(max_examples=100)
@given(
    st.text(st.characters(exclude_categories=["Cs"])),
    st.integers(-(2**31), 2**31 - 1),
    st.floats(allow_nan=False),
    st.dates().filter(lambda day: 1900 <= day.year < 2300),
    st.booleans(),
    st.lists(st.integers(-(2**31), 2**31 - 1), min_size=1, max_size=5),
    st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1, max_size=5),
)
def test_the_text_is_the_same_for_all_values_of_one_shape(
    text: str, number: int, fraction: float, day: Any, flag: bool, numbers: Any, words: Any
) -> None:
    fixed = {
        "s": "a",
        "i": "1",
        "f": "1.5",
        "d": "2024-01-01",
        "t": "2024-01-01 00:00:00",
        "b": "1",
        "l": [1],
        "w": "a",
    }
    other = {
        "s": text,
        "i": str(number),
        "f": repr(fraction),
        "d": day.isoformat(),
        "t": f"{day.isoformat()}T10:00:00Z",
        "b": str(flag),
        "l": numbers,
        "w": ",".join(words),
    }
    assert rendered(SHAPES, other).sql == rendered(SHAPES, fixed).sql


def test_a_default_and_a_value_give_the_same_text() -> None:
    sql = "{{String(a, 'x')}} {{Int32(b, 5)}} {{Array(c, 'Int32', '1,2')}} {{DateTime(d, e)}}"
    arguments = {"e": "2024-01-01 00:00:00"}
    given_ = {"a": "y", "b": "6", "c": "7", "d": "2024-01-02 00:00:00", **arguments}
    assert rendered(sql, arguments).sql == rendered(sql, given_).sql


# What is wrong with a request


def test_all_missing_and_bad_parameters_are_raised_together() -> None:
    sql = "{{String(a)}} {{Int32(b)}} {{c}} {{Array(d, 'Int8')}} {{Date(e)}} {{Int32(b)}}"
    with pytest.raises(ParameterError) as caught:
        rendered(sql, {"b": "x", "d": "1,300", "e": "2024-02-30"})
    errors = {error["parameter"]: error for error in caught.value.errors}
    assert list(errors) == ["a", "b", "c", "d", "e"]
    assert "value" not in errors["a"]
    assert errors["b"] == {
        "parameter": "b",
        "error": "Parameter 'b' must be a whole number from -2147483648 to 2147483647, not 'x'.",
        "value": "x",
        "expected": "a whole number from -2147483648 to 2147483647",
        "example": "10",
    }
    assert "item 2" in str(errors["d"]["error"])
    for error in caught.value.errors:
        assert str(error["error"]) in caught.value.message


def test_a_failure_that_follows_from_a_bad_parameter_does_not_hide_it() -> None:
    sql = "{% if Int32(n) < 1 %}{{error('n is too small')}}{% end %}{{1 + String(m)}}"
    with pytest.raises(ParameterError) as caught:
        rendered(sql, {"n": "x", "m": "y"})
    assert [error["parameter"] for error in caught.value.errors] == ["n"]


def test_inside_try_a_bad_parameter_is_caught_at_once() -> None:
    sql = "{% try %}{{Int32(n)}}{% except %}{{Int32(n, 1) if not defined(n) else 0}}{% end %}"
    assert rendered(sql, {"n": "x"}).bindings == {"p1": 0}
    assert rendered(sql, {}).bindings == {"p1": 1}


@pytest.mark.parametrize(
    ("sql", "name"),
    [
        ("{{ a.upper() }}", "a"),
        ("{{ a[0] }}", "a"),
        ("{{ 'x' + a }}", "a"),
        ("{% if a > 1 %}{% end %}", "a"),
        ("{{ a[1:] }}", "a"),
        ("{{ table(a) }}", "a"),
        ("{{ columns(a) }}", "a"),
    ],
)
def test_using_a_parameter_without_value_says_that_it_is_required(sql: str, name: str) -> None:
    with pytest.raises(ParameterError) as caught:
        rendered(sql)
    assert caught.value.message == f"Parameter '{name}' is required."


def test_a_bad_default_is_a_mistake_of_the_template_and_only_when_used() -> None:
    sql = "{{Int8(a, 300)}}"
    assert rendered(sql, {"a": "1"}).bindings == {"p1": 1}
    with pytest.raises(TemplateError) as caught:
        rendered(sql)
    assert "The default of parameter 'a'" in caught.value.message


def test_a_long_value_is_shortened_in_the_message() -> None:
    with pytest.raises(ParameterError) as caught:
        rendered("{{Int32(a)}}", {"a": "x" * 10_000})
    assert len(caught.value.message) < 250


def test_half_a_character_is_refused() -> None:
    for sql in ("{{a}}", "{{[a]}}"):
        with pytest.raises(TemplateError):
            rendered(sql, {"a": "\ud800"})


# Names


@pytest.mark.parametrize("name", ["a`b", "a b", "1a", "a.", ".a", "", "a;drop", "é", "a\nb"])
@pytest.mark.parametrize("call", ["symbol(p)", "column(p, 'x')", "columns(p, 'x')", "table(p)"])
def test_names_of_callers_must_be_identifiers(name: str, call: str) -> None:
    with pytest.raises(ParameterError):
        rendered(f"{{{{ {call} }}}}", {"p": name}, resources=[name])


def test_a_table_must_be_a_resource() -> None:
    assert rendered("{{table(p)}}", {"p": "ws.t"}, resources={"ws.t"}).sql == "`ws`.`t`"
    with pytest.raises(ParameterError):
        rendered("{{table(p)}}", {"p": "system"}, resources={"t"})
    with pytest.raises(ParameterError):
        rendered("{{table('t')}}")


# Errors that templates raise, settings they ask for, secrets


def test_a_caller_may_name_less_tables_than_the_template_itself() -> None:
    known: dict[str, Any] = {"resources": {"a", "b"}, "readable": {"a"}}
    assert rendered("{{table('b')}}{{table(t, 'b')}}", **known).sql == "`b``b`"
    assert rendered("{{table(t)}}", {"t": "a"}, **known).sql == "`a`"
    with pytest.raises(ParameterError, match="not 'b'"):
        rendered("{{table(t)}}", {"t": "b"}, **known)


def test_a_template_may_refuse_with_its_own_words_and_status() -> None:
    with pytest.raises(TemplateCustomError) as caught:
        rendered("{{error('need p')}}")
    assert (caught.value.http_status, caught.value.body) == (400, {"error": "need p"})
    with pytest.raises(TemplateCustomError) as caught:
        rendered("{{custom_error({'error': 'no', 'code': Int8('7')}, 403)}}")
    assert (caught.value.http_status, caught.value.body) == (403, {"error": "no", "code": 7})
    with pytest.raises(TemplateCustomError) as caught:
        rendered("{{custom_error('no', 200)}}")
    assert caught.value.http_status == 400


def test_settings_stand_beside_the_sql() -> None:
    found = rendered(
        "{{max_threads(4)}}{{cache_ttl('5m')}}{{activate('analyzer')}}{{disable('analyzer')}}1"
    )
    assert found.sql == "1"
    assert (found.max_threads, found.cache_ttl_s) == (4, 300)
    assert (found.activate, found.disable) == (("analyzer",), ("analyzer",))


@pytest.mark.parametrize(
    "call", ["max_threads(-1)", "max_threads('x')", "max_threads(10**9)", "disable('x')"]
)
def test_settings_are_checked(call: str) -> None:
    with pytest.raises(TemplateError):
        rendered(f"{{% set x = {call} %}}")


def test_a_secret_is_bound_and_marked() -> None:
    sql = "{{tb_secret('key')}} {{a}} {{tb_var('other', 'd')}}"
    for name in ("key", "tb_secret_key"):
        found = rendered(sql, {"a": "x"}, secrets={name: "s3cret"})
        assert found.sql == "{p1:String} {p2:String} {p3:String}"
        assert found.bindings == {"p1": "s3cret", "p2": "x", "p3": "d"}
        assert found.secret_bindings == ("p1",)


def test_a_secret_is_never_shown_in_an_error() -> None:
    with pytest.raises(ParameterError) as caught:
        rendered("{{Int32(tb_secret('key'))}}", secrets={"key": "s3cret"})
    assert "s3cret" not in f"{caught.value.message} {caught.value.errors}"


# Validation without values


def test_stand_ins_take_the_place_of_missing_values() -> None:
    found = rendered(
        "SELECT {{Int32(n)}}, {{String(s)}}, {{Array(x,'Int32')}}, {{Array(y)}}, {{DateTime(d)}},"
        " {{Date(e)}}, {{DateTime64(f)}}, {{Boolean(b)}}, {{Float32(g)}}, {{raw}},"
        " {{String(z,'d')}}",
        test_mode=True,
    )
    assert list(found.bindings.values()) == [
        0,
        "__no_value__",
        [0, 0],
        [""],
        "2019-01-01 00:00:00",
        "2019-01-01",
        "2019-01-01 00:00:00.000",
        0,
        0.0,
        "__no_value__",
        "d",
    ]


@pytest.mark.parametrize(
    ("sql", "written"),
    [
        ("1 {% if defined(a) %}AND a = {{String(a)}}{% end %}", "1 "),
        ("{{columns(c,'a,b')}} {{column(d,'x')}}", "`a`,`b` `x`"),
        ("{{symbol(z)}} {{table(w)}}", "`placeholder` `placeholder`"),
        ("{{error('x')}}{{custom_error('y',403)}}1", "1"),
        ("{{tb_secret('abc')}}", "{p1:String}"),
        ("{% if n > 0 %}a{% end %}{{ day_diff(a, b) }}", "{p1:Int64}"),
        ("{% for x in p.split(',') %}{{x}}{% end %}", "{p1:String}"),
        ("{% for x in JSON(p) %}{{x}}{% end %}1", "1"),
        ("{{ p[0] }}", "{p1:String}"),
    ],
)
def test_validation_needs_no_values(sql: str, written: str) -> None:
    assert rendered(sql, test_mode=True).sql == written


def test_validation_finds_a_bad_default() -> None:
    with pytest.raises(TemplateError):
        rendered("{{DateTime(a, '2024-01-01')}}", test_mode=True)


# Limits

HEAVY = [
    "{% while True %}{% end %}",
    "{% while True %}text{% end %}",
    "{% while True %}{% try %}{% while True %}{% end %}{% except %}{% end %}{% end %}",
    "{% for i in range(10**12) %}{% end %}",
    "{% for i in range(1000) %}{% for j in range(1000) %}{% end %}{% end %}",
    "{% set x = [i for i in range(1000) for j in range(1000)] %}",
    "{% set x = [1] %}{% for i in range(60) %}{% set x = [x, x] %}{% end %}",
    "{% set x = [1] %}{% for i in range(60) %}{% set x = [x] %}{% end %}",
    "{% set x = 'a' %}{% for i in range(60) %}{% set x = x + x %}{% end %}",
    "{% set x = 'a' * 10**9 %}",
    "{% set x = [1] * 10**9 %}",
    "{% set x = 9 ** 9 ** 9 %}",
    "{% set x = 3 %}{% for i in range(100) %}{% set x = x * x %}{% end %}",
    "{% set x = ('a' * 100000).replace('a', 'b' * 100000) %}",
    "{% set x = ('a' * 100000).replace('', 'b' * 100000) %}",
    "{% set x = ('b' * 100000).join(list('a' * 10000)) %}",
    "{% set x = 'a' * 900000 %}{% for i in range(90000) %}{% set y = x.strip('a') %}{% end %}",
    "{% set x = ['a' * 900000] * 50000 %}",
    "{% set x = 'a' * 900000 %}{% for i in range(9) %}{{x}}{% end %}",
    "{% set x = list(range(90000)) %}{% for i in range(90000) %}{{x}}{% end %}",
    "{% for i in range(50000) %}{{p}}{% end %}",
    "{% for i in range(50000) %}{{Int32(p)}}{% end %}",
    "{% for i in range(50000) %}{{columns(p, 'a')}}{% end %}",
    "{% for i in range(50000) %}{% set x = Array(p, 'Int32') %}{% end %}",
]


@pytest.mark.parametrize("sql", HEAVY)
def test_what_takes_too_much_ends_with_a_place(sql: str) -> None:
    with pytest.raises((TemplateError, ParameterError)) as caught:
        rendered(sql, {"p": "1," * 50_000 + "x"})
    if isinstance(caught.value, TemplateError):
        (error,) = caught.value.errors
        assert error["line"] == 1
        assert isinstance(error["column"], int)


def test_limits_can_be_set() -> None:
    sql = "{% for i in range(10) %}abc{% end %}"
    assert rendered(sql).sql == "abc" * 10
    for limits in (
        RenderLimits(steps=5),
        RenderLimits(output_bytes=20),
        RenderLimits(value_items=5),
    ):
        with pytest.raises(TemplateError):
            rendered(sql, limits=limits)


def test_blocks_and_expressions_are_nested_to_a_depth() -> None:
    compile_template("{% if a %}" * 30 + "{% end %}" * 30)
    with pytest.raises(TemplateError):
        compile_template("{% if a %}" * 31 + "{% end %}" * 31)
    with pytest.raises(TemplateError):
        compile_template("{{ " + "-" * 50 + "1 }}")


def test_a_template_renders_for_many_at_once_without_memory_of_the_last() -> None:
    template = compile_template("{% set n = n if defined(n) else 'none' %}{{n}}")
    assert render(template, {"n": "1"}).bindings == {"p1": "1"}
    assert render(template, {}).bindings == {"p1": "none"}


# Lists of allowed values

LISTED = "{{String(a, 'z', enum=['x', 'y'])}} {{Array(b, 'Int32', '9', enum=[1, 2])}}"


def test_a_list_of_values_only_describes() -> None:
    assert rendered(LISTED, {"a": "q", "b": "7"}).bindings == {"p1": "q", "p2": [7]}


def test_a_strict_render_refuses_values_that_are_not_listed() -> None:
    with pytest.raises(ParameterError) as caught:
        rendered(LISTED, {"a": "q", "b": "1,7"}, strict_enums=True)
    assert [dict(e) for e in caught.value.errors] == [
        {
            "parameter": "a",
            "error": "Parameter 'a' must be one of x, y, not 'q'.",
            "value": "q",
            "expected": "one of x, y",
            "example": "x",
        },
        {
            "parameter": "b",
            "error": "Parameter 'b' must be one of 1, 2, not '1,7'.",
            "value": "1,7",
            "expected": "one of 1, 2",
            "example": "1",
        },
    ]


def test_a_strict_render_takes_what_is_listed_and_defaults_that_are_not() -> None:
    assert rendered(LISTED, strict_enums=True).bindings == {"p1": "z", "p2": [9]}
    sent = {"a": "y", "b": "2,1"}
    assert rendered(LISTED, sent, strict_enums=True).bindings == {"p1": "y", "p2": [2, 1]}


def test_a_value_of_another_type_is_reported_once() -> None:
    with pytest.raises(ParameterError) as caught:
        rendered("{{Int8(a, enum=[1])}}", {"a": "x"}, strict_enums=True)
    assert len(caught.value.errors) == 1


def test_an_error_shows_the_example_of_the_template() -> None:
    with pytest.raises(ParameterError) as caught:
        rendered("{{Int32(a, example=5)}} {{Array(b, 'Int32', example='3,4')}}", {"a": "x"})
    assert [e["example"] for e in caught.value.errors] == ["5", "3,4"]
