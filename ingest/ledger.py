"""The ledger: what became of every range, for audit, trace and doctor; it never decides delivery.

``pipehouse.ingest_ledger`` has one row a completed range, keyed by its token, the last one wins.
The tables' own offsets are the truth: a row that is missing here means "not recorded".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec
from msgspec import Struct

from shared.clickhouse.contract import ClickHouse, Run, Statement
from shared.clickhouse.prepare import prepare_table
from shared.clickhouse.rows import insert_rows
from shared.errors import QueryError

DATABASE = "pipehouse"
TABLE = "ingest_ledger"
# Ranges are forgotten after so long; gaps, starts and alarms are kept.
KEPT_DAYS = 90

_COLUMNS = (
    ("database", "LowCardinality(String)"),
    ("datasource", "LowCardinality(String)"),
    ("kind", "LowCardinality(String)"),
    ("topic", "LowCardinality(String)"),
    ("stream", "UInt64"),
    ("partition", "Int32"),
    ("walk", "String"),
    ("first", "Int64"),
    ("next", "Int64"),
    ("token", "String"),
    ("rows", "UInt64"),
    ("quarantined", "UInt64"),
    ("absent", "Array(Array(Int64))"),
    ("excluded", "Array(Array(Int64))"),
    ("boot", "String"),
    ("schema", "String"),
    ("table_uuid", "String"),
    ("worker", "String"),
    ("note", "String"),
    ("at", "DateTime64(3, 'UTC')"),
)

TABLES = (
    f"CREATE DATABASE IF NOT EXISTS {DATABASE}",
    f"CREATE TABLE IF NOT EXISTS {DATABASE}.{TABLE} ("
    + ", ".join(f"`{name}` {type_}" for name, type_ in _COLUMNS)
    + ") ENGINE = ReplacingMergeTree(at)"
    " ORDER BY (database, datasource, stream, partition, first, kind, token)"
    f" TTL toDateTime(at) + INTERVAL {KEPT_DAYS} DAY DELETE WHERE kind = 'batch'",
)

Kind = Literal["batch", "gap", "start", "alarm", "repair"]
_MISSING = frozenset({60, 81})
_NO_UUID = "00000000-0000-0000-0000-000000000000"


class LedgerEntry(Struct, frozen=True, kw_only=True):
    """One thing that happened to the offsets ``[first, next)`` of a partition.

    ``batch``: they were completed; ``gap``: they cannot be stored any more; ``start``: reading
    began at ``first``; ``alarm``: a person is needed; ``repair``: rows of it were lost and are
    stored again. ``absent`` are the offsets of a batch that are not rows (quarantined, tombstones,
    holes in the log), ``excluded`` those that were left out of its block: ClickHouse refused them,
    or the table had them. ``note`` says why, for
    people.
    """

    kind: Kind
    datasource: str
    topic: str
    partition: int
    stream: int
    first: int
    next: int
    at_ms: int
    walk: str = ""
    token: str = ""
    rows: int = 0
    quarantined: int = 0
    absent: tuple[Run, ...] = ()
    excluded: tuple[Run, ...] = ()
    boot: str = ""
    schema: str = ""
    note: str = ""


class Recorded(LedgerEntry, frozen=True, kw_only=True):
    """An entry as it lies in the ledger.

    ``table_uuid`` is the table's when the entry was written, empty where it was not known.
    """

    table_uuid: str = ""
    worker: str = ""


def absent_runs(first: int, next_: int, runs: Iterable[Run]) -> tuple[Run, ...]:
    """What ascending runs leave out of ``[first, next_)``."""
    absent = []
    position = first
    for run in runs:
        if run.first > position:
            absent.append(Run(position, run.first - position))
        position = run.first + run.count
    if position < next_:
        absent.append(Run(position, next_ - position))
    return tuple(absent)


class Ledger:
    """The table, for the data sources of one database.

    Args:
        clickhouse: Whose database it is.
    """

    def __init__(self, clickhouse: ClickHouse) -> None:
        self._clickhouse = clickhouse

    async def prepare(self) -> None:
        """Make the table where it is missing."""
        await prepare_table(self._clickhouse, DATABASE, TABLE, TABLES)

    async def write(self, entries: Sequence[LedgerEntry], *, worker: str) -> None:
        """Add entries; harmless when repeated.

        Raises:
            InsertError: See ``shared/clickhouse/failures.py``.
        """
        uuids = await self.table_uuids()
        rows = [self._row(entry, uuids, worker) for entry in entries]
        await insert_rows(self._clickhouse, DATABASE, TABLE, _COLUMNS, rows)

    def _row(self, entry: LedgerEntry, uuids: Mapping[str, str], worker: str) -> dict[str, object]:
        row: dict[str, object] = msgspec.structs.asdict(entry)
        at_ms = row.pop("at_ms")
        assert isinstance(at_ms, int)
        return row | {
            "database": self._clickhouse.database,
            "absent": [[run.first, run.count] for run in entry.absent],
            "excluded": [[run.first, run.count] for run in entry.excluded],
            "stream": str(entry.stream),
            "table_uuid": uuids.get(entry.datasource, ""),
            "worker": worker,
            "at": f"{datetime.fromtimestamp(at_ms / 1000, UTC):%Y-%m-%d %H:%M:%S.%f}"[:-3],
        }

    async def table_uuids(self) -> Mapping[str, str]:
        """The identity of each table of the database; a table made anew has another one."""
        rows = await self._ask(
            "SELECT name, toString(uuid) AS uuid FROM system.tables"
            " WHERE database = {database:String}"
        )
        # Databases that are not Atomic give their tables none.
        return {row["name"]: row["uuid"] for row in rows if row["uuid"] != _NO_UUID}

    async def entries(
        self,
        datasource: str,
        *,
        kinds: Sequence[Kind] = (),
        stream: int | None = None,
        partition: int | None = None,
        overlapping: tuple[int, int] | None = None,
        limit: int = 100_000,
    ) -> list[Recorded]:
        """Entries of a data source by partition and offset; all kinds unless told.

        Args:
            datasource: Whose entries.
            kinds: Only these.
            stream: Only of this stream.
            partition: Only of this partition.
            overlapping: Only those that share an offset with this ``[first, next)``.
            limit: At most so many.
        """
        low, high = overlapping or (-1, (1 << 63) - 1)
        rows = await self._ask(
            "SELECT * EXCEPT (database, at), toUnixTimestamp64Milli(at) AS at_ms"
            f" FROM {DATABASE}.{TABLE} FINAL WHERE database = {{database:String}}"
            " AND datasource = {datasource:String}"
            " AND (empty({kinds:Array(String)}) OR has({kinds:Array(String)}, kind))"
            " AND ({any_stream:Bool} OR stream = {stream:UInt64})"
            " AND ({any_partition:Bool} OR partition = {partition:Int32})"
            " AND first < {high:Int64} AND (next > {low:Int64} OR first >= {low:Int64})"
            " ORDER BY stream, partition, first, at LIMIT {limit:UInt64}",
            datasource=datasource,
            kinds=list(kinds),
            any_stream=stream is None,
            stream=stream or 0,
            any_partition=partition is None,
            partition=partition or 0,
            low=low,
            high=high,
            limit=limit,
        )
        return [_recorded(row) for row in rows]

    async def highest_next(self, datasource: str, stream: int, partition: int) -> int | None:
        """Behind the last offset that was ever completed; None where nothing is recorded."""
        rows = await self._ask(
            f"SELECT max(next) AS next FROM {DATABASE}.{TABLE} AS l"
            " WHERE l.database = {database:String} AND datasource = {datasource:String}"
            " AND stream = {stream:UInt64} AND partition = {partition:Int32}"
            " AND kind = 'batch' HAVING count() > 0",
            datasource=datasource,
            stream=stream,
            partition=partition,
        )
        return int(rows[0]["next"]) if rows else None

    async def last_uuids(self) -> Mapping[str, tuple[str, int]]:
        """Of each data source the table that its newest batch went to, and when (ms)."""
        rows = await self._ask(
            "SELECT datasource, argMax(table_uuid, at) AS uuid,"
            f" toUnixTimestamp64Milli(max(at)) AS at_ms FROM {DATABASE}.{TABLE} AS l"
            " WHERE l.database = {database:String} AND kind = 'batch' AND table_uuid != ''"
            " GROUP BY datasource"
        )
        return {row["datasource"]: (row["uuid"], row["at_ms"]) for row in rows}

    async def batches_since(self, at_ms: int) -> Mapping[str, int]:
        """How many batches of each data source were completed since then."""
        rows = await self._ask(
            f"SELECT datasource, count() AS n FROM {DATABASE}.{TABLE} AS l"
            " WHERE l.database = {database:String} AND kind = 'batch'"
            " AND at >= fromUnixTimestamp64Milli({at:Int64}) GROUP BY datasource",
            at=at_ms,
        )
        return {row["datasource"]: int(row["n"]) for row in rows}

    async def _ask(self, sql: str, **parameters: Any) -> list[dict[str, Any]]:
        """Rows as objects; none where the table was never made."""
        statement = Statement(
            sql=sql,
            parameters={"database": self._clickhouse.database, **parameters},
            format="JSONEachRow",
            settings={"output_format_json_quote_64bit_integers": 0},
        )
        try:
            result = await self._clickhouse.fetch(statement)
        except QueryError as error:
            if error.clickhouse_code in _MISSING:
                return []
            raise
        return [msgspec.json.decode(line) for line in result.body.splitlines()]


def _recorded(row: Mapping[str, Any]) -> Recorded:
    runs = {
        name: [{"first": first, "count": count} for first, count in row[name]]
        for name in ("absent", "excluded")
    }
    return msgspec.convert({**row, **runs}, Recorded)
