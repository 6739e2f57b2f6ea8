"""What the engine says about the tables and views that events end in."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from msgspec import Struct

from deploy.operate.ask import ask
from deploy.state import State
from shared.clickhouse.contract import ClickHouse

_SETTING = re.compile(r"\b(\w+) = ('?)([^',\s]+)\2")
_DEDUPLICATION = (
    "non_replicated_deduplication_window",
    "replicated_deduplication_window",
    "replicated_deduplication_window_seconds",
    "fsync_after_insert",
    "fsync_part_directory",
)
_HOUR_S = 3_600


class TableFacts(Struct, frozen=True, kw_only=True):
    """One table.

    ``window`` is how many inserted parts it remembers, ``window_s`` for how long (None: until they
    are too many). ``parts_last_hour`` is the most that can have been inserted in an hour.
    """

    name: str
    engine: str
    uuid: str
    window: int
    window_s: int | None = None
    parts_last_hour: int = 0
    has_ttl: bool = False
    fsync: bool = False

    @property
    def is_replicated(self) -> bool:
        """Whether part and token are written in one transaction, on every replica."""
        return self.engine.startswith("Replicated")

    @property
    def keeps_nothing(self) -> bool:
        """Whether rows only pass through it to views."""
        return self.engine == "Null"


class ViewFacts(Struct, frozen=True, kw_only=True):
    """A materialized view; ``target`` is None where its table is not known."""

    name: str
    target: TableFacts | None


class _TableRow(Struct):
    name: str
    engine: str
    engine_full: str
    uuid: str
    views: list[str]


class _SettingRow(Struct):
    name: str
    value: str
    replicated: bool


class _PartsRow(Struct):
    table: str
    parts: int


class Tables(Struct, frozen=True, kw_only=True):
    """The tables of one database by name, and which views each of them triggers."""

    tables: Mapping[str, TableFacts]
    triggered: Mapping[str, Sequence[str]]
    targets: Mapping[str, str]

    def views(self, table: str) -> tuple[ViewFacts, ...]:
        """The views that rows of a table reach, those behind other views included."""
        found: dict[str, ViewFacts] = {}
        waiting = list(self.triggered.get(table, ()))
        while waiting:
            name = waiting.pop(0)
            if name in found:
                continue
            target = self.tables.get(self.targets.get(name, ""))
            found[name] = ViewFacts(name=name, target=target)
            if target is not None:
                waiting += self.triggered.get(target.name, ())
        return tuple(found.values())


async def read_tables(clickhouse: ClickHouse, state: State) -> Tables:
    """Ask the engine about every table of its database."""
    database = {"database": clickhouse.database}
    rows = await ask(
        clickhouse,
        _TableRow,
        "SELECT name, engine, engine_full, toString(uuid) AS uuid,"
        " arrayFilter((t, d) -> d = {database:String}, dependencies_table,"
        " dependencies_database) AS views"
        " FROM system.tables WHERE database = {database:String}",
        database,
    )
    parts = await _parts_last_hour(clickhouse)
    defaults = await _defaults(clickhouse)
    tables = {row.name: _facts(row, defaults, parts.get(row.name, 0)) for row in rows}
    return Tables(
        tables=tables,
        triggered={row.name: sorted(row.views) for row in rows if row.views},
        targets={name: view.target for name, view in state.views.items()},
    )


async def _defaults(clickhouse: ClickHouse) -> dict[tuple[bool, str], str]:
    names = list(_DEDUPLICATION)
    rows = await ask(
        clickhouse,
        _SettingRow,
        "SELECT name, value, false AS replicated FROM system.merge_tree_settings"
        " WHERE has({names:Array(String)}, name) UNION ALL"
        " SELECT name, value, true AS replicated FROM system.replicated_merge_tree_settings"
        " WHERE has({names:Array(String)}, name)",
        {"names": names},
    )
    return {(row.replicated, row.name): row.value for row in rows}


async def _parts_last_hour(clickhouse: ClickHouse) -> dict[str, int]:
    """The most parts that can have been inserted into each table in the last hour.

    Block numbers count inserted parts; what parts from before the hour do not reach came in it.
    """
    rows = await ask(
        clickhouse,
        _PartsRow,
        "SELECT table, toInt64(sum(n)) AS parts FROM (SELECT table, max(max_block_number)"
        " - maxIf(max_block_number, modification_time < now() - {hour:UInt32}) AS n"
        " FROM system.parts WHERE database = {database:String}"
        # Replicated tables number the blocks of each partition, others those of the table.
        " GROUP BY table, if(startsWith(engine, 'Replicated'), partition_id, ''))"
        " GROUP BY table",
        {"database": clickhouse.database, "hour": _HOUR_S},
    )
    return {row.table: row.parts for row in rows}


def _facts(row: _TableRow, defaults: Mapping[tuple[bool, str], str], parts: int) -> TableFacts:
    given = table_settings(row.engine_full)
    replicated = row.engine.startswith("Replicated")

    def value(name: str) -> int:
        return int(given.get(name) or defaults.get((replicated, name)) or 0)

    window = "replicated_deduplication_window"
    return TableFacts(
        name=row.name,
        engine=row.engine,
        uuid=row.uuid,
        window=value(window if replicated else "non_" + window),
        window_s=value(window + "_seconds") if replicated else None,
        parts_last_hour=parts,
        has_ttl=" TTL " in row.engine_full,
        fsync=bool(value("fsync_after_insert") and value("fsync_part_directory")),
    )


def table_settings(engine_full: str) -> dict[str, str]:
    """The settings at the end of an engine's definition."""
    _, found, text = engine_full.rpartition(" SETTINGS ")
    return {m[1]: m[3] for m in _SETTING.finditer(text)} if found else {}
