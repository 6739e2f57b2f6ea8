"""Whatever a template and its arguments are: an answer or an error of ours, no value in SQL."""

from __future__ import annotations

import re

from hypothesis import given, settings
from hypothesis import strategies as st

from query.template.compile import compile_template
from query.template.describe import parameters
from query.template.lexer import split
from query.template.render import render
from query.template.state import RenderLimits
from shared.errors import ParameterError, TemplateCustomError, TemplateError

EXPECTED = (TemplateError, ParameterError, TemplateCustomError)
LIMITS = RenderLimits(steps=2_000, output_bytes=20_000, value_items=2_000)
MARK = "zqx'\\`;--"
_SETTINGS = settings(max_examples=400)

NAMES = st.sampled_from(["a", "b", "c", "n", "undefined"])
ATOMS = st.one_of(
    NAMES,
    st.integers(-3, 300).map(str),
    st.sampled_from(["'x'", "''", "1.5", "True", "None", "[]", "[1, 2]", "{'k': 1}", "'a,b'"]),
)
TYPES = ["String", "Int32", "UInt8", "Float64", "Boolean", "Date", "DateTime", "Int256"]
FUNCTIONS = ["len", "list", "min", "max", "sorted", "sum", "str", "int", "float", "range", "any"]


def _combined(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    pair = st.tuples(inner, inner)
    return st.one_of(
        st.tuples(st.sampled_from(TYPES), inner, inner).map(lambda t: f"{t[0]}({t[1]}, {t[2]})"),
        st.tuples(st.sampled_from(TYPES), NAMES).map(lambda t: f"{t[0]}({t[1]})"),
        st.tuples(st.sampled_from(FUNCTIONS), inner).map(lambda t: f"{t[0]}({t[1]})"),
        pair.map(lambda t: f"Array({t[0]}, 'Int32', {t[1]})"),
        pair.map(lambda t: f"({t[0]} + {t[1]})"),
        pair.map(lambda t: f"({t[0]} * {t[1]})"),
        pair.map(lambda t: f"({t[0]} if {t[1]} else {t[0]})"),
        pair.map(lambda t: f"{t[0]}[{t[1]}]"),
        pair.map(lambda t: f"[{t[0]}, {t[1]}]"),
        pair.map(lambda t: f"sql_and(x={t[0]}, y__in={t[1]})"),
        pair.map(lambda t: f"{t[0]}.replace({t[1]}, 'r')"),
        inner.map(lambda t: f"f'{{{t}}}'" if "'" not in t else t),
        inner.map(lambda t: f"split_to_array({t})"),
        inner.map(lambda t: f"JSON({t})"),
        inner.map(lambda t: f"column({t}, 'x')"),
        inner.map(lambda t: f"columns({t}, 'x,y', 'sum')"),
        inner.map(lambda t: f"symbol({t})"),
        inner.map(lambda t: f"table({t})"),
        inner.map(lambda t: f"error({t})"),
        inner.map(lambda t: f"sql_unescape({t}, '%')"),
        inner.map(lambda t: f"defined({t})"),
        inner.map(lambda t: f"day_diff({t}, '2024-01-01')"),
    )


EXPRESSIONS = st.recursive(ATOMS, _combined, max_leaves=6)
SQL = st.sampled_from(
    [" ", "SELECT ", ", ", " LIKE ", " FROM t SAMPLE ", "-- ", "\n", "/* ", " */ "]
)


def _blocks(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.one_of(
        st.lists(inner, max_size=4).map("".join),
        st.tuples(EXPRESSIONS, inner, inner).map(
            lambda t: f"{{% if {t[0]} %}}{t[1]}{{% else %}}{t[2]}{{% end %}}"
        ),
        st.tuples(EXPRESSIONS, inner).map(lambda t: f"{{% for n in {t[0]} %}}{t[1]}{{% end %}}"),
        st.tuples(EXPRESSIONS, inner).map(lambda t: f"{{% while {t[0]} %}}{t[1]}{{% end %}}"),
        st.tuples(inner, inner).map(
            lambda t: f"{{% try %}}{t[0]}{{% except Exception %}}{t[1]}{{% end %}}"
        ),
        EXPRESSIONS.map(lambda t: f"{{% set a = {t} %}}"),
        EXPRESSIONS.map(lambda t: f"{{% set a += {t} %}}"),
    )


TEMPLATES = st.recursive(
    SQL | EXPRESSIONS.map(lambda text: f"{{{{ {text} }}}}"), _blocks, max_leaves=8
)
VALUES = st.one_of(
    st.just(MARK),
    st.just(f"{MARK},{MARK}"),
    st.sampled_from(["", "1", "-5", "2024-01-01", "2024-01-01 00:00:00", "1,2", '{"k": [1]}', "x"]),
    st.text(max_size=10),
    st.integers(-(2**300), 2**300),
    st.floats(),
    st.booleans(),
    st.none(),
    st.lists(st.just(MARK) | st.integers(), max_size=3),
    st.dictionaries(st.just(MARK) | st.text(max_size=3), st.integers(), max_size=2),
)
ARGUMENTS = st.dictionaries(NAMES, VALUES, max_size=4)

PLACEHOLDER = re.compile(r"\{(p[0-9]+):[A-Za-z0-9()]+\}")


@_SETTINGS
@given(TEMPLATES, ARGUMENTS, st.booleans())
def test_a_render_ends_with_an_answer_or_an_error_of_ours(
    sql: str, arguments: dict[str, object], test_mode: bool
) -> None:
    try:
        template = compile_template(sql)
    except TemplateError as error:
        assert error.errors
        return
    parameters(template)
    try:
        found = render(template, arguments, resources=["t"], test_mode=test_mode, limits=LIMITS)
    except EXPECTED:
        return
    assert MARK not in found.sql
    assert "zqx" not in found.sql
    written = PLACEHOLDER.findall(found.sql)
    assert sorted(written) == sorted(found.bindings)
    assert found.next_binding == 1 + len(found.bindings)


@_SETTINGS
@given(TEMPLATES, ARGUMENTS)
def test_rendering_twice_gives_the_same(sql: str, arguments: dict[str, object]) -> None:
    try:
        template = compile_template(sql)
        first = render(template, arguments, limits=LIMITS)
    except EXPECTED:
        return
    second = render(template, arguments, limits=LIMITS)
    assert (first.sql, repr(first.bindings)) == (second.sql, repr(second.bindings))


TOKENS = st.sampled_from(
    [
        *("{{", "}}", "{%", "%}", "{#", "#}", "{", "}", "(", ")", "[", "]", "'", '"', "\\", "!"),
        *("if", "else", "elif", "end", "for", "in", "while", "set", "try", "except", "finally"),
        *("break", "continue", "comment", "=", "==", "+", "-", "*", ",", ".", ":", "%", "$$", "`"),
        *("a", "b", "String", "Int32", "defined", "1", "lambda", "yield", "\n", " ", "--", "/*"),
        *("import", "f'", "\0", "é", "𝄞", "\ud800", "LIKE", "0x", "1e999", "\\N{DIGIT ONE}"),
    ]
)


@_SETTINGS
@given(st.lists(TOKENS, max_size=30).map("".join) | st.text(max_size=60))
def test_any_text_is_a_template_or_an_error_of_ours(sql: str) -> None:
    try:
        template = compile_template(sql)
        parameters(template)
        render(template, {"a": MARK, "b": "1"}, limits=LIMITS)
    except EXPECTED as error:
        assert error.message


@_SETTINGS
@given(st.text(alphabet="{}%#!ab '\n", max_size=40))
def test_text_outside_tags_is_kept(sql: str) -> None:
    try:
        pieces = split(sql)
    except TemplateError:
        return
    for piece in pieces:
        assert piece.text == sql[piece.start : piece.start + len(piece.text)]
