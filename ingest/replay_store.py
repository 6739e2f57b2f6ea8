"""What a replay of quarantine reads and writes: quarantined records, and announcements."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import msgspec
from msgspec import Struct

from ingest.quarantine import QUARANTINE_SUFFIX
from shared.clickhouse.contract import ClickHouse, Run, Statement
from shared.clickhouse.prepare import prepare_table
from shared.clickhouse.rows import insert_rows
from shared.clickhouse.sql import ParameterValue, quote_table

DATABASE = "pipehouse"
TABLE = "quarantine_replays"

_COLUMNS = (
    ("database", "LowCardinality(String)"),
    ("datasource", "LowCardinality(String)"),
    ("topic", "LowCardinality(String)"),
    ("stream", "UInt64"),
    ("partition", "Int32"),
    ("token", "String"),
    ("offsets", "Array(Array(Int64))"),
    ("schema", "String"),
    ("begun_ms", "Int64"),
    ("state", "UInt8"),
)
# The states in their order: the higher one counts.
_BEGUN, _STORED, _DONE = 0, 1, 2

TABLES = (
    f"CREATE DATABASE IF NOT EXISTS {DATABASE}",
    f"CREATE TABLE IF NOT EXISTS {DATABASE}.{TABLE} ("
    + ", ".join(f"`{name}` {type_}" for name, type_ in _COLUMNS)
    + ") ENGINE = ReplacingMergeTree(state)"
    " ORDER BY (database, datasource, stream, partition, token)",
)

Row = TypeVar("Row", bound=Struct)


class Selection(Struct, frozen=True, kw_only=True):
    """Which quarantined records; what is not given does not restrict.

    ``reason`` is a part of a message whatever its case, ``column`` a failing column (empty for the
    whole record), ``[first, next)`` offsets, ``[since_s, until_s)`` times of quarantine.
    """

    reason: str = ""
    column: str | None = None
    partition: int | None = None
    first: int | None = None
    next: int | None = None
    since_s: int | None = None
    until_s: int | None = None


def conditions(selection: Selection) -> tuple[str, dict[str, ParameterValue]]:
    """The selection as an SQL condition on a quarantine table, with its parameters."""
    tests = {
        "reason": "arrayExists(m -> positionCaseInsensitiveUTF8(m, {reason:String}) > 0, c__error)",
        "column": "has(c__error_column, {column:String})",
        "partition": "__partition = {partition:Int32}",
        "first": "__offset >= {first:Int64}",
        "next": "__offset < {next:Int64}",
        "since_s": "insertion_date >= toDateTime({since_s:Int64})",
        "until_s": "insertion_date < toDateTime({until_s:Int64})",
    }
    given = {k: v for k, v in msgspec.structs.asdict(selection).items() if v not in (None, "")}
    if selection.column == "":
        given["column"] = ""
    return " AND ".join(tests[name] for name in given) or "1", given


class Quarantined(Struct, frozen=True, kw_only=True):
    """One record as quarantine keeps it."""

    offset: int
    timestamp_ms: int
    raw: str
    columns: list[str]
    messages: list[str]


class Place(Struct, frozen=True, kw_only=True):
    """A partition of a stream that has quarantined records."""

    topic: str
    stream: int
    partition: int


class Announcement(Struct, frozen=True, kw_only=True):
    """What a replay is about to store, and under which token; it never changes.

    ``state``: 0 begun, 1 stored, 2 done.
    """

    topic: str
    stream: int
    partition: int
    token: str
    offsets: tuple[Run, ...]
    schema: str
    begun_ms: int
    state: int = _BEGUN

    @property
    def is_stored(self) -> bool:
        """Whether the insert was acknowledged."""
        return self.state >= _STORED

    @property
    def place(self) -> Place:
        """Where its records come from."""
        return Place(topic=self.topic, stream=self.stream, partition=self.partition)

    def offset_list(self) -> list[int]:
        """The offsets one by one."""
        return [o for run in self.offsets for o in range(run.first, run.first + run.count)]


class ReplayStore:
    """The quarantine table of one data source, and the announcements of its replays.

    Args:
        clickhouse: Where they are.
        datasource: Whose.
    """

    def __init__(self, clickhouse: ClickHouse, datasource: str) -> None:
        self._clickhouse = clickhouse
        self._datasource = datasource
        self._table = quote_table(clickhouse.database, datasource + QUARANTINE_SUFFIX)

    async def prepare(self) -> None:
        """Make the table of announcements where it is missing."""
        await prepare_table(self._clickhouse, DATABASE, TABLE, TABLES)

    # Quarantine -------------------------------------------------------------------------------

    async def places(self, selection: Selection) -> list[Place]:
        """Where the selected records come from."""
        where, parameters = conditions(selection)
        return await self._ask(
            Place,
            "SELECT DISTINCT __topic AS topic, __stream AS stream, __partition AS partition"
            f" FROM {self._table} FINAL WHERE {where} ORDER BY topic, stream, partition",
            parameters,
        )

    async def records(
        self, selection: Selection, place: Place, *, after: int, limit: int
    ) -> list[Quarantined]:
        """The selected records of a place from behind an offset on, by offset."""
        where, parameters = conditions(selection)
        return await self._records(
            f"({where}) AND __offset > {{after:Int64}}",
            {**parameters, **_of(place), "after": after},
            f" LIMIT {limit}",
        )

    async def records_at(self, place: Place, offsets: Sequence[int]) -> list[Quarantined]:
        """Those of these offsets that are in quarantine."""
        return await self._records(
            "has({offsets:Array(Int64)}, __offset)", {**_of(place), "offsets": list(offsets)}, ""
        )

    async def _records(
        self, where: str, parameters: dict[str, ParameterValue], tail: str
    ) -> list[Quarantined]:
        return await self._ask(
            Quarantined,
            "SELECT __offset AS offset, toUnixTimestamp64Milli(__timestamp) AS timestamp_ms,"
            " __raw AS raw, c__error_column AS columns, c__error AS messages"
            f" FROM {self._table} FINAL WHERE __stream = {{at_stream:UInt64}}"
            f" AND __partition = {{at_partition:Int32}} AND {where} ORDER BY offset{tail}",
            parameters,
        )

    async def release(self, place: Place, offsets: Sequence[int]) -> None:
        """Take records out of quarantine; harmless when repeated."""
        if offsets:
            await self._clickhouse.execute(
                Statement(
                    sql=f"DELETE FROM {self._table} WHERE __stream = {{at_stream:UInt64}}"
                    " AND __partition = {at_partition:Int32}"
                    " AND has({offsets:Array(Int64)}, __offset)",
                    parameters={**_of(place), "offsets": list(offsets)},
                )
            )

    # Announcements ----------------------------------------------------------------------------

    async def announce(self, announcement: Announcement) -> None:
        """Write down what is about to be stored."""
        row = msgspec.structs.asdict(announcement)
        row |= {
            "database": self._clickhouse.database,
            "datasource": self._datasource,
            "stream": str(announcement.stream),
            "offsets": [[run.first, run.count] for run in announcement.offsets],
        }
        await insert_rows(self._clickhouse, DATABASE, TABLE, _COLUMNS, [row])

    async def stored(self, announcement: Announcement) -> None:
        """The insert was acknowledged."""
        await self.announce(msgspec.structs.replace(announcement, state=_STORED))

    async def done(self, announcement: Announcement) -> None:
        """Its records are out of quarantine."""
        await self.announce(msgspec.structs.replace(announcement, state=_DONE))

    async def open_announcements(self) -> list[Announcement]:
        """What earlier replays announced and did not finish, the oldest first."""
        return await self._ask(
            Announcement,
            "SELECT topic, stream, partition, token, schema, begun_ms, state,"
            # As JSON has objects: an array of maps with two keys each.
            " arrayMap(r -> map('first', r[1], 'count', r[2]), offsets) AS offsets"
            f" FROM {DATABASE}.{TABLE} FINAL WHERE database = {{database:String}}"
            f" AND datasource = {{datasource:String}} AND state < {_DONE} ORDER BY begun_ms, token",
            {"database": self._clickhouse.database, "datasource": self._datasource},
        )

    async def _ask(
        self, row: type[Row], sql: str, parameters: dict[str, ParameterValue]
    ) -> list[Row]:
        result = await self._clickhouse.fetch(
            Statement(
                sql=sql,
                parameters=parameters,
                format="JSONEachRow",
                settings={"output_format_json_quote_64bit_integers": 0},
            )
        )
        return msgspec.json.Decoder(row).decode_lines(result.body)


def _of(place: Place) -> dict[str, ParameterValue]:
    return {"at_stream": place.stream, "at_partition": place.partition}
