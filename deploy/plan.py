"""The difference between what is deployed and what the files say, as steps; pure.

A step only ever adds: tables, columns, views, defaults. What would destroy or rewrite stored data
is not a step but a refusal, with the reason and what to do instead. Resources that are no longer in
the files are left as they are and named.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from msgspec import Struct, structs

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
    for name, datasource in datasources.items():
        live = state.datasources.get(name)
        if live is None and name in state.tables:
            refusals.append(_foreign(name))
            continue
        if live is None:
            steps += _quarantine(state, database, datasource)
            steps.append(_create(database, datasource))
            continue
        refused = _refuse(live, datasource)
        refusals += refused
        wanted = live if refused else datasource
        steps += _quarantine(state, database, wanted)
        steps += _change(state, database, live, wanted)
    kept = tuple(sorted(set(state.datasources) - set(datasources)))
    return Plan(steps=tuple(steps), refusals=tuple(refusals), kept=kept)


def plan_views(
    state: State,
    views: Mapping[str, ViewDefinition],
    sources: Mapping[str, tuple[str, ...]],
    database: str,
) -> Plan:
    """The steps that lead to exactly these views; ``sources`` are the tables each one reads.

    A changed view is dropped and made again: what it has written stays.
    """
    steps: list[Step] = []
    refusals: list[Refusal] = []
    everything = tuple(sorted(state.datasources))
    for name, live in state.views.items():
        if views.get(name) != live:
            steps.append(
                Step(
                    resource=name,
                    summary=f"drop view {name}",
                    sql=ddl.drop_view(database, name),
                    disturbs=tuple(sorted({*sources.get(name, ()), *everything})),
                )
            )
    for name, view in views.items():
        if state.views.get(name) == view:
            continue
        if name not in state.views and name in state.tables:
            refusals.append(_foreign(name))
            continue
        steps.append(
            Step(
                resource=name,
                summary=f"create view {name} into {view.target}",
                sql=ddl.create_view(database, view),
                disturbs=sources.get(name, ()),
            )
        )
    return Plan(steps=tuple(steps), refusals=tuple(refusals))


def _foreign(name: str) -> Refusal:
    return Refusal(
        resource=name,
        reason=f"a table '{name}' exists that was not made by a deployment",
        hint="Rename the resource, or the table.",
    )


def _create(database: str, datasource: Datasource) -> Step:
    return Step(
        resource=datasource.name,
        summary=f"create table {datasource.name}",
        sql=ddl.create_table(database, datasource),
    )


def _quarantine(state: State, database: str, datasource: Datasource) -> list[Step]:
    """The steps after which the quarantine table has room for every column."""
    name, table = datasource.name, datasource.name + QUARANTINE_SUFFIX
    if table not in state.tables:
        sql = ddl.create_quarantine(database, datasource)
        return [Step(resource=name, summary=f"create table {table}", sql=sql)]
    existing = state.columns.get(table, frozenset())
    return [
        _step(
            name,
            f"add column {table}.{c.name}",
            ddl.add_column(database, table, Column(name=c.name, type="Nullable(String)")),
        )
        for c in datasource.columns
        if c.name not in existing
    ]


def _change(state: State, database: str, live: Datasource, wanted: Datasource) -> list[Step]:
    """The steps that change the table of one data source; its definition is recorded last."""
    wanted = ddl.without_spans(wanted)
    undefaulted = list(_remove_defaults(state, database, wanted))
    if live == wanted and not undefaulted:
        return []
    name = wanted.name
    before = {c.name: c for c in live.columns}
    existing = state.columns.get(name, frozenset())
    steps: list[Step] = []
    for column in wanted.columns:
        known = before.get(column.name)
        if known is not None:
            steps += _change_column(database, name, known, column)
        elif column.name not in existing:
            sql = ddl.add_column(database, name, column)
            steps.append(_step(name, f"add column {name}.{column.name}", sql))
        else:
            # A stop came between adding and recording it, and the file may have changed since.
            sql = ddl.modify_column(database, name, column)
            steps.append(_step(name, f"complete column {name}.{column.name}", sql))
    steps += undefaulted
    if live.engine.ttl != wanted.engine.ttl and wanted.engine.name != "Null":
        steps.append(_step(name, f"change TTL of {name}", ddl.modify_ttl(database, wanted)))
    steps.append(_step(name, f"record definition of {name}", ddl.modify_comment(database, wanted)))
    return steps


def _change_column(database: str, table: str, live: Column, wanted: Column) -> Iterable[Step]:
    if wanted.default != live.default and wanted.default is not None:
        sql = ddl.modify_default(database, table, wanted)
        yield _step(table, f"change default of {table}.{wanted.name}", sql)
    if wanted.codec != live.codec:
        sql = ddl.modify_codec(database, table, wanted)
        yield _step(table, f"change codec of {table}.{wanted.name}", sql)


def _remove_defaults(state: State, database: str, wanted: Datasource) -> Iterable[Step]:
    """Defaults that are to go and really are there: what is gone cannot be removed again."""
    there = state.defaulted.get(wanted.name, frozenset())
    for column in wanted.columns:
        if column.default is None and column.name in there:
            sql = ddl.modify_default(database, wanted.name, column)
            yield _step(wanted.name, f"remove default of {wanted.name}.{column.name}", sql)


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
    removes_ttl = live.ttl is not None and wanted.ttl is None
    same_ttl = structs.replace(wanted, ttl=live.ttl)
    if same_ttl != live or removes_ttl:
        changed = [
            f"ENGINE_{key.upper()}" if key != "name" else "ENGINE"
            for key in EngineSpec.__struct_fields__
            if getattr(live, key) != getattr(wanted, key)
        ]
        yield Refusal(
            resource=name,
            reason=f"{', '.join(changed)} changed, which would rewrite the whole table",
            hint="Keep the engine as it was, or use a new data source.",
        )
