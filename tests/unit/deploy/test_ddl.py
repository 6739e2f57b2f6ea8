"""The text of the statements; that the engine takes them is held in tests/contract."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy import ddl
from deploy.ddl import Definition, ViewDefinition
from shared.clickhouse.sql import literal
from shared.model.resources import Column, Datasource, EngineSpec, Index, Span


def datasource(*columns: tuple[str, str], engine: EngineSpec | None = None) -> Datasource:
    return Datasource(
        name="events",
        columns=tuple(Column(name=n, type=t, jsonpath=f"$.{n}") for n, t in columns),
        engine=engine or EngineSpec(),
    )


PLAIN = datasource(("id", "UInt32"), ("ts", "DateTime"))


def test_a_column_has_its_default_before_its_codec() -> None:
    column = Column(name="na`me", type="UInt8", default="1 + 2", codec="ZSTD(1)")
    assert ddl.column_definition(column) == r"`na\`me` UInt8 DEFAULT 1 + 2 CODEC(ZSTD(1))"


def test_a_table_hides_where_its_rows_come_from() -> None:
    sql = ddl.create_table("db", PLAIN)
    assert sql.startswith("CREATE TABLE IF NOT EXISTS `db`.`events` (")
    for name, type_ in (("__stream", "UInt64"), ("__partition", "Int32"), ("__offset", "Int64")):
        assert f"`{name}` {type_} MATERIALIZED 0" in sql


@pytest.mark.parametrize(
    "engine",
    [
        EngineSpec(name="SummingMergeTree"),
        EngineSpec(name="AggregatingMergeTree"),
        EngineSpec(name="CollapsingMergeTree", sign="sign"),
        EngineSpec(name="VersionedCollapsingMergeTree", sign="sign", version="v"),
        EngineSpec(name="Null"),
    ],
    ids=lambda e: e.name,
)
def test_tables_that_merge_rows_carry_no_identity(engine: EngineSpec) -> None:
    assert "__offset" not in ddl.create_table("db", datasource(("id", "UInt32"), engine=engine))


def test_every_clause_stands_where_clickhouse_wants_it() -> None:
    engine = EngineSpec(
        partition_key="toYYYYMM(ts)",
        sorting_key="id, ts",
        primary_key="id",
        sampling_key="id",
        ttl="ts + INTERVAL 1 DAY",
        settings="index_granularity=1024",
    )
    assert ddl.engine_clause(datasource(("id", "UInt32"), engine=engine)) == (
        "ENGINE = MergeTree PARTITION BY (toYYYYMM(ts)) ORDER BY (id, ts) PRIMARY KEY (id)"
        " SAMPLE BY (id) TTL ts + INTERVAL 1 DAY"
        " SETTINGS index_granularity=1024, non_replicated_deduplication_window=100000"
    )


@pytest.mark.parametrize(
    ("given", "settings"),
    [
        (None, "non_replicated_deduplication_window=100000"),
        ("a=1 ; ", "a=1, non_replicated_deduplication_window=100000"),
        (
            "non_replicated_deduplication_window = 10",
            "non_replicated_deduplication_window = 10, non_replicated_deduplication_window=100000",
        ),
        (
            "non_replicated_deduplication_window=200000",
            "non_replicated_deduplication_window=200000",
        ),
    ],
)
def test_a_file_can_lengthen_but_not_shorten_the_memory_of_tokens(
    given: str | None, settings: str
) -> None:
    wanted = datasource(("id", "UInt32"), engine=EngineSpec(settings=given))
    assert ddl.engine_clause(wanted).endswith(" SETTINGS " + settings)


def test_a_semicolon_at_the_end_does_not_cut_off_the_comment() -> None:
    wanted = datasource(("id", "UInt32"), engine=EngineSpec(ttl="ts;", settings="a=1;\n"))
    assert ";" not in ddl.engine_clause(wanted)
    view = ViewDefinition(name="v", target="t", select="SELECT 1 AS a;\n")
    assert "AS SELECT 1 AS a\nCOMMENT" in ddl.create_view("db", view)


@pytest.mark.parametrize(
    ("engine", "clause"),
    [
        (EngineSpec(name="ReplacingMergeTree"), "ReplacingMergeTree ORDER"),
        (EngineSpec(name="ReplacingMergeTree", ver="v"), "ReplacingMergeTree(v) ORDER"),
        (
            EngineSpec(name="ReplacingMergeTree", ver="v", is_deleted="d"),
            "ReplacingMergeTree(v, d) ORDER",
        ),
        (EngineSpec(name="SummingMergeTree", columns="a, b"), "SummingMergeTree((a, b)) ORDER"),
        (EngineSpec(name="CollapsingMergeTree", sign="s"), "CollapsingMergeTree(s) ORDER"),
        (
            EngineSpec(name="VersionedCollapsingMergeTree", sign="s", version="v"),
            "VersionedCollapsingMergeTree(s, v) ORDER",
        ),
        # What belongs to another engine is no argument of this one.
        (EngineSpec(name="MergeTree", ver="v", sign="s", columns="a"), "MergeTree ORDER"),
    ],
)
def test_each_engine_gets_its_own_arguments(engine: EngineSpec, clause: str) -> None:
    text = ddl.engine_clause(datasource(("id", "UInt32"), engine=engine))
    assert text.startswith("ENGINE = " + clause)


def test_an_aggregating_table_may_have_plain_columns_outside_its_key() -> None:
    engine = EngineSpec(name="AggregatingMergeTree", sorting_key="id")
    assert "allow_dimensions_outside_sorting_key=1" in ddl.engine_clause(
        datasource(("id", "UInt32"), engine=engine)
    )


def test_a_release_that_does_not_check_the_key_is_not_told_to_let_it_pass() -> None:
    engine = EngineSpec(name="AggregatingMergeTree", sorting_key="id")
    clause = ddl.engine_clause(
        datasource(("id", "UInt32"), engine=engine), ddl.Traits(checks_keys=False)
    )
    assert "allow_dimensions" not in clause


def test_a_null_table_has_no_keys_and_no_indexes() -> None:
    null = Datasource(
        name="events",
        columns=PLAIN.columns,
        engine=EngineSpec(name="Null", sorting_key="id", ttl="ts"),
        indexes=(Index(name="i", expression="id", type="minmax"),),
    )
    assert "ENGINE = Null COMMENT" in (sql := ddl.create_table("db", null))
    assert "TYPE minmax" not in sql.partition("COMMENT")[0]


@pytest.mark.parametrize(
    ("columns", "key"),
    [
        ([("name", "String"), ("n", "Int8"), ("ts", "DateTime64(3)")], "`ts`, `n`, `name`"),
        ([("a", "String"), ("b", "String"), ("d", "Date")], "`d`, `a`"),
        ([("a", "Nullable(String)"), ("b", "LowCardinality(String)")], "`b`"),
        ([("a", "LowCardinality(Nullable(String))"), ("n", "UInt256")], "`n`"),
        ([("a", "Array(String)"), ("f", "Float64")], "tuple()"),
        ([("a", "no type at all"), ("b", "UInt8")], "`b`"),
    ],
)
def test_the_key_nobody_chose_is_a_time_a_number_and_a_string(
    columns: list[tuple[str, str]], key: str
) -> None:
    assert ddl.default_sorting_key(datasource(*columns)) == key


@pytest.mark.parametrize(
    "engine",
    [
        EngineSpec(name="CollapsingMergeTree", sign="a"),
        EngineSpec(name="VersionedCollapsingMergeTree", sign="x", version="a"),
        EngineSpec(name="ReplacingMergeTree", ver="a"),
        EngineSpec(name="ReplacingMergeTree", ver="x", is_deleted="a"),
        EngineSpec(name="SummingMergeTree", columns="x, `a`"),
    ],
)
def test_columns_that_the_engine_works_with_stay_out_of_the_key_nobody_chose(
    engine: EngineSpec,
) -> None:
    found = ddl.default_sorting_key(datasource(("a", "Int8"), ("b", "Int32"), engine=engine))
    assert found == "`b`"


def test_the_quarantine_table_keeps_one_row_for_each_record() -> None:
    sql = ddl.create_quarantine("db", datasource(("id", "UInt32"), ("__raw", "String")))
    assert "`db`.`events_quarantine`" in sql
    assert "`id` Nullable(String)" in sql
    assert sql.count("`__raw`") == 1
    assert "ORDER BY (__stream, __partition, __offset)" in sql
    assert "COMMENT" not in sql


def test_the_select_of_a_view_may_end_in_a_line_comment() -> None:
    view = ViewDefinition(name="v", target="t", select="SELECT 1 AS a -- one")
    lines = ddl.create_view("db", view).splitlines()
    assert lines[0].endswith("TO `db`.`t` AS SELECT 1 AS a -- one")
    assert lines[1].startswith("COMMENT '")


def test_a_default_is_set_with_its_type_and_removed_by_name() -> None:
    given = Column(name="a", type="UInt8", default="7")
    assert ddl.modify_default(given) == "MODIFY COLUMN `a` UInt8 DEFAULT 7"
    gone = Column(name="a", type="UInt8")
    assert ddl.modify_default(gone) == "MODIFY COLUMN `a` REMOVE DEFAULT"


def test_without_a_codec_the_engines_own_comes_back() -> None:
    plain = Column(name="a", type="UInt8")
    assert ddl.modify_codec(plain) == "MODIFY COLUMN `a` CODEC(Default)"


def test_several_changes_are_one_statement() -> None:
    assert ddl.alter_table("d", "t", ["A", "B"]) == "ALTER TABLE `d`.`t` A, B"


TEXTS = st.text(max_size=12)
COLUMNS = st.builds(
    Column,
    name=TEXTS,
    type=TEXTS,
    jsonpath=st.none() | TEXTS,
    default=st.none() | TEXTS,
    codec=st.none() | TEXTS,
    span=st.none() | st.builds(Span, TEXTS, st.integers(1, 9)),
)
DATASOURCES = st.builds(
    Datasource,
    name=TEXTS,
    columns=st.lists(COLUMNS, max_size=3).map(tuple),
    engine=st.builds(EngineSpec, ttl=st.none() | TEXTS, settings=st.none() | TEXTS),
    description=TEXTS,
    span=st.none() | st.builds(Span, TEXTS, st.integers(1, 9)),
    engine_spans=st.just((("ENGINE", Span("f", 2)),)),
)


@given(DATASOURCES)
def test_a_definition_comes_back_from_its_comment(found: Datasource) -> None:
    plain = ddl.without_spans(found)
    definition = Definition(datasource=plain)
    assert ddl.read_comment(ddl.comment(definition)) == definition
    assert plain.span is None and all(c.span is None for c in plain.columns)
    assert literal(ddl.comment(definition)) in ddl.create_table("db", found)


@pytest.mark.parametrize("text", ["", "a table", "[]", "7", '{"datasource": 3}', '{"view": {}}'])
def test_a_comment_that_is_not_ours_is_no_definition(text: str) -> None:
    assert ddl.read_comment(text) is None
