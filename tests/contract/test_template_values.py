"""What templates denote, in ClickHouse: each call against the literal that it stands for.

A row is a template, its arguments, and what it denotes: SQL whose value must be the same, the text
itself (``Text``) where names and branches matter rather than values, or the class of the error.
"""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from query.template.compile import compile_template
from query.template.render import Rendered, render
from shared.clickhouse.contract import Statement
from shared.clickhouse.embedded import EmbeddedClickHouse
from shared.errors import ParameterError, TemplateCustomError, TemplateError

P, T, C = ParameterError, TemplateError, TemplateCustomError
Arguments = Mapping[str, object]


class Text(str):
    """The rendered text itself."""


DAY = "2024-01-01"
TIME = "2024-01-01 10:00:00"

SAME: list[tuple[str, Arguments, str | type[Exception]]] = [
    # String and raw values
    ("{{String(p)}}", {"p": "a"}, "'a'"),
    ("{{String(p)}}", {}, P),
    ("{{String(p,'d')}}", {}, "'d'"),
    ("{{String(p,'')}}", {}, "''"),
    ("{{String(p,'d')}}", {"p": ""}, "''"),
    ("{{String(p)}}", {"p": "it's"}, r"'it\'s'"),
    ("{{String(p)}}", {"p": 'a"b'}, "'a\"b'"),
    ("{{String(p)}}", {"p": "a\\b"}, r"'a\\b'"),
    ("{{String(p)}}", {"p": "a\nb\tc`d"}, r"'a\nb\tc`d'"),
    ("{{p}}", {"p": "it's"}, r"'it\'s'"),
    ("{{p}}", {}, P),
    ('{{ String( p , "d" ) }}', {}, "'d'"),
    ("{{String(p)}}", {"p": 5}, "'5'"),
    ("{{String(p)}}", {"p": ["a", "b"]}, r"'[\'a\', \'b\']'"),
    ("{{String(p)}}", {"p": None}, P),
    ("{{String(p,'d',format='x')}}", {}, "'d'"),
    (
        "{{String(p, 'd', description='x', required=True, enum=['a','b'], example='a',"
        " format='f')}}",
        {"p": "zzz"},
        "'zzz'",
    ),
    ("{{String(p, required=True)}}", {}, P),
    ("{{String(p, required=False)}}", {}, P),
    ("{{String(p, defined=False)}}", {}, T),
    # Whole numbers
    ("{{Int32(p)}}", {"p": "42"}, "toInt32('42')"),
    ("{{Int32(p,7)}}", {}, "toInt32('7')"),
    ("{{Int32(p,'7')}}", {}, "toInt32('7')"),
    ("{{Int32(p)}}", {"p": "abc"}, P),
    ("{{Int32(p)}}", {"p": ""}, P),
    ("{{Int32(p,7)}}", {"p": ""}, P),
    ("{{Int32(p)}}", {"p": "1.5"}, P),
    ("{{Int32(p)}}", {"p": "+5"}, "toInt32('5')"),
    ("{{Int32(p)}}", {"p": " 5"}, P),
    ("{{Int8(p)}}", {"p": "128"}, P),
    ("{{UInt8(p)}}", {"p": "-1"}, P),
    ("{{UInt64(p)}}", {"p": "18446744073709551615"}, "toUInt64('18446744073709551615')"),
    ("{{Int(p,3)}}", {}, "3"),
    ("{{Integer(p)}}", {"p": "3"}, "3"),
    ("{{Int32(p,description='d',required=True)}}", {"p": "1"}, "toInt32('1')"),
    ("{{UInt256(p)}}, {{Int128(q1)}}", {"p": "1", "q1": "-2"}, "toUInt256('1'), toInt128('-2')"),
    ("{{Int32(p,0) + 1}}", {"p": "4"}, "5"),
    ("{{Int64(p)}}", {"p": True}, P),
    ("{{Int64(p)}}", {"p": 5}, "toInt64('5')"),
    ("{{Int32(p)}}", {"p": ["1", "2"]}, P),
    ("{{Int32(p, defined=False)}}", {}, T),
    # Fractions and truth
    ("{{Float32(p)}}", {"p": "1"}, "toFloat32('1.0')"),
    ("{{Float64(p,1.5)}}", {}, "toFloat64('1.5')"),
    ("{{Float64(p)}}", {"p": "1e5"}, "toFloat64('100000.0')"),
    ("{{Float64(p)}}", {"p": "nan"}, "toFloat64('nan')"),
    ("{{Float64(p)}}", {"p": "x"}, P),
    ("{{Float64(p)}}", {"p": 5}, "toFloat64('5.0')"),
    ("{{Boolean(p)}}", {"p": "true"}, "1"),
    ("{{Boolean(p)}}", {"p": "0"}, "0"),
    ("{{Boolean(p)}}", {"p": "no"}, "1"),
    ("{{Boolean(p)}}", {}, "0"),
    ("{{Boolean(p, 1)}}", {}, "1"),
    ("{{Boolean(p, default=True)}}", {}, "1"),
    ("{{Boolean(p, True)}}", {}, "1"),
    ("{{Boolean(p)}}", {"p": True}, "1"),
    ("{{Boolean(p)}}", {"p": "False"}, "0"),
    ("{{Boolean(p)}}", {"p": "FALSE"}, "0"),
    # Dates
    ("{{Date(p)}}", {"p": DAY}, f"'{DAY}'"),
    ("{{Date(p)}}", {"p": TIME}, P),
    ("{{DateTime(p)}}", {"p": TIME}, f"'{TIME}'"),
    ("toDateTime({{DateTime(p)}})", {"p": "2024-01-01T10:00:00Z"}, f"toDateTime('{TIME}')"),
    ("{{DateTime(p)}}", {"p": DAY}, P),
    ("{{DateTime64(p)}}", {"p": f"{TIME}.123"}, f"'{TIME}.123'"),
    ("{{DateTime64(p)}}", {"p": TIME}, P),
    ("{{DateTime(p,'2024-01-01 00:00:00')}}", {}, "'2024-01-01 00:00:00'"),
    ("{{DateTime(job_timestamp)}}", {"job_timestamp": TIME}, f"'{TIME}'"),
    # Lists
    ("{{Array(p)}}", {"p": "a,b"}, "['a','b']"),
    ("{{Array(p,'String')}}", {"p": "a, b"}, "['a',' b']"),
    ("{{Array(p,'String')}}", {"p": "it's,x"}, r"['it\'s','x']"),
    ("{{Array(p,'Int32')}}", {"p": "1,2"}, "[1,2]"),
    ("{{Array(p,'Int32','1,2')}}", {}, "[1,2]"),
    ("{{Array(p,'Int32')}}", {"p": "1,x"}, P),
    ("{{Array(p,'Int32')}}", {}, P),
    ("{{Array(p,'String',default='a,b')}}", {}, "['a','b']"),
    ("{{Array(p,'String','')}}", {}, "['']"),
    ("{{Array(p,'Float32')}}", {"p": "1,2.5"}, "[1.0,2.5]"),
    ("{{Array(p,'Date')}}", {"p": "2024-01-01,2024-02-01"}, "['2024-01-01','2024-02-01']"),
    ("{{Array(p,'String')}}", {"p": ["a", "b"]}, "['a','b']"),
    ("'a' in {{Array(p,'String')}}", {"p": "a"}, "'a' in ['a']"),
    ("'a' in ({{Array(p,'String')}})", {"p": "b"}, "'a' in (['b'])"),
    ("{{Array(p,'String','a,b')}}", {"p": ""}, "['']"),
    ("{{Array(p,'Int32',[1,2])}}", {}, "[1,2]"),
    ("{{Array(p,'Int32',defined=False)}}", {}, T),
    ("{{Array(p)}}", {"p": [1, 2]}, "['1','2']"),
    ("{{Array(p,'Float64')}}", {"p": [1, 2]}, "[1.0,2.0]"),
    ("{{Array(p,'Boolean')}}", {"p": "true,0"}, "[1,0]"),
    ("{{Array(p,'DateTime')}}", {"p": TIME}, f"['{TIME}']"),
    ("{{Array(p,'UUID')}}", {"p": "x"}, "['x']"),
    ("{{split_to_array(p,'a,b')}}", {}, "['a', 'b']"),
    ("{{split_to_array(p,'a|b',separator='|')}}", {}, "['a', 'b']"),
    ("{{split_to_array(p,default='')}}", {}, "['']"),
    # Names
    ("{{symbol(p)}}", {"p": "a.b"}, Text("`a.b`")),
    ("{{Symbol(p)}}", {"p": "a"}, T),
    ("{{Column(p)}}", {"p": "c"}, T),
    ("{{column(p,'id')}}", {}, Text("`id`")),
    ("{{column(p,'id')}}", {"p": "a.b"}, Text("`a`.`b`")),
    ("{{column(p)}}", {}, P),
    ("{{columns(p,'a,b')}}", {}, Text("`a`,`b`")),
    ("{{columns(p,'a,b','sum')}}", {"p": "x, y"}, Text("sum(`x`) as `x`,sum(`y`) as `y`")),
    ("{{columns(p)}}", {}, P),
    ("{{table(p)}}", {"p": "t"}, Text("`t`")),
    ("{{table('ds')}}", {}, Text("`ds`")),
    ("{{TABLE('x')}}", {}, Text("`x`")),
    # Conditions
    ("{% if defined(p) %}A{% else %}B{% end %}", {}, Text("B")),
    ("{% if defined(p) %}A{% else %}B{% end %}", {"p": ""}, Text("A")),
    ("{% if p %}A{% else %}B{% end %}", {"p": ""}, Text("B")),
    ("{% if p=='x' %}A{% elif p=='y' %}B{% else %}C{% end %}", {"p": "y"}, Text("B")),
    ("{% if defined(x) and x == '1' %}A{% end %}", {"x": "1"}, Text("A")),
    ("{% if Int32(n,1) > 0 %}pos{% end %}", {"n": "5"}, Text("pos")),
    ("{% if n > 0 %}pos{% end %}", {"n": "5"}, T),
    ("{% if p is None %}n{% end %}", {}, Text("n")),
    ("{% if p %}n{% end %}z", {}, Text("z")),
    ("{% if a.b %}n{% end %}z", {}, T),
    ("{% if 10 / 2 == 5 %}ok{% end %}", {}, Text("ok")),
    ("{% if 'a' in split_to_array(p,'a,b') %}y{% end %}", {}, Text("y")),
    ("{{'x' if defined(p) else 'y'}}", {}, "'y'"),
    ("{% if defined(p) %}x", {}, T),
    ("{% else %}", {}, T),
    ("{% while False %}x{% end %}z", {}, Text("z")),
    ("{% try %}{{Int32(p)}}{% except Exception %}bad{% end %}", {"p": "x"}, Text("bad")),
    # Refusals
    ("{% if not defined(p) %}{{error('need p')}}{% end %}1", {}, C),
    ("{{error('boom')}}", {}, C),
    ("{{custom_error('nope', 403)}}", {}, C),
    ("{{custom_error({'error':'nope','code':7})}}", {}, C),
    # Loops and assignments
    ("[{% for x in split_to_array(p,'a,b') %}[{{x}}],{% end %}[]]", {}, "[['a'],['b'],[]]"),
    (
        "{% for i, x in enumerate(split_to_array(p,'a,b')) %}({{i}},{{x}}),{% end %}1",
        {},
        "(0,'a'),(1,'b'),1",
    ),
    (
        "{% for last, x in enumerate_with_last(split_to_array(p,'a,b')) %}"
        "{{x}}{% if not last %},{% end %}{% end %}",
        {},
        "'a','b'",
    ),
    ("{% set d = 'abc' %}{{d}}", {}, "'abc'"),
    ("{% set d = Int32(p, 5) %}{{d}}", {}, "toInt32('5')"),
    ("{% set x, y = 1, 2 %}{{x}},{{y}}", {}, "1,2"),
    (
        "{% set xs = split_to_array(p,'a,b') %}{{ len(xs) }}, {{ ','.join(xs) }}",
        {},
        "2, 'a,b'",
    ),
    # sql_and
    ("{{sql_and(a=a)}}", {}, Text("")),
    ("SELECT 1 WHERE {{sql_and(a=String(a,defined=False))}}", {}, Text("SELECT 1 WHERE ")),
    # Dates and plain functions
    ("{{day_diff(a,b)}}", {"a": DAY, "b": "2024-01-31"}, "30"),
    ("{{day_diff('2024-01-11','2024-01-01')}}", {}, "10"),
    ("{{day_diff(DateTime(a),DateTime(b))}}", {"a": TIME, "b": "2024-01-11 00:00:00"}, T),
    ("{{date_diff_in_days(a,b,'%Y-%m-%d')}}", {"a": DAY, "b": "2024-01-31"}, "30"),
    (
        "{{date_diff_in_days(a,b,date_format='%d/%m/%Y')}}",
        {"a": "01/01/2024", "b": "03/01/2024"},
        "2",
    ),
    (
        "{{date_diff_in_hours(a,b)}}",
        {"a": "2024-01-01 00:00:00", "b": "2024-01-02 01:30:00"},
        "25",
    ),
    ("{{date_diff_in_minutes(a,b)}}", {"a": "bad", "b": TIME}, T),
    (
        "{{date_diff_in_seconds(a,b)}}",
        {"a": "2024-01-01 00:00:00", "b": "2024-01-01 00:01:00"},
        "60",
    ),
    ("{{min(1,2)}}, {{len('abc')}}", {}, "1, 3"),
    ("{{int('3')}}, {{float('1.5')}}, {{list('ab')}}", {}, "3, 1.5, ['a', 'b']"),
    ("{{p.replace('a','b')}}", {"p": "aa"}, "'bb'"),
    ("{{p[0]}}", {"p": "xyz"}, "'x'"),
    ("{{p[0]}}", {"p": ""}, T),
    ("{{'a' + p}}", {"p": "b"}, "'ab'"),
    ("{{1 + 2}}, {{3 * 4}}", {}, "3, 12"),
    # JSON
    ("{{JSON(p, '{}').get('a','z')}}", {}, "'z'"),
    ("{{JSON(p)}}", {"p": "{bad"}, P),
    ("{{ JSON(p,'{}').get('k','z') }}", {"p": '{"k":"v"}'}, "'v'"),
    (
        "{% for r in JSON(p) %}{{r.get('f')}}={{r.get('v')}}{% end %}",
        {"p": '[{"f":"1","v":1}]'},
        "'1'=1",
    ),
    (
        "{% for r in JSON(p) %}{{symbol(r['f'])}}{% end %}",
        {"p": '[{"f":"a","v":1}]'},
        Text("`a`"),
    ),
    # Settings of the query; what is asked for stands beside the SQL
    ("{{max_threads(4)}}SELECT 1", {}, Text("SELECT 1")),
    ("{{max_threads('4')}}x", {}, Text("x")),
    ("{{max_threads(0)}}x", {}, Text("x")),
    ("{{cache_ttl('5m')}}SELECT 1", {}, Text("SELECT 1")),
    ("{{cache_ttl('2m')}}SELECT 1", {}, T),
    ("{{activate('analyzer')}}SELECT 1", {}, Text("SELECT 1")),
    ("{{activate('foo')}}SELECT 1", {}, T),
    ("{{disable('analyzer')}}SELECT 1", {}, Text("SELECT 1")),
    ("{{backend_hint('x')}}SELECT 1", {}, Text("SELECT 1")),
    ("{{tb_secret('s')}}", {}, T),
    ("{{tb_secret('s','d')}}", {}, "'d'"),
    # What the language does not have
    ("{{10 / 2}}", {}, T),
    ("{{a == b}}", {"a": 1, "b": 2}, T),
    ("{{ p is None }}", {"p": "1"}, T),
    ("{{Enum(p, 'a')}}", {}, T),
    ("{{UUID(p)}}", {"p": "x"}, T),
    ("{{Decimal(p)}}", {"p": "1"}, T),
    ("{{undefined_fn(p)}}", {"p": "x"}, T),
    ("{{__import__('os')}}", {}, T),
    ("{{().__class__}}", {}, T),
    ("{% import os %}", {}, T),
    ("{% include 'x' %}", {}, T),
    ("{{ }}", {}, T),
    ("{{String(format,'x')}}", {}, T),
    ("{{String(q,'x')}}", {}, T),
    ("{{String(token,'x')}}", {}, "'x'"),
    # Comments and marks
    ("{# hidden #}1", {}, Text("1")),
    ("{% comment hidden %}1", {}, Text("1")),
    ("-- {{String(p)}}\nSELECT 1", {}, P),
    ("{{!x}}", {}, Text("{{x}}")),
    ("{{String(a)}}{{Int32(b)}}", {}, P),
]

# Where the service does otherwise, and why this product does not follow.
OVERRULED: list[tuple[str, str, Arguments, str | type[Exception]]] = [
    ("values are bound unchanged", "{{String(p)}}", {"p": "50%_x"}, "'50%_x'"),
    ("values are bound unchanged", "{{String(p)}}", {"p": "a%b"}, "'a%b'"),
    ("so there is nothing to undo", "{{sql_unescape(String(p),'%')}}", {"p": "a%b"}, "'a%b'"),
    ("dates are checked for range", "{{Date(p)}}", {"p": "2024-99-99"}, P),
    ("times are normalised to UTC", "{{DateTime(p)}}", {"p": f"{DAY}T10:00:00Z"}, f"'{TIME}'"),
    ("times are checked to the end", "{{DateTime(p)}}", {"p": f"{TIME}' OR 1=1 --"}, P),
    ("names match the grammar of names", "{{symbol(p)}}", {"p": "a`b"}, P),
    ("names match the grammar of names", "{{column(p,'x')}}", {"p": "a`b; drop"}, P),
    (
        "names match the grammar of names",
        "{% for x in split_to_array(p,'1,2') %}{{symbol(x)}}{% end %}",
        {},
        P,
    ),
    ("tables are resources", "{{table(p)}}", {"p": "a; drop table x"}, P),
    ("a default is one everywhere", "{{symbol(p,'x')}}", {}, Text("`x`")),
    ("an object is JSON text", "{{JSON(p)}}", {"p": '{"a":1}'}, "'{\"a\":1}'"),
    ("methods of text are allowed", "{{p.upper()}}", {"p": "a"}, "'A'"),
    ("quotes around a tag are a mistake", "SELECT '{{String(p,'x')}}'", {}, T),
]

RESOURCES = ("t", "ds", "x")


def rendered(template: str, arguments: Arguments, **options: Any) -> Rendered:
    return render(compile_template(template), arguments, resources=RESOURCES, **options)


def value_of(engine: EmbeddedClickHouse, sql: str, found: Rendered | None = None) -> str:
    statement = Statement(
        sql=sql, parameters=found.bindings if found else {}, format="JSONCompactEachRow"
    )
    return asyncio.run(engine.fetch(statement)).body.decode()


def check(
    engine: EmbeddedClickHouse, template: str, arguments: Arguments, denoted: str | type[Exception]
) -> None:
    if not isinstance(denoted, str):
        with pytest.raises(denoted) as caught:
            rendered(template, arguments)
        assert type(caught.value) is denoted
        return
    found = rendered(template, arguments)
    if isinstance(denoted, Text):
        assert found.sql == denoted
        return
    ours = value_of(engine, f"SELECT tuple({found.sql})", found)
    assert ours == value_of(engine, f"SELECT tuple({denoted})")


@pytest.mark.parametrize(("template", "arguments", "denoted"), SAME)
def test_a_template_denotes_what_it_does_in_the_service(
    engine: EmbeddedClickHouse, template: str, arguments: Arguments, denoted: str | type[Exception]
) -> None:
    check(engine, template, arguments, denoted)


@pytest.mark.parametrize(("reason", "template", "arguments", "denoted"), OVERRULED)
def test_a_template_differs_from_the_service_on_purpose(
    engine: EmbeddedClickHouse,
    reason: str,
    template: str,
    arguments: Arguments,
    denoted: str | type[Exception],
) -> None:
    check(engine, template, arguments, denoted)


def test_conditions_of_sql_and_hold_for_the_rows_they_describe(engine: EmbeddedClickHouse) -> None:
    template = (
        "SELECT count() FROM (SELECT '1' AS a, 5 AS b, 'y' AS c, 3 AS n) WHERE {{sql_and(a=a,"
        " b__gte=Int32(b,defined=False), c__in=Array(c,'String',defined=False),"
        " n__not_in=Array(n,'Int32',defined=False), b__lt=Int32(max,defined=False))}}"
    )
    for arguments, count in (
        ({"a": "1"}, 1),
        ({"a": "2"}, 0),
        ({"b": "5"}, 1),
        ({"b": "6"}, 0),
        ({"a": "1", "c": "x,y"}, 1),
        ({"c": "x"}, 0),
        ({"n": "1,2"}, 1),
        ({"n": "1,3"}, 0),
        ({"max": "6"}, 1),
        ({"max": "5"}, 0),
    ):
        found = rendered(template, arguments)
        assert json.loads(value_of(engine, found.sql, found)) == [count], arguments


@pytest.mark.parametrize(
    ("template", "type_"),
    [
        *((f"{{{{{name}(p)}}}}", name) for name in ("Int8", "Int32", "UInt64", "Int256")),
        ("{{Float32(p)}}", "Float32"),
        ("{{Int(p)}}", "Int64"),
        ("{{String(p)}}", "String"),
        ("{{Boolean(p)}}", "UInt8"),
        ("{{Array(p, 'UInt8')}}", "Array(UInt8)"),
        ("{{Array(p, 'Float32')}}", "Array(Float64)"),
    ],
)
def test_a_binding_has_the_type_that_was_declared(
    engine: EmbeddedClickHouse, template: str, type_: str
) -> None:
    found = rendered(template, {"p": "1"})
    answer = value_of(engine, f"SELECT toTypeName({found.sql})", found)
    assert json.loads(answer) == [type_]


DATE_COLUMNS = """(SELECT toDate('2024-01-01') AS d, toDate32('2024-01-01') AS d32,
    toDateTime('2024-01-01 10:00:00') AS dt, toDateTime64('2024-01-01 10:00:00.000', 3) AS d64,
    '2024-01-01 10:00:00' AS s, toNullable(dt) AS n, toLowCardinality(s) AS lc)"""


@pytest.mark.parametrize(
    "condition",
    [
        *(f"{column} >= {{}}" for column in ("d", "d32")),
        *(f"{column} IN ({{}})" for column in ("d", "d32")),
        "toDate(dt) BETWEEN {} AND {}",
        "toDate({}) = d",
        "toStartOfDay(toDateTime({})) = toDateTime(d)",
        "(d, 1) IN (({}, 1))",
        "d = (SELECT toDate({}))",
    ],
)
def test_a_day_compares_with_columns_of_any_type_as_a_literal_does(
    engine: EmbeddedClickHouse, condition: str
) -> None:
    _holds(engine, condition.replace("{}", "{{Date(p)}}"), {"p": "2024-01-01"})


@pytest.mark.parametrize(
    "condition",
    [
        *(f"{column} >= {{}}" for column in ("dt", "d64", "s", "n", "lc")),
        *(f"{column} IN ({{}})" for column in ("dt", "d64", "s", "n", "lc")),
        "dt BETWEEN {} AND {}",
        "toDateTime({}) = dt",
        "parseDateTimeBestEffort({}) = dt",
        "toDate(toDateTime({})) = d",
        "toDateTime({}) + INTERVAL 1 DAY > dt",
        "dt <= if(1, {}, {})",
    ],
)
def test_a_time_compares_with_columns_of_any_type_as_a_literal_does(
    engine: EmbeddedClickHouse, condition: str
) -> None:
    for given_ in ("2024-01-01 10:00:00", "2024-01-01T10:00:00Z", "2024-01-01T12:00:00+02:00"):
        _holds(engine, condition.replace("{}", "{{DateTime(p)}}"), {"p": given_})


@pytest.mark.parametrize("column", ["d", "d32", "dt", "d64", "s", "n", "lc"])
def test_a_list_of_dates_stands_right_of_in(engine: EmbeddedClickHouse, column: str) -> None:
    kind, value = ("Date", DAY) if column.startswith("d3") or column == "d" else ("DateTime", TIME)
    _holds(engine, f"{column} IN {{{{Array(p, '{kind}')}}}}", {"p": f"{value},{value}"})
    _holds(engine, f"{column} NOT IN {{{{Array(p, '{kind}')}}}}", {"p": value.replace("4", "5")})


def _holds(engine: EmbeddedClickHouse, condition: str, arguments: Arguments) -> None:
    found = rendered(f"SELECT count() FROM {DATE_COLUMNS} WHERE {condition}", arguments)
    assert json.loads(value_of(engine, found.sql, found)) == [1]


@pytest.mark.parametrize(
    ("pattern", "value", "matches"),
    [
        ("{{String(p)}}", "50%", True),
        ("{{String(p)}}", "5%", False),
        ("{{String(p)}}", "50_", True),
        ("({{String(p)}})", "%", False),
        ("concat('%', {{String(p)}}, '%')", "0%", True),
        ("{{sql_unescape(String(p), '%')}}", "%0%", True),
        ("{{String(p) + '%'}}", "5", False),
    ],
)
def test_a_percent_sign_right_of_like_stands_for_itself(
    engine: EmbeddedClickHouse, pattern: str, value: str, matches: bool
) -> None:
    found = rendered(f"SELECT '50%' LIKE {pattern}", {"p": value})
    assert json.loads(value_of(engine, found.sql, found)) == [int(matches)]


@pytest.mark.parametrize("value", ["a\\b", "\\", "\\%", "a\\\\b", "%\\", "100%\\_"])
def test_a_backslash_right_of_like_stands_for_itself(
    engine: EmbeddedClickHouse, value: str
) -> None:
    found = rendered("SELECT {{String(v)}} LIKE {{String(p)}}", {"p": value, "v": value})
    assert json.loads(value_of(engine, found.sql, found)) == [1]


def test_a_number_may_stand_wherever_endpoints_put_one(engine: EmbeddedClickHouse) -> None:
    template = (
        "SELECT number, quantile({{Float64(f)}})(number), round(1.25, {{Int32(n)}}),"
        " now() + INTERVAL {{Int32(n)}} DAY > now() FROM numbers({{UInt64(big)}})"
        " GROUP BY number ORDER BY number LIMIT {{Int32(n)}} OFFSET {{Int(n)}}"
    )
    found = rendered(template, {"f": "0.5", "n": "1", "big": "10"})
    assert json.loads(value_of(engine, found.sql, found))[0] == 1


def test_a_sample_is_written_as_a_number(engine: EmbeddedClickHouse) -> None:
    make = (
        "CREATE TABLE sampled (a UInt32) ENGINE = MergeTree ORDER BY intHash32(a)"
        " SAMPLE BY intHash32(a)"
    )
    asyncio.run(engine.execute(Statement(sql=make)))
    template = "SELECT count() FROM sampled SAMPLE {{Float64(p)}} OFFSET {{Float64(o, 0.5)}}"
    found = rendered(template, {"p": "1e-1"})
    assert "SAMPLE 0.1 OFFSET 0.5" in found.sql
    assert json.loads(value_of(engine, found.sql, found)) == [0]


# Values of every type come back from ClickHouse as they were given.

NASTY = st.text(
    alphabet=st.sampled_from("\\'\"`%_{}:$\0\t\n\r\b\f\x1a-#/*é€𝄞 ab"), max_size=12
) | st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=40)
_CHEAP = settings(
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def _round_trip(engine: EmbeddedClickHouse, call: str, value: object) -> Any:
    found = rendered(f"SELECT {call} AS x", {"p": value})
    return json.loads(value_of(engine, found.sql, found))[0]


@_CHEAP
@given(NASTY)
def test_any_text_comes_back_unchanged(engine: EmbeddedClickHouse, text: str) -> None:
    for call in ("hex({{String(p)}})", "hex({{p}})"):
        assert bytes.fromhex(_round_trip(engine, call, text)) == text.encode()


@_CHEAP
@given(st.lists(NASTY.filter(lambda text: "," not in text), min_size=1, max_size=5))
def test_any_list_of_texts_comes_back_unchanged(
    engine: EmbeddedClickHouse, texts: list[str]
) -> None:
    call = "arrayMap(x -> hex(x), {{Array(p, 'String')}})"
    for value in (texts, ",".join(texts)):
        back = _round_trip(engine, call, value)
        assert [bytes.fromhex(each).decode() for each in back] == texts


@_CHEAP
@given(st.sampled_from([8, 16, 32, 64, 128, 256]), st.booleans(), st.data())
def test_any_whole_number_comes_back_unchanged(
    engine: EmbeddedClickHouse, bits: int, signed: bool, data: st.DataObject
) -> None:
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    number = data.draw(st.integers(low, high) | st.sampled_from([low, high]))
    name = f"{'' if signed else 'U'}Int{bits}"
    assert _round_trip(engine, f"toString({{{{{name}(p)}}}})", str(number)) == str(number)
    assert _round_trip(engine, f"toString({{{{Array(p, '{name}')[0]}}}})", str(number)) == str(
        number
    )
    for beyond in (low - 1, high + 1):
        with pytest.raises(ParameterError):
            rendered(f"{{{{{name}(p)}}}}", {"p": str(beyond)})


@_CHEAP
@given(st.floats(allow_nan=False))
def test_any_fraction_comes_back_unchanged(engine: EmbeddedClickHouse, number: float) -> None:
    call = "toString(reinterpretAsUInt64({{Float64(p)}}))"
    (bits,) = struct.unpack("<Q", struct.pack("<d", number))
    for value in (number, repr(number)):
        assert int(_round_trip(engine, call, value)) == bits


@_CHEAP
@given(
    st.datetimes(datetime.fromisoformat("1900-01-02"), datetime.fromisoformat("2299-12-30")),
    st.integers(-14 * 60 + 1, 14 * 60 - 1),
)
def test_any_time_comes_back_in_utc(
    engine: EmbeddedClickHouse, moment: datetime, offset_min: int
) -> None:
    moment = moment.replace(microsecond=moment.microsecond // 1000 * 1000)
    text = moment.isoformat(sep=" ", timespec="milliseconds")
    local = moment.replace(tzinfo=UTC).astimezone(timezone(timedelta(minutes=offset_min)))
    call = "toString(toDateTime64({{DateTime64(p)}}, 3, 'UTC'))"
    for value in (text, text.replace(" ", "T") + "Z", local.isoformat(timespec="milliseconds")):
        assert _round_trip(engine, call, value) == text


@_CHEAP
@given(st.dates(date(1900, 1, 1), date(2299, 12, 31)))
def test_any_day_comes_back_unchanged(engine: EmbeddedClickHouse, day: date) -> None:
    assert _round_trip(engine, "toString(toDate32({{Date(p)}}))", day.isoformat()) == str(day)
