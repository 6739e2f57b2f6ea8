"""What is deployed in an engine, read from the comments of its tables and views."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from msgspec import Struct, field

from deploy.ddl import LENIENCY, Definition, Traits, ViewDefinition, read_comment
from shared.clickhouse.contract import ClickHouse, Statement
from shared.clickhouse.sql import literal
from shared.errors import QueryError
from shared.model.resources import Datasource

_UNKNOWN_SETTING = 115


class State(Struct, frozen=True, kw_only=True):
    """The live state: data sources and views by name.

    ``tables`` are all tables of the database, also those that are not ours. ``columns`` are the
    columns each table really has, for tables without a comment.
    """

    datasources: Mapping[str, Datasource] = field(default_factory=dict)
    views: Mapping[str, ViewDefinition] = field(default_factory=dict)
    tables: frozenset[str] = frozenset()
    columns: Mapping[str, frozenset[str]] = field(default_factory=dict)
    traits: Traits = Traits()


class _Row(Struct):
    name: str
    comment: str
    columns: list[str]


async def read_state(clickhouse: ClickHouse) -> State:
    """Ask the engine what is deployed in its current database."""
    result = await clickhouse.fetch(
        Statement(
            sql="SELECT t.name AS name, t.comment AS comment, c.columns AS columns"
            " FROM system.tables AS t LEFT JOIN"
            " (SELECT table, groupArray(name) AS columns FROM system.columns"
            " WHERE database = {database:String} GROUP BY table) AS c ON c.table = t.name"
            " WHERE t.database = {database:String} ORDER BY name",
            parameters={"database": clickhouse.database},
            format="JSONEachRow",
        )
    )
    rows = msgspec.json.Decoder(_Row).decode_lines(result.body)
    found: list[tuple[str, Definition]] = []
    for row in rows:
        definition = read_comment(row.comment)
        if definition is not None:
            found.append((row.name, definition))
    return State(
        datasources={n: d.datasource for n, d in found if d.datasource is not None},
        views={n: d.view for n, d in found if d.view is not None},
        tables=frozenset(row.name for row in rows),
        columns={row.name: frozenset(row.columns) for row in rows},
        traits=Traits(
            checks_keys=await _checks_keys(clickhouse),
            replicates=clickhouse.capabilities.replicates,
        ),
    )


async def _checks_keys(clickhouse: ClickHouse) -> bool:
    # Not from system.merge_tree_settings, which not everybody may read.
    asked = Statement(sql=f"SELECT getMergeTreeSetting({literal(LENIENCY)})")
    try:
        await clickhouse.fetch(asked)
    except QueryError as error:
        if error.clickhouse_code != _UNKNOWN_SETTING:
            raise
        return False
    return True
