"""What a request would do: its SQL, bindings and settings, the indexes used, the rows read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
from msgspec import Struct, field

from query.planned import Planned
from shared.clickhouse.contract import ClickHouse, Limits, SettingValue, Statement
from shared.clickhouse.sql import ParameterValue

HIDDEN = "***"
_FILTERS = "additional_table_filters"


class IndexUse(Struct, frozen=True, kw_only=True):
    """One index of one table and what it left to read.

    ``type`` is ClickHouse's word: ``MinMax``, ``Partition``, ``PrimaryKey``, ``Skip``. ``name`` is
    that of a skipping index. Of ``parts`` and ``granules`` the index left ``selected_…``.
    """

    table: str
    type: str
    name: str = ""
    keys: tuple[str, ...] = ()
    condition: str = ""
    parts: int = 0
    selected_parts: int = 0
    granules: int = 0
    selected_granules: int = 0


class TableRead(Struct, frozen=True, kw_only=True):
    """What would be read of one table; ``rows`` is an upper bound, whole granules are counted."""

    table: str
    parts: int
    rows: int
    marks: int


class Explanation(Struct, frozen=True, kw_only=True):
    """Everything about one request, for people.

    ``bindings`` and ``settings`` have secrets and row filters hidden. ``filtered``: the token sees
    some rows only. ``rows`` is the sum over ``reads``; a table that is no MergeTree is in neither.
    """

    sql: str
    bindings: Mapping[str, ParameterValue] = field(default_factory=dict)
    settings: Mapping[str, SettingValue] = field(default_factory=dict)
    tables: tuple[str, ...] = ()
    filtered: bool = False
    cache_ttl_s: int | None = None
    indexes: tuple[IndexUse, ...] = ()
    reads: tuple[TableRead, ...] = ()
    rows: int = 0


async def explain(clickhouse: ClickHouse, planned: Planned, limits: Limits) -> Explanation:
    """Explain a planned statement without running it.

    Raises:
        QueryError: ClickHouse refuses it.
        ClickHouseUnavailableError: It does not answer.
    """

    async def ask(prefix: str, output_format: str) -> bytes:
        whole = planned.statement(output_format, limits=limits)
        explained: Statement = msgspec.structs.replace(whole, sql=f"{prefix}\n{whole.sql}")
        return (await clickhouse.fetch(explained)).body

    plan = await ask("EXPLAIN json = 1, indexes = 1", "TabSeparatedRaw")
    estimate = await ask("EXPLAIN ESTIMATE", "JSONEachRow")
    return explanation(planned, plan, estimate)


def explanation(planned: Planned, plan: bytes, estimate: bytes) -> Explanation:
    """Put together what the engine said.

    Args:
        planned: What was asked about.
        plan: Of ``EXPLAIN json = 1, indexes = 1``.
        estimate: Of ``EXPLAIN ESTIMATE``, as JSONEachRow.
    """
    reads = tuple(msgspec.json.Decoder(TableRead, strict=False).decode_lines(estimate))
    return Explanation(
        sql=planned.sql,
        bindings={
            name: HIDDEN if name in planned.secret_bindings else value
            for name, value in planned.bindings.items()
        },
        settings={name: v for name, v in planned.settings.items() if name != _FILTERS},
        tables=tuple(sorted(planned.tables)),
        filtered=_FILTERS in planned.settings,
        cache_ttl_s=planned.cache_ttl_s,
        indexes=tuple(_indexes(msgspec.json.decode(plan))),
        reads=reads,
        rows=sum(read.rows for read in reads),
    )


def _indexes(tree: Any) -> Iterator[IndexUse]:
    """The indexes of every table in the engine's plan, in the order of the plan."""
    if isinstance(tree, list):
        for item in tree:
            yield from _indexes(item)
    elif isinstance(tree, dict):
        # "database.table"
        table = str(tree.get("Description", "")).rpartition(".")[2]
        for index in tree.get("Indexes", ()):
            yield _index(table, index)
        for key in ("Plan", "Plans"):
            yield from _indexes(tree.get(key, []))


def _index(table: str, index: Mapping[str, Any]) -> IndexUse:
    return IndexUse(
        table=table,
        type=index.get("Type", ""),
        name=index.get("Name", ""),
        keys=tuple(index.get("Keys", ())),
        condition=index.get("Condition", ""),
        parts=index.get("Initial Parts", 0),
        selected_parts=index.get("Selected Parts", 0),
        granules=index.get("Initial Granules", 0),
        selected_granules=index.get("Selected Granules", 0),
    )
