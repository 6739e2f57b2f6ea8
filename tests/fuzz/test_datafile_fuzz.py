"""Any text gives a result or diagnostics, never another exception; types survive printing."""

from __future__ import annotations

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from shared.clickhouse.sql import literal, quote_identifier
from shared.datafile.connection import KIND as CONNECTION
from shared.datafile.datasource import KIND as DATASOURCE
from shared.datafile.diagnostics import DIAGNOSTIC_CODES
from shared.datafile.pipe import KIND as PIPE
from shared.datafile.project import LoadedProject, parse_project
from shared.model.type_names import KNOWN_TYPES
from shared.model.types import TypeSyntaxError, parse_type

COMMANDS = sorted({*DATASOURCE.commands, *PIPE.commands, *CONNECTION.commands, "INCLUDE", "FOO"})
TYPES = sorted(KNOWN_TYPES)
FRAGMENTS = st.sampled_from(
    [
        *COMMANDS,
        *TYPES,
        *(" >\n", ">", "\n", "\n    ", " ", "\t", "\r\n", "\\", "#", "--", "%", ";", "$", "\ufeff"),
        *("'", '"', "`", "“", "”", "(", ")", "[", "]", "{", "}", "{{", "}}", "{%", "%}", ",", "="),
        *("json:$.a", "json:$.a[:]", "DEFAULT", "CODEC", "NULL", "a", "b", "3", "-1", "0.5", "1e9"),
        *("SELECT 1", "FROM", "tb_secret", 'tb_secret("A")', "READ", "endpoint", "materialized"),
        *("copy", "kafka", "MergeTree", "ReplacingMergeTree", "TYPE minmax", "GRANULARITY", "."),
    ]
)
TEXTS = st.one_of(
    st.text(max_size=200),
    st.lists(FRAGMENTS, max_size=40).map("".join),
    st.lists(FRAGMENTS, max_size=40).map(" ".join),
    st.lists(st.builds("{} {}".format, st.sampled_from(COMMANDS), FRAGMENTS), max_size=15).map(
        "\n".join
    ),
)
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=10) | FRAGMENTS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from([*COMMANDS, "name", "type", "json_path", "default", "codec"]),
            inner,
            max_size=5,
        )
    ),
    max_leaves=12,
)
EXTENSIONS = ("datasource", "pipe", "connection")


def check(project: LoadedProject) -> None:
    sources = dict(project.files)
    for diagnostic in project.diagnostics:
        assert diagnostic.code in DIAGNOSTIC_CODES
        assert diagnostic.render()
        text = sources[diagnostic.span.path].replace("\r\n", "\n").replace("\r", "\n")
        lines = text.removeprefix("\ufeff").split("\n")
        assert 1 <= diagnostic.span.line <= len(lines)
        assert 1 <= diagnostic.span.column <= len(lines[diagnostic.span.line - 1]) + 1
    loaded = [*project.workspace.datasources, *project.workspace.pipes]
    assert loaded or project.workspace.connections or project.has_errors
    for datasource in project.workspace.datasources.values():
        for column in datasource.columns:
            assert str(parse_type(column.type)) == column.type
    for pipe in project.workspace.pipes.values():
        for node in pipe.nodes:
            assert node.sql.count("\n") + 1 == len(node.sql_lines)


@settings(max_examples=400)
@given(extension=st.sampled_from(EXTENSIONS), text=TEXTS)
def test_any_text_loads_or_is_diagnosed(extension: str, text: str) -> None:
    check(parse_project([(f"x.{extension}", text)], {"A": "#\n'"}))


@settings(max_examples=200)
@given(schema=TEXTS, rest=TEXTS)
def test_any_schema_loads_or_is_diagnosed(schema: str, rest: str) -> None:
    indented = schema.replace("\n", "\n ")
    check(parse_project([("x.datasource", f"SCHEMA >\n {indented}\n{rest}")]))


@settings(max_examples=200)
@given(
    value=JSON_VALUES.filter(lambda value: isinstance(value, dict)), indent=st.none() | st.just(1)
)
def test_any_json_object_loads_or_is_diagnosed(value: object, indent: int | None) -> None:
    check(parse_project([("x.datasource", json.dumps(value, indent=indent))]))


@settings(max_examples=400)
@given(text=st.one_of(TEXTS, st.lists(FRAGMENTS, max_size=12).map("".join)))
def test_any_text_is_a_type_or_refused(text: str) -> None:
    try:
        parsed = parse_type(text)
    except TypeSyntaxError as error:
        assert 0 <= error.position <= len(text)
        return
    assert parse_type(str(parsed)) == parsed


NAMES = st.text(max_size=8)
BARE = st.sampled_from(["a", "b_c", "D9"])
SCALARS = st.one_of(
    st.sampled_from(["String", "UInt8", "Int256", "Float64", "Bool", "Date32", "UUID", "IPv6"]),
    st.integers(1, 1000).map("FixedString({})".format),
    st.integers(0, 9).map("DateTime64({})".format),
    st.integers(0, 9).map("DateTime64({}, 'UTC')".format),
    st.tuples(st.integers(1, 76), st.integers(0, 76))
    .filter(lambda pair: pair[1] <= pair[0])
    .map(lambda pair: f"Decimal({pair[0]}, {pair[1]})"),
)
NESTED = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        inner.map("Array({})".format),
        st.tuples(SCALARS, inner).map(lambda pair: f"Map({pair[0]}, {pair[1]})"),
        st.lists(inner, min_size=1, max_size=3).map(lambda items: f"Tuple({', '.join(items)})"),
        st.dictionaries(BARE, inner, min_size=1).map(
            lambda items: f"Tuple({', '.join(f'{k} {v}' for k, v in items.items())})"
        ),
    ),
    max_leaves=6,
)


@settings(max_examples=200)
@given(text=NESTED)
def test_a_canonical_type_is_printed_as_it_was_read(text: str) -> None:
    assert str(parse_type(text)) == text


@settings(max_examples=200)
@given(names=st.lists(NAMES, min_size=1, max_size=5, unique=True))
def test_names_of_enums_and_tuples_survive_printing(names: list[str]) -> None:
    enum = parse_type(f"Enum({', '.join(literal(name) for name in names)})")
    assert list(enum.members) == names
    assert parse_type(str(enum)) == enum
    elements = ", ".join(f"{quote_identifier(name)} UInt8" for name in names)
    parsed = parse_type(f"Tuple({elements})")
    assert list(parsed.element_names) == names
    assert parse_type(str(parsed)) == parsed
