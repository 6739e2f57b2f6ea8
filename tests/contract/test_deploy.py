"""Deploying on the real engine: it takes every statement, and what it keeps is what was planned."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

import pytest
from msgspec import structs

from deploy import ddl
from deploy.apply import apply
from deploy.ddl import ViewDefinition
from deploy.engine import Engine
from deploy.fixtures import chunk_of, find_fixtures, load_fixture
from deploy.plan import Plan, plan_tables, plan_views
from deploy.state import State, read_state
from ingest.batch import make_batch
from ingest.chunk import Chunk, Partition
from ingest.landing import Landing
from shared.clickhouse.contract import Statement
from shared.model.identity import DEDUPLICATION_WINDOW, IDENTITY_COLUMNS
from shared.model.resources import Column, Datasource, EngineSpec, Index, Span

ID = Column(name="id", type="UInt32", jsonpath="$.id")
TS = Column(name="ts", type="DateTime", jsonpath="$.ts", default="now()")
NAME = Column(name="name", type="LowCardinality(Nullable(String))", jsonpath="$.n", codec="ZSTD(3)")
SIGN = Column(name="sign", type="Int8")
VERSION = Column(name="version", type="UInt16")
FLAG = Column(name="gone", type="UInt8")
KEYED = EngineSpec(sorting_key="id")


@pytest.fixture
def engine(each_engine: Engine) -> Engine:
    return each_engine


def new_name() -> str:
    return "d" + uuid.uuid4().hex[:10]


def events(*columns: Column, engine: EngineSpec = KEYED, **more: object) -> Datasource:
    made = Datasource(name=new_name(), columns=columns or (ID, TS, NAME), engine=engine)
    return structs.replace(made, **more)


async def ask(engine: Engine, sql: str) -> list[list[str]]:
    result = await engine.fetch(Statement(sql=sql, format="TSV"))
    return [line.split("\t") for line in result.body.decode().splitlines()]


async def deploy(engine: Engine, *wanted: Datasource) -> Plan:
    """Plan and apply; nothing is refused by us or by the engine."""
    state = await read_state(engine)
    plan = plan_tables(state, {d.name: d for d in wanted}, engine.database)
    assert plan.refusals == ()
    assert await apply(engine, plan) == {}
    return plan


async def deploy_view(engine: Engine, view: ViewDefinition) -> Plan:
    state = await read_state(engine)
    # Views of other tests stay where they are.
    views = {**state.views, view.name: view}
    plan = plan_views(state, views, engine.database)
    assert plan.refusals == ()
    assert await apply(engine, plan) == {}
    return plan


async def insert(
    engine: Engine, datasource: Datasource, values: Sequence[bytes], token: str
) -> None:
    """Values as the pipeline would insert them: with their identity and under a token."""
    count = len(values)
    chunk = Chunk(
        partition=Partition("events." + datasource.name, 0),
        offsets=range(count),
        values=values,
        timestamps_ms=[0] * count,
        next=count,
    )
    landing = Landing(engine, datasource, DEDUPLICATION_WINDOW)
    batch = make_batch(0, count, [landing.decoder.decode(chunk)])
    assert batch.row_count == count
    await landing.insert(batch, stream=7, partition=0, token=token)


ENGINES = {
    "plain": events(engine=EngineSpec()),
    "everything": events(
        engine=EngineSpec(
            partition_key="toYYYYMM(ts), id % 2",
            sorting_key="id, toDate(ts), cityHash64(ts)",
            primary_key="id, toDate(ts)",
            ttl="ts + INTERVAL 90 DAY DELETE WHERE id > 5, toDate(ts) + toIntervalYear(90)",
            settings="index_granularity=1024, ttl_only_drop_parts=1",
        )
    ),
    "sampling": events(engine=EngineSpec(sorting_key="id", sampling_key="id")),
    "nullable key": events(
        engine=EngineSpec(sorting_key="name", settings="allow_nullable_key=1"),
    ),
    "indexes": events(
        indexes=(
            Index(name="by_name", expression="lower(name)", type="bloom_filter(0.01)"),
            Index(name="by_ts", expression="ts", type="minmax", granularity=4),
            Index(name="by_id", expression="(id, id * 2)", type="set(100)"),
        )
    ),
    "no key can be found": events(Column(name="a", type="Array(String)"), engine=EngineSpec()),
    "replacing": events(engine=EngineSpec(name="ReplacingMergeTree", sorting_key="id")),
    "replacing by version": events(
        *(ID, VERSION),
        engine=EngineSpec(name="ReplacingMergeTree", sorting_key="id", ver="version"),
    ),
    "replacing with deletes": events(
        *(ID, VERSION, FLAG),
        engine=EngineSpec(
            name="ReplacingMergeTree", sorting_key="id", ver="version", is_deleted="gone"
        ),
    ),
    "summing": events(*(ID, VERSION), engine=EngineSpec(name="SummingMergeTree", sorting_key="id")),
    "summing columns": events(
        *(ID, VERSION, FLAG), engine=EngineSpec(name="SummingMergeTree", columns="version, gone")
    ),
    "aggregating": events(
        *(ID, Column(name="n", type="AggregateFunction(uniq, UInt32)"), VERSION),
        Column(name="total", type="SimpleAggregateFunction(sum, UInt64)"),
        engine=EngineSpec(name="AggregatingMergeTree", sorting_key="id"),
    ),
    "collapsing": events(*(SIGN, ID), engine=EngineSpec(name="CollapsingMergeTree", sign="sign")),
    "versioned collapsing": events(
        *(SIGN, VERSION, ID),
        engine=EngineSpec(
            name="VersionedCollapsingMergeTree", sorting_key="id", sign="sign", version="version"
        ),
    ),
    "null": events(
        engine=EngineSpec(name="Null", sorting_key="id", ttl="ts"),
        indexes=(Index(name="i", expression="id", type="minmax"),),
    ),
    "awkward texts": events(
        Column(name="a`b", type="String", default=r"'it\'s'", codec="LZ4"),
        Column(name="e", type="Enum8('x y' = 1, 'it\\'s' = 2)"),
        engine=EngineSpec(),
        description='Käse\'s \\ "best"\n`of` ünïcode \t\0',
    ),
}


@pytest.mark.parametrize("wanted", ENGINES.values(), ids=ENGINES)
async def test_every_kind_of_table_is_made_read_back_and_left_alone_afterwards(
    engine: Engine, wanted: Datasource
) -> None:
    first = await deploy(engine, structs.replace(wanted, span=Span("events.datasource", 1)))
    assert [step.summary.split()[0] for step in first.steps] == ["create", "create"]
    state = await read_state(engine)
    assert state.datasources[wanted.name] == wanted
    assert {wanted.name, wanted.name + "_quarantine"} <= state.tables
    assert {c.name for c in wanted.columns} <= state.columns[wanted.name]
    assert (await deploy(engine, wanted)).steps == ()
    # Also the statements themselves may be repeated, as after a lost answer.
    assert await apply(engine, first) == {}


async def test_the_engine_keeps_keys_ttl_sampling_settings_and_codecs(
    engine: Engine,
) -> None:
    wanted = events(
        engine=EngineSpec(
            partition_key="toYYYYMM(ts)",
            sorting_key="id, ts",
            primary_key="id",
            sampling_key="id",
            ttl="ts + INTERVAL 1 DAY",
            settings="index_granularity=1024",
        )
    )
    await deploy(engine, wanted)
    columns = "partition_key, sorting_key, primary_key, sampling_key"
    (keys,) = await ask(engine, f"SELECT {columns} FROM system.tables WHERE name = '{wanted.name}'")
    # Versions differ in whether they print the brackets around a key.
    bare = [key.removeprefix("(").removesuffix(")") for key in keys[1:]]
    assert "toYYYYMM(ts)" in keys[0] and bare == ["id, ts", "id", "id"]
    ((text,),) = await ask(
        engine, f"SELECT engine_full FROM system.tables WHERE name = '{wanted.name}'"
    )
    for part in ("TTL ts + toIntervalDay(1)", "index_granularity = 1024"):
        assert part in text
    assert f"non_replicated_deduplication_window = {DEDUPLICATION_WINDOW}" in text
    codecs = await ask(
        engine,
        "SELECT name, default_expression, compression_codec FROM system.columns"
        f" WHERE table = '{wanted.name}' AND NOT startsWith(name, '__') ORDER BY position",
    )
    assert codecs == [["id", "", ""], ["ts", "now()", ""], ["name", "", "CODEC(ZSTD(3))"]]


async def test_identity_columns_are_there_but_select_star_hides_them(
    engine: Engine,
) -> None:
    wanted = events()
    await deploy(engine, wanted)
    await insert(engine, wanted, [b'{"id":1,"ts":"2025-01-01"}', b'{"id":2,"ts":1}'], "t1")
    described = await ask(engine, f"DESCRIBE TABLE (SELECT * FROM {wanted.name})")
    assert [row[0] for row in described] == ["id", "ts", "name"]
    names = ", ".join(name for name, _ in IDENTITY_COLUMNS)
    assert await ask(engine, f"SELECT {names} FROM {wanted.name} ORDER BY id") == [
        ["7", "0", "0"],
        ["7", "0", "1"],
    ]
    quarantine = await ask(engine, f"DESCRIBE TABLE (SELECT * FROM {wanted.name}_quarantine)")
    assert "__stream" not in {row[0] for row in quarantine}


async def test_a_table_in_the_way_is_refused_and_stays(engine: Engine) -> None:
    wanted = events()
    await engine.execute(
        Statement(sql=f"CREATE TABLE {wanted.name} (a UInt8) ENGINE = Memory COMMENT 'mine'")
    )
    plan = plan_tables(await read_state(engine), {wanted.name: wanted}, engine.database)
    assert plan.steps == () and len(plan.refusals) == 1


async def test_a_statement_that_is_refused_is_told_and_others_go_on(
    engine: Engine,
) -> None:
    bad = events(engine=EngineSpec(sorting_key="nonsense"))
    good = events()
    plan = plan_tables(State(), {bad.name: bad, good.name: good}, engine.database)
    failed = await apply(engine, plan)
    assert list(failed) == [bad.name]
    assert "nonsense" in failed[bad.name].message
    state = await read_state(engine)
    assert good.name in state.datasources and bad.name not in state.datasources


async def test_nothing_more_is_done_for_a_resource_after_a_refused_step(
    engine: Engine,
) -> None:
    bad = events(Column(name="a", type="NoType"), engine=EngineSpec())
    plan = plan_tables(State(), {bad.name: bad}, engine.database)
    broken = structs.replace(plan.steps[0], sql="CREATE NONSENSE")
    failed = await apply(engine, Plan(steps=(broken, *plan.steps)))
    assert list(failed) == [bad.name]
    assert bad.name + "_quarantine" not in (await read_state(engine)).tables


# Changes ----------------------------------------------------------------------------------------


async def test_a_table_changes_with_its_file_and_its_rows_stay(engine: Engine) -> None:
    one = events(ID, TS, structs.replace(NAME, default="'old'"))
    await deploy(engine, one)
    await insert(engine, one, [b'{"id":1,"ts":"2025-01-01 00:00:00","n":"a"}'], "t1")
    two = structs.replace(
        one,
        description="Second version; it's new.",
        columns=(
            ID,
            structs.replace(TS, default="toDateTime('2020-01-01 00:00:00')"),
            structs.replace(NAME, default=None, codec=None),
            Column(name="more", type="Int16", jsonpath="$.more", default="id + 5", codec="LZ4"),
            Column(name="plain", type="Array(String)", jsonpath="$.plain"),
        ),
    )
    plan = await deploy(engine, two)
    assert len(plan.steps) == 2
    state = await read_state(engine)
    assert state.datasources[two.name] == two
    assert {"more", "plain"} <= state.columns[two.name + "_quarantine"]
    assert (await deploy(engine, two)).steps == ()
    await insert(engine, two, [b'{"id":2,"plain":["x"]}'], "t2")
    assert await ask(engine, f"SELECT * FROM {two.name} ORDER BY id") == [
        ["1", "2025-01-01 00:00:00", "a", "6", "[]"],
        ["2", "2020-01-01 00:00:00", "\\N", "7", "['x']"],
    ]


async def test_a_default_and_a_codec_can_go_and_come_back_and_a_ttl_can_go(
    engine: Engine,
) -> None:
    bare = events(ID, structs.replace(TS, default=None))
    full = structs.replace(
        bare,
        columns=(structs.replace(ID, codec="ZSTD(5)"), TS),
        engine=structs.replace(
            KEYED, ttl="ts + INTERVAL 9 DAY DELETE WHERE id = 1, ts + INTERVAL 99 DAY"
        ),
    )
    without_ttl = structs.replace(full, engine=KEYED)
    for wanted in (full, bare, without_ttl, bare):
        await deploy(engine, wanted)
        ((text,),) = await ask(
            engine, f"SELECT create_table_query FROM system.tables WHERE name = '{bare.name}'"
        )
        found = [part in text for part in ("DEFAULT now()", "CODEC(ZSTD(5))", "TTL ts +")]
        assert found == [wanted is not bare, wanted is not bare, wanted is full]


async def test_a_table_that_keeps_nothing_can_be_changed_too(engine: Engine) -> None:
    one = events(engine=EngineSpec(name="Null"))
    await deploy(engine, one)
    more = Column(name="more", type="Int8", default="1")
    two = structs.replace(
        one, columns=(*one.columns, more), engine=EngineSpec(name="Null", ttl="ts")
    )
    await deploy(engine, two)
    assert (await read_state(engine)).datasources[one.name] == two


async def test_a_change_that_the_engine_refuses_leaves_the_table_as_it_was(
    engine: Engine,
) -> None:
    one = events()
    await deploy(engine, one)
    more = Column(name="more", type="Int8", default="nonsense + 1")
    two = structs.replace(
        one, columns=(ID, structs.replace(TS, default=None), NAME, more), description="two"
    )
    plan = plan_tables(await read_state(engine), {two.name: two}, engine.database)
    assert list(await apply(engine, plan)) == [two.name]
    assert (await read_state(engine)).datasources[one.name] == one
    assert (await deploy(engine, one)).steps == ()
    await insert(engine, one, [b'{"id":1}'], "t1")


# Views ------------------------------------------------------------------------------------------


def daily(source: Datasource, select: str | None = None) -> tuple[Datasource, ViewDefinition]:
    target = Datasource(
        name=source.name + "_days",
        columns=(Column(name="day", type="Date"), Column(name="n", type="UInt64")),
        engine=EngineSpec(name="SummingMergeTree", sorting_key="day"),
    )
    view = ViewDefinition(
        name=source.name + "_view",
        target=target.name,
        select=select
        or f"SELECT toDate(ts) AS day, count() AS n FROM {source.name} GROUP BY day -- by day",
        sources=(source.name,),
    )
    return target, view


ROWS = [b'{"id":%d,"ts":"2025-01-0%d 10:00:00"}' % (n, n % 2 + 1) for n in range(10)]


async def test_a_view_is_made_read_back_and_left_alone_afterwards(
    engine: Engine,
) -> None:
    source = events()
    target, view = daily(source)
    await deploy(engine, source, target)
    assert len((await deploy_view(engine, view)).steps) == 1
    assert (await read_state(engine)).views[view.name] == view
    assert (await deploy_view(engine, view)).steps == ()


async def test_a_repeated_token_is_dropped_by_the_table_and_by_the_target_of_its_view(
    engine: Engine,
) -> None:
    source = events(engine=EngineSpec(sorting_key="id", partition_key="toYYYYMMDD(ts)"))
    target, view = daily(source)
    await deploy(engine, source, target)
    await deploy_view(engine, view)
    for token in ("t1", "t1", "t1"):
        await insert(engine, source, ROWS, token)
    assert await ask(engine, f"SELECT count() FROM {source.name}") == [["10"]]
    assert await ask(engine, f"SELECT sum(n) FROM {target.name}") == [["10"]]
    # The same rows under another token are other rows: it is the token that is remembered.
    await insert(engine, source, ROWS, "t2")
    assert await ask(engine, f"SELECT count() FROM {source.name}") == [["20"]]
    assert await ask(engine, f"SELECT sum(n) FROM {target.name}") == [["20"]]


async def test_a_table_cannot_be_told_to_forget_tokens(engine: Engine) -> None:
    forgetful = EngineSpec(sorting_key="id", settings="non_replicated_deduplication_window=0;")
    source = events(engine=forgetful)
    await deploy(engine, source)
    for _ in range(2):
        await insert(engine, source, ROWS, "t1")
    assert await ask(engine, f"SELECT count() FROM {source.name}") == [["10"]]


async def test_a_repeated_token_is_dropped_behind_a_table_that_keeps_nothing(
    engine: Engine,
) -> None:
    source = events(engine=EngineSpec(name="Null"))
    target, view = daily(source)
    await deploy(engine, source, target)
    await deploy_view(engine, view)
    for token in ("t1", "t1", "t2"):
        await insert(engine, source, ROWS, token)
    assert await ask(engine, f"SELECT sum(n) FROM {target.name}") == [["20"]]


@pytest.mark.parametrize("star", [False, True])
async def test_a_view_goes_on_after_its_source_got_a_column(engine: Engine, star: bool) -> None:
    source = events(ID, TS)
    target, view = daily(source)
    if star:
        target = structs.replace(target, columns=(ID, TS), engine=KEYED)
        view = structs.replace(view, select=f"SELECT * FROM {source.name}")
    await deploy(engine, source, target)
    await deploy_view(engine, view)
    await insert(engine, source, ROWS, "t1")
    more = Column(name="more", type="Int8", jsonpath="$.more", default="1")
    grown = structs.replace(source, columns=(*source.columns, more))
    await deploy(engine, grown)
    await insert(engine, grown, ROWS, "t2")
    total = "count()" if star else "sum(n)"
    assert await ask(engine, f"SELECT {total} FROM {target.name}") == [["20"]]
    # Tokens from before the change are still known.
    await insert(engine, grown, ROWS, "t1")
    assert await ask(engine, f"SELECT {total} FROM {target.name}") == [["20"]]


async def test_a_changed_view_keeps_what_it_has_written(engine: Engine) -> None:
    source = events()
    target, view = daily(source)
    await deploy(engine, source, target)
    await deploy_view(engine, view)
    await insert(engine, source, ROWS, "t1")
    changed = structs.replace(view, select=view.select.replace("count()", "100 * count()"))
    plan = await deploy_view(engine, changed)
    assert len(plan.steps) == 2
    assert (await read_state(engine)).views[view.name] == changed
    await insert(engine, source, ROWS, "t2")
    assert await ask(engine, f"SELECT sum(n) FROM {target.name}") == [["1010"]]


async def test_dropping_a_view_keeps_its_target(engine: Engine) -> None:
    source = events()
    target, view = daily(source)
    await deploy(engine, source, target)
    await deploy_view(engine, view)
    await engine.execute(Statement(sql=ddl.drop_view(engine.database, view.name)))
    state = await read_state(engine)
    assert view.name not in state.tables and target.name in state.datasources


# Fixtures ---------------------------------------------------------------------------------------


async def test_fixtures_are_loaded_and_what_is_no_row_is_told(
    engine: Engine, tmp_path_factory: pytest.TempPathFactory
) -> None:
    wanted = events()
    folder = tmp_path_factory.mktemp("project")
    (folder / "fixtures").mkdir()
    lines = b'{"id":1,"ts":"2025-01-01"}\n\n{"id":"x"}\r\n{"id":3}'
    (folder / "fixtures" / f"{wanted.name}_more.ndjson").write_bytes(lines)
    (folder / "fixtures" / "unknown.ndjson").write_bytes(b"{}")
    await deploy(engine, wanted)
    (fixture,) = find_fixtures([folder], {wanted.name: wanted})
    assert len(chunk_of(fixture).values) == 3
    assert fixture.lines == (1, 3, 4)
    (rejection,) = await load_fixture(engine, fixture)
    assert (rejection.offset, rejection.errors[0].column) == (1, "id")
    assert await ask(engine, f"SELECT id FROM {wanted.name} ORDER BY id") == [["1"], ["3"]]
