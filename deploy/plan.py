"""The difference between what is deployed and what the files say, as steps; pure.

A step only ever adds: tables, columns, views, defaults. What would destroy or rewrite stored data
is not a step but a refusal, with the reason and what to do instead. Resources that are no longer in
the files are left as they are and named.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from msgspec import Struct

from deploy import ddl
from deploy.ddl import ViewDefinition
from deploy.state import State
from ingest.quarantine import QUARANTINE_SUFFIX
from shared.errors import DataLossRefusedError
from shared.model.resources import Column, Datasource, EngineSpec


class Step(Struct, frozen=True, kw_only=True):
    """One statement for one resource.

    ``disturbs`` names the data sources that must be at rest while it runs: their deliveries are
    complete and no intent is open, because the step changes what a block is written to.
    """

    resource: str
    summary: str
    sql: str
    disturbs: tuple[str, ...] = ()


class Refusal(Struct, frozen=True, kw_only=True):
    """A change that is not made, and why."""

    resource: str
    reason: str
    hint: str
    code: str = DataLossRefusedError.code


class Plan(Struct, frozen=True, kw_only=True):
    """What is to be done, in order; what is refused; what is left alone."""

    steps: tuple[Step, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    kept: tuple[str, ...] = ()

    @property
    def disturbed(self) -> frozenset[str]:
        """Every data source that a step needs at rest."""
        return frozenset(name for step in self.steps for name in step.disturbs)


def plan_tables(state: State, datasources: Mapping[str, Datasource], database: str) -> Plan:
    """The steps that make the tables of these data sources, or bring them up to date."""
    steps: list[Step] = []
    refusals: list[Refusal] = []
    for name, placed in datasources.items():
        datasource = ddl.without_spans(placed)
        live = state.datasources.get(name)
        if live is None and name in state.tables:
            refusals.append(_taken(state, name))
            continue
        if live is None:
            steps += _quarantine(state, database, datasource)
            steps.append(_create(state, database, datasource))
            continue
        refused = _refuse(live, datasource)
        refusals += refused
        wanted = live if refused else datasource
        steps += _quarantine(state, database, wanted)
        steps += _change(database, live, wanted)
    kept = tuple(sorted(set(state.datasources) - set(datasources)))
    return Plan(steps=tuple(steps), refusals=tuple(refusals), kept=kept)


def plan_views(
    state: State,
    views: Mapping[str, ViewDefinition],
    database: str,
) -> Plan:
    """The steps that lead to exactly these views.

    A changed view is dropped and made again: what it has written stays.
    """
    steps: list[Step] = []
    refusals: list[Refusal] = []
    for name, live in state.views.items():
        if views.get(name) != live:
            steps.append(
                Step(
                    resource=name,
                    summary=f"drop view {name}",
                    sql=ddl.drop_view(database, name),
                    disturbs=live.sources,
                )
            )
    for name, view in views.items():
        if state.views.get(name) == view:
            continue
        if name not in state.views and name in state.tables:
            refusals.append(_taken(state, name))
            continue
        steps.append(
            Step(
                resource=name,
                summary=f"create view {name} into {view.target}",
                sql=ddl.create_view(database, view),
                disturbs=view.sources,
            )
        )
    return Plan(steps=tuple(steps), refusals=tuple(refusals))


def _taken(state: State, name: str) -> Refusal:
    reason = f"a table '{name}' exists that was not made by a deployment"
    if name in state.datasources:
        reason = f"the table of a data source '{name}' exists"
    elif name in state.views:
        reason = f"the view of a pipe '{name}' exists"
    return Refusal(resource=name, reason=reason, hint="Rename the resource, or the table.")


def _create(state: State, database: str, datasource: Datasource) -> Step:
    return Step(
        resource=datasource.name,
        summary=f"create table {datasource.name}",
        sql=ddl.create_table(database, datasource, state.traits),
    )


def _quarantine(state: State, database: str, datasource: Datasource) -> list[Step]:
    """The steps after which the quarantine table has room for every column."""
    name, table = datasource.name, datasource.name + QUARANTINE_SUFFIX
    if table not in state.tables:
        sql = ddl.create_quarantine(database, datasource, state.traits)
        return [Step(resource=name, summary=f"create table {table}", sql=sql)]
    existing = state.columns.get(table, frozenset())
    missing = [c.name for c in datasource.columns if c.name not in existing]
    if not missing:
        return []
    changes = [ddl.add_column(Column(name=n, type="Nullable(String)")) for n in missing]
    return [
        Step(
            resource=name,
            summary=f"alter table {table}: {', '.join(f'add column {n}' for n in missing)}",
            sql=ddl.alter_table(database, table, changes),
            disturbs=(name,),
        )
    ]


def _change(database: str, live: Datasource, wanted: Datasource) -> list[Step]:
    """The step that changes the table of one data source and records its definition.

    One statement for all of it: a stop in between would leave a table that fits neither the old
    definition nor the new one.
    """
    if live == wanted:
        return []
    name = wanted.name
    before = {c.name: c for c in live.columns}
    changes: list[tuple[str, str]] = []
    for column in wanted.columns:
        changes += _change_column(before.get(column.name), column)
    changes.append(("", ddl.modify_comment(wanted)))
    if live.engine.ttl is not None and wanted.engine.ttl is None and live.engine.name != "Null":
        changes.append(("remove TTL", "REMOVE TTL"))
    told = ", ".join(words for words, _ in changes if words) or "record definition"
    return [
        Step(
            resource=name,
            summary=f"alter table {name}: {told}",
            sql=ddl.alter_table(database, name, (sql for _, sql in changes)),
            disturbs=(name,),
        )
    ]


def _change_column(live: Column | None, wanted: Column) -> Iterable[tuple[str, str]]:
    """What changes, in words and as SQL."""
    if live is None:
        yield f"add column {wanted.name}", ddl.add_column(wanted)
        return
    if wanted.default != live.default:
        yield f"change default of {wanted.name}", ddl.modify_default(wanted)
    if wanted.codec != live.codec:
        yield f"change codec of {wanted.name}", ddl.modify_codec(wanted)


def _refuse(live: Datasource, wanted: Datasource) -> list[Refusal]:
    """Every reason why one data source cannot be changed."""
    refusals = [
        *_refuse_columns(live, wanted),
        *_refuse_engine(live.name, live.engine, wanted.engine),
    ]
    if live.indexes != wanted.indexes:
        refusals.append(
            Refusal(
                resource=live.name,
                reason="its INDEXES changed",
                hint="Indexes are made with the table; keep them, or use a new data source.",
            )
        )
    return refusals


def _step(datasource: str, summary: str, sql: str) -> Step:
    return Step(resource=datasource, summary=summary, sql=sql, disturbs=(datasource,))


def _refuse_columns(live: Datasource, wanted: Datasource) -> Iterable[Refusal]:
    after = {c.name: c for c in wanted.columns}
    for column in live.columns:
        change = after.get(column.name)
        if change is None:
            yield Refusal(
                resource=live.name,
                reason=f"column '{column.name}' is no longer in SCHEMA and its data would be lost",
                hint="Put it back, or use a new data source.",
            )
        elif change.type != column.type:
            yield Refusal(
                resource=live.name,
                reason=f"column '{column.name}' changed from {column.type} to {change.type},"
                " which would rewrite stored data",
                hint="Add a column with the new type, or use a new data source.",
            )


def _refuse_engine(name: str, live: EngineSpec, wanted: EngineSpec) -> Iterable[Refusal]:
    changed = [
        f"ENGINE_{key.upper()}" if key != "name" else "ENGINE"
        for key in EngineSpec.__struct_fields__
        if key != "ttl" and getattr(live, key) != getattr(wanted, key)
    ]
    if changed:
        yield Refusal(
            resource=name,
            reason=f"{', '.join(changed)} changed, which would rewrite the whole table",
            hint="Keep the engine as it was, or use a new data source.",
        )
    if wanted.ttl not in (None, live.ttl) and live.name != "Null":
        yield Refusal(
            resource=name,
            reason="ENGINE_TTL changed, which may delete stored rows",
            hint="Keep it, take it away, or use a new data source.",
        )
