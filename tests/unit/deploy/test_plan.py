"""What is changed, what is refused, and that a stop after any step does no harm."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Struct, field, structs

from deploy import ddl
from deploy.ddl import Definition, ViewDefinition
from deploy.plan import Plan, Step, plan_tables, plan_views
from deploy.state import State
from ingest.quarantine import QuarantineTable
from shared.clickhouse.sql import literal
from shared.model.identity import IDENTITY_COLUMNS, carries_identity
from shared.model.resources import Column, Datasource, EngineSpec, Index, Span

ID = Column(name="id", type="UInt32", jsonpath="$.id")
TS = Column(name="ts", type="DateTime", jsonpath="$.ts", default="now()")
NEW = Column(name="new", type="Int8", jsonpath="$.new", default="5")
EVENTS = Datasource(name="events", columns=(ID, TS), engine=EngineSpec(sorting_key="id"))
VIEW = ViewDefinition(name="daily", target="days", select="SELECT 1 AS a", sources=("events",))


class LiveTable(Struct):
    """A table as an engine would keep it."""

    columns: dict[str, tuple[str, str | None]]
    ttl: str | None = None
    definition: Definition | None = None


class Model(Struct):
    """Understands the statements of steps; refuses what ClickHouse would refuse."""

    tables: dict[str, LiveTable] = field(default_factory=dict)

    @property
    def state(self) -> State:
        live = {n: t.definition for n, t in self.tables.items() if t.definition is not None}
        return State(
            datasources={n: d.datasource for n, d in live.items() if d.datasource is not None},
            views={n: d.view for n, d in live.items() if d.view is not None},
            tables=frozenset(self.tables),
            columns={n: frozenset(t.columns) for n, t in self.tables.items()},
        )

    def run(self, steps: Sequence[Step], wanted: Mapping[str, Datasource]) -> None:
        for step in steps:
            self._run(step, wanted)

    def _run(self, step: Step, wanted: Mapping[str, Datasource]) -> None:
        found = re.match(r"(CREATE|ALTER|DROP) (?:\w+ )*?`db`\.`(\w+)`(.*)", step.sql, re.DOTALL)
        assert found, step.sql
        verb, name, rest = found.groups()
        if verb == "DROP":
            self.tables.pop(name, None)
        elif verb == "ALTER":
            self._alter(self.tables[name], rest.strip(), wanted.get(name))
        elif " VIEW " in step.sql[:40]:
            definition = ddl.read_comment(_comment(step.sql))
            self.tables.setdefault(name, LiveTable(columns={}, definition=definition))
        elif name not in self.tables:
            self.tables[name] = _new_table(name, wanted)

    def _alter(self, table: LiveTable, text: str, wanted: Datasource | None) -> None:
        changes = re.split(r", (?=ADD COLUMN|MODIFY C|MODIFY TTL|REMOVE TTL)", text)
        for change in changes:
            if change.startswith("MODIFY COMMENT "):
                table.definition = ddl.read_comment(_comment(change))
            elif change.endswith(" TTL") or change.startswith("MODIFY TTL "):
                assert wanted is not None and wanted.engine.name != "Null"
                # The engine would read what follows as a part of the TTL.
                assert change is changes[-1]
                assert table.ttl is not None or change != "REMOVE TTL"
                table.ttl = None if change == "REMOVE TTL" else change[len("MODIFY TTL ") :]
            else:
                self._alter_column(table, change)

    def _alter_column(self, table: LiveTable, change: str) -> None:
        found = re.match(
            r"(ADD|MODIFY) COLUMN (?:IF NOT EXISTS )?`(\w+)` ?(REMOVE DEFAULT|CODEC\(.*\))?"
            r"(?:([\w()]+)(?: DEFAULT ([\w()]+))?(?: CODEC\(.*\))?)?\Z",
            change,
        )
        assert found, change
        verb, name, special, type_, default = found.groups()
        if verb == "ADD":
            table.columns.setdefault(name, (type_, default))
            return
        before = table.columns[name]
        if special == "REMOVE DEFAULT":
            assert before[1] is not None, f"Column {name} doesn't have DEFAULT, cannot remove it."
            table.columns[name] = (before[0], None)
        elif special is None:
            table.columns[name] = (type_, default if default is not None else before[1])


def _comment(sql: str) -> str:
    text = sql[sql.index("COMMENT '") + 9 : -1]
    return text.replace("\\'", "'").replace("\\\\", "\\")


def _new_table(name: str, wanted: Mapping[str, Datasource]) -> LiveTable:
    if name in wanted:
        made = wanted[name]
        columns = {c.name: (c.type, c.default) for c in made.columns}
        definition = Definition(datasource=ddl.without_spans(made))
        return LiveTable(columns=columns, ttl=made.engine.ttl, definition=definition)
    quarantine = QuarantineTable(wanted[name.removesuffix("_quarantine")])
    return LiveTable(columns={n: (t, None) for n, t in quarantine.columns})


def deployed(*datasources: Datasource) -> Model:
    model = Model()
    wanted = {d.name: d for d in datasources}
    model.run(plan(model, *datasources).steps, wanted)
    return model


def plan(model: Model, *datasources: Datasource) -> Plan:
    return plan_tables(model.state, {d.name: d for d in datasources}, "db")


def summaries(found: Plan) -> list[str]:
    return [step.summary for step in found.steps]


def change(wanted: Datasource, live: Datasource = EVENTS) -> Plan:
    return plan(deployed(live), wanted)


def engine(**changed: str | None) -> Datasource:
    return structs.replace(EVENTS, engine=structs.replace(EVENTS.engine, **changed))


def columns(*wanted: Column) -> Datasource:
    return structs.replace(EVENTS, columns=wanted)


def test_a_new_data_source_gets_its_quarantine_first_and_disturbs_nothing() -> None:
    found = plan(Model(), EVENTS)
    assert summaries(found) == ["create table events_quarantine", "create table events"]
    assert found.disturbed == frozenset()
    assert {step.resource for step in found.steps} == {"events"}


def test_what_is_deployed_already_needs_no_step() -> None:
    assert change(EVENTS) == Plan()


def test_moving_a_data_source_within_its_file_is_no_change() -> None:
    moved = tuple(structs.replace(c, span=Span("f", 9)) for c in EVENTS.columns)
    assert change(structs.replace(EVENTS, columns=moved, span=Span("f", 3))) == Plan()


def test_a_new_column_is_added_to_the_quarantine_and_to_the_table() -> None:
    found = change(columns(ID, TS, NEW))
    assert summaries(found) == [
        "alter table events_quarantine: add column new",
        "alter table events: add column new",
    ]
    assert "`new` Nullable(String)" in found.steps[0].sql
    assert "`new` Int8 DEFAULT 5" in found.steps[1].sql


def test_every_step_that_alters_a_table_needs_its_data_source_at_rest() -> None:
    found = change(columns(ID, structs.replace(TS, default="today()"), NEW))
    assert [step.disturbs for step in found.steps] == [("events",), ("events",)]
    assert found.disturbed == {"events"}


def test_all_changes_of_a_table_and_their_record_are_one_statement() -> None:
    wanted = columns(structs.replace(ID, codec="ZSTD(3)"), structs.replace(TS, default=None), NEW)
    found = change(wanted, engine(ttl="ts"))
    assert summaries(found)[1:] == [
        "alter table events: change codec of id, change default of ts, add column new, remove TTL"
    ]
    order = ["CODEC(ZSTD(3))", "`ts` REMOVE DEFAULT", "ADD COLUMN", "MODIFY COMMENT", "REMOVE TTL"]
    places = [found.steps[1].sql.index(text) for text in order]
    assert places == sorted(places)


@pytest.mark.parametrize(
    ("default", "sql"), [("today()", "`ts` DateTime DEFAULT today()"), (None, "REMOVE DEFAULT")]
)
def test_a_changed_default_is_a_step(default: str | None, sql: str) -> None:
    found = change(columns(ID, structs.replace(TS, default=default)))
    assert summaries(found) == ["alter table events: change default of ts"]
    assert sql in found.steps[0].sql


@pytest.mark.parametrize(("codec", "text"), [("ZSTD(3)", "CODEC(ZSTD(3))"), (None, "(Default)")])
def test_a_changed_codec_is_a_step(codec: str | None, text: str) -> None:
    live = columns(structs.replace(ID, codec="LZ4"), TS)
    found = change(columns(structs.replace(ID, codec=codec), TS), live)
    assert summaries(found) == ["alter table events: change codec of id"]
    assert text in found.steps[0].sql


@pytest.mark.parametrize(
    "wanted",
    [
        structs.replace(EVENTS, description="Other words."),
        columns(structs.replace(ID, jsonpath="$.other"), TS),
        columns(TS, ID),
    ],
    ids=["description", "jsonpath", "order"],
)
def test_what_the_table_does_not_know_is_only_recorded(wanted: Datasource) -> None:
    found = change(wanted)
    assert summaries(found) == ["alter table events: record definition"]
    assert "ALTER TABLE `db`.`events` MODIFY COMMENT" in found.steps[0].sql


def test_a_ttl_can_be_taken_away() -> None:
    found = change(engine(ttl=None), engine(ttl="ts"))
    assert summaries(found) == ["alter table events: remove TTL"]
    assert found.steps[0].sql.endswith(", REMOVE TTL")


@pytest.mark.parametrize("live", [None, "ts + INTERVAL 9 DAY"])
def test_a_ttl_that_may_delete_stored_rows_is_refused(live: str | None) -> None:
    found = change(engine(ttl="ts"), engine(ttl=live))
    assert found.steps == ()
    assert "ENGINE_TTL changed, which may delete" in found.refusals[0].reason


def test_the_ttl_of_a_table_that_keeps_nothing_is_only_recorded() -> None:
    found = change(engine(name="Null", ttl="ts"), engine(name="Null"))
    assert summaries(found) == ["alter table events: record definition"]


REFUSED = {
    "removed column": (columns(ID), ["'ts'", "lost"]),
    "renamed column": (columns(ID, structs.replace(TS, name="at")), ["'ts'", "lost"]),
    "changed type": (columns(structs.replace(ID, type="Int64"), TS), ["'id'", "UInt32", "Int64"]),
    "engine": (engine(name="ReplacingMergeTree"), ["ENGINE changed"]),
    "sorting key": (engine(sorting_key="id, ts"), ["ENGINE_SORTING_KEY"]),
    "partition key": (engine(partition_key="toYYYYMM(ts)"), ["ENGINE_PARTITION_KEY"]),
    "settings": (engine(settings="index_granularity=1"), ["ENGINE_SETTINGS"]),
    "primary key": (engine(primary_key="id"), ["ENGINE_PRIMARY_KEY"]),
    "ttl": (engine(ttl="ts"), ["ENGINE_TTL"]),
    "indexes": (
        structs.replace(EVENTS, indexes=(Index(name="i", expression="id", type="minmax"),)),
        ["INDEXES"],
    ),
}


@pytest.mark.parametrize(("wanted", "words"), REFUSED.values(), ids=REFUSED)
def test_what_would_rewrite_or_lose_data_is_refused_with_reason_and_hint(
    wanted: Datasource, words: list[str]
) -> None:
    found = change(wanted)
    assert found.steps == ()
    (refusal,) = found.refusals
    assert refusal.resource == "events" and refusal.hint
    assert refusal.code == "data_loss_refused"
    assert all(word in refusal.reason for word in words)


def test_every_reason_is_told_and_nothing_of_the_data_source_is_done() -> None:
    wanted = structs.replace(engine(name="Null"), columns=(NEW, structs.replace(ID, type="String")))
    found = change(wanted)
    assert len(found.refusals) == 3 and found.steps == ()


def test_a_refused_data_source_does_not_hold_up_the_others() -> None:
    other = structs.replace(EVENTS, name="other")
    found = plan(deployed(EVENTS), columns(ID), other)
    assert {step.resource for step in found.steps} == {"other"}
    assert {refusal.resource for refusal in found.refusals} == {"events"}


def test_a_table_that_we_did_not_make_is_left_alone() -> None:
    model = Model(tables={"events": LiveTable(columns={})})
    found = plan(model, EVENTS)
    assert found.steps == () and "not made by a deployment" in found.refusals[0].reason


def test_what_is_no_longer_in_the_files_is_kept_and_named() -> None:
    found = plan(deployed(EVENTS, structs.replace(EVENTS, name="b")))
    assert found == Plan(kept=("b", "events"))


def test_a_quarantine_table_that_is_gone_is_made_again() -> None:
    model = deployed(EVENTS)
    del model.tables["events_quarantine"]
    assert summaries(plan(model, EVENTS)) == ["create table events_quarantine"]


def test_a_quarantine_table_of_an_earlier_data_source_gets_the_new_columns() -> None:
    model = deployed(EVENTS)
    del model.tables["events"]
    found = plan(model, columns(ID, NEW))
    assert summaries(found) == [
        "alter table events_quarantine: add column new",
        "create table events",
    ]


# Views ------------------------------------------------------------------------------------------


def views(model: Model, *wanted: ViewDefinition) -> Plan:
    return plan_views(model.state, {v.name: v for v in wanted}, "db")


def with_view(view: ViewDefinition = VIEW) -> Model:
    model = deployed(EVENTS)
    model.run(views(model, view).steps, {})
    return model


def test_a_new_view_needs_its_sources_at_rest() -> None:
    found = views(deployed(EVENTS), VIEW)
    assert summaries(found) == ["create view daily into days"]
    assert found.disturbed == {"events"}


def test_a_view_that_is_there_needs_no_step() -> None:
    assert views(with_view(), VIEW) == Plan()


@pytest.mark.parametrize("changed", [{"select": "SELECT 2 AS a"}, {"target": "weeks"}])
def test_a_changed_view_is_dropped_and_made_again(changed: dict[str, str]) -> None:
    found = views(with_view(), structs.replace(VIEW, **changed))
    assert [s.partition(" into")[0] for s in summaries(found)] == [
        "drop view daily",
        "create view daily",
    ]


def test_a_view_that_is_no_longer_wanted_is_dropped_with_its_sources_at_rest() -> None:
    model = with_view()
    found = views(model)
    assert summaries(found) == ["drop view daily"]
    # The files say nothing of it any more: its own comment tells what it reads.
    assert found.disturbed == {"events"}
    model.run(found.steps, {})
    assert set(model.tables) == {"events", "events_quarantine"}


def test_views_are_dropped_before_others_are_made() -> None:
    other = structs.replace(VIEW, name="another")
    assert summaries(views(with_view(), other)) == [
        "drop view daily",
        "create view another into days",
    ]


def test_a_view_does_not_take_the_place_of_a_table() -> None:
    found = views(deployed(EVENTS), structs.replace(VIEW, name="events"))
    assert found.steps == () and found.refusals[0].resource == "events"
    assert "data source 'events'" in found.refusals[0].reason


def test_a_table_does_not_take_the_place_of_a_view() -> None:
    found = plan(with_view(), structs.replace(EVENTS, name="daily"))
    assert found.steps == () and "view of a pipe 'daily'" in found.refusals[0].reason


# Stops ------------------------------------------------------------------------------------------

DEFAULTS = st.none() | st.sampled_from(["1", "2"])
EXTRA = st.builds(
    Column, name=st.sampled_from(["a", "b", "c"]), type=st.just("Int8"), default=DEFAULTS
)


@st.composite
def versions(draw: st.DrawFn) -> list[Datasource]:
    """A data source over time: columns come, defaults come and go, the TTL goes."""
    found: list[Datasource] = []
    held: dict[str, Column] = {}
    ttls = draw(st.lists(st.sampled_from(["ts", None]), min_size=2, max_size=4))
    for ttl in sorted(ttls, key=str, reverse=True):
        held = {n: structs.replace(c, default=draw(DEFAULTS)) for n, c in held.items()}
        for column in draw(st.lists(EXTRA, max_size=2)):
            held.setdefault(column.name, column)
        spec = structs.replace(EVENTS.engine, ttl=ttl)
        found.append(structs.replace(EVENTS, columns=(ID, *held.values()), engine=spec))
    return found


def assert_is_end(model: Model, wanted: Datasource) -> None:
    table = model.tables["events"]
    assert {n: table.columns[n] for n in (c.name for c in wanted.columns)} == {
        c.name: (c.type, c.default) for c in wanted.columns
    }
    assert table.definition == Definition(datasource=ddl.without_spans(wanted))
    assert table.ttl == wanted.engine.ttl
    assert {c.name for c in wanted.columns} <= set(model.tables["events_quarantine"].columns)
    assert plan(model, wanted) == Plan()


@settings(max_examples=300)
@given(versions(), st.data())
def test_a_plan_made_again_after_any_stop_leads_to_the_same_end(
    history: list[Datasource], data: st.DataObject
) -> None:
    model = Model()
    for wanted in history:
        for _ in range(data.draw(st.integers(0, 3), label="stops")):
            steps = plan(model, wanted).steps
            done = data.draw(st.integers(0, len(steps)), label="steps done")
            model.run(steps[:done], {"events": wanted})
        model.run(plan(model, wanted).steps, {"events": wanted})
        assert_is_end(model, wanted)


@settings(max_examples=300)
@given(st.lists(st.sampled_from(["1", "2", None]), min_size=2, max_size=3), st.data())
def test_a_file_edited_after_a_stop_wins_over_what_was_half_done(
    defaults: list[str | None], data: st.DataObject
) -> None:
    model = deployed(EVENTS)
    for default in defaults:
        wanted = columns(ID, TS, structs.replace(NEW, default=default))
        steps = plan(model, wanted).steps
        model.run(steps[: data.draw(st.integers(0, len(steps)))], {"events": wanted})
    model.run(plan(model, wanted).steps, {"events": wanted})
    assert model.tables["events"].columns["new"] == ("Int8", defaults[-1])
    assert plan(model, wanted) == Plan()


@given(st.integers(0, 2), st.integers(0, 2))
def test_views_are_the_wanted_ones_after_any_stop(first: int, second: int) -> None:
    model = with_view()
    wanted = structs.replace(VIEW, select="SELECT 3 AS a"), structs.replace(VIEW, name="b")
    for done in (first, second, 9):
        model.run(views(model, *wanted).steps[:done], {})
    assert model.state.views == {v.name: v for v in wanted}
    assert views(model, *wanted) == Plan()


def test_the_model_reads_back_what_was_written() -> None:
    described = structs.replace(EVENTS, description='it\'s a \\ "test"')
    assert deployed(described).state.datasources["events"] == described
    assert literal(ddl.comment(Definition(datasource=described))) in ddl.create_table(
        "db", described
    )
    assert carries_identity(described) and IDENTITY_COLUMNS
