"""``quarantine``: what was refused and why, and what operators do with it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from msgspec import Struct

from deploy.operate.ask import ask
from deploy.operate.services import Feed, OperatorServices
from ingest.chunk import Chunk
from ingest.log.facts import LogFacts
from ingest.quarantine import QUARANTINE_SUFFIX
from ingest.replay import Replay, ReplayNeeds, ReplayReport
from ingest.replay_decode import ReadLog
from ingest.replay_store import Place, Selection, conditions
from ingest.worker import schema_revision
from shared.clickhouse.contract import Statement
from shared.clickhouse.sql import quote_table
from shared.errors import BadRequestError
from shared.model.identity import DEDUPLICATION_WINDOW
from shared.model.resources import Datasource

MOST_REASONS = 5


class ListArguments(Struct, frozen=True, forbid_unknown_fields=True):
    """Of one data source, or of all."""

    datasource: str = ""


class Reason(Struct, frozen=True):
    """How often a column failed with one message; the column is empty for the whole record."""

    column: str
    message: str
    rows: int


class Summary(Struct, frozen=True, kw_only=True):
    """The quarantine of one data source; times are UTC, ``reasons`` the most frequent first."""

    datasource: str
    rows: int
    first: str = ""
    last: str = ""
    reasons: tuple[Reason, ...] = ()


class ListResult(Struct, frozen=True, kw_only=True):
    """One entry a data source."""

    is_ok: bool
    datasources: tuple[Summary, ...]


class Filters(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which quarantined rows; what is not given does not restrict.

    ``reason`` is a part of a message, ``column`` a failing column, ``first`` and ``next`` offsets,
    ``since`` and ``until`` times of quarantine in ISO 8601 (UTC where they name no zone).
    """

    datasource: str
    reason: str = ""
    column: str | None = None
    partition: int | None = None
    first: int | None = None
    next: int | None = None
    since: str = ""
    until: str = ""

    def selection(self) -> Selection:
        """The rows as the replay selects them.

        Raises:
            BadRequestError: A time cannot be read.
        """
        return Selection(
            reason=self.reason,
            column=self.column,
            partition=self.partition,
            first=self.first,
            next=self.next,
            since_s=_seconds(self.since, "since"),
            until_s=_seconds(self.until, "until"),
        )


class ShowArguments(Filters, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """At most ``limit`` rows, the newest first."""

    limit: int = 20


class QuarantinedRow(Struct, frozen=True, kw_only=True):
    """One refused record."""

    topic: str
    partition: int
    offset: int
    at: str
    columns: list[str]
    messages: list[str]
    raw: str


class ShowResult(Struct, frozen=True, kw_only=True):
    """Rows, and how many match."""

    is_ok: bool
    datasource: str
    matching: int
    rows: tuple[QuarantinedRow, ...]


class ReplayArguments(Filters, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``check``: only say what would become of the rows."""

    check: bool = False


class PurgeArguments(Filters, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``yes`` is needed: what is purged cannot be had back."""

    yes: bool = False


class PurgeResult(Struct, frozen=True, kw_only=True):
    """How many rows were removed."""

    is_ok: bool
    datasource: str
    purged: int


class _Totals(Struct):
    rows: int
    first: str
    last: str


class _Count(Struct):
    n: int


async def list_quarantine(services: OperatorServices, arguments: ListArguments) -> ListResult:
    """Counts, times and the most frequent reasons of every data source.

    Raises:
        NotFoundError: No such data source.
    """
    datasources = await services.fed_datasources(arguments.datasource)
    return ListResult(
        is_ok=True, datasources=tuple([await _summary(services, d) for d in datasources])
    )


def _table(services: OperatorServices, datasource: Datasource) -> str:
    return quote_table(services.clickhouse.database, datasource.name + QUARANTINE_SUFFIX)


async def _summary(services: OperatorServices, datasource: Datasource) -> Summary:
    table = _table(services, datasource)
    totals = await ask(
        services.clickhouse,
        _Totals,
        "SELECT count() AS rows, toString(min(insertion_date)) AS first,"
        f" toString(max(insertion_date)) AS last FROM {table} FINAL",
    )
    if not totals or not totals[0].rows:
        return Summary(datasource=datasource.name, rows=0)
    reasons = await ask(
        services.clickhouse,
        Reason,
        "SELECT tupleElement(e, 1) AS column, tupleElement(e, 2) AS message, count() AS rows"
        " FROM (SELECT arrayJoin(arrayZip(c__error_column, c__error)) AS e"
        f" FROM {table} FINAL) GROUP BY column, message"
        " ORDER BY rows DESC, column, message LIMIT {limit:UInt32}",
        {"limit": MOST_REASONS},
    )
    total = totals[0]
    return Summary(
        datasource=datasource.name,
        rows=total.rows,
        first=total.first,
        last=total.last,
        reasons=tuple(reasons),
    )


async def show_quarantine(services: OperatorServices, arguments: ShowArguments) -> ShowResult:
    """The rows that match.

    Raises:
        NotFoundError: No such data source.
        BadRequestError: A filter cannot be read.
    """
    datasource = await services.datasource(arguments.datasource)
    table = _table(services, datasource)
    where, parameters = conditions(arguments.selection())
    rows = await ask(
        services.clickhouse,
        QuarantinedRow,
        "SELECT __topic AS topic, __partition AS partition, __offset AS offset,"
        " toString(insertion_date) AS at, c__error_column AS columns, c__error AS messages,"
        f" __raw AS raw FROM {table} FINAL WHERE {where}"
        " ORDER BY insertion_date DESC, partition, offset DESC LIMIT {limit:UInt32}",
        {**parameters, "limit": max(0, arguments.limit)},
    )
    matching = await _count(services, table, arguments)
    return ShowResult(is_ok=True, datasource=datasource.name, matching=matching, rows=tuple(rows))


async def _count(services: OperatorServices, table: str, filters: Filters) -> int:
    where, parameters = conditions(filters.selection())
    found = await ask(
        services.clickhouse,
        _Count,
        f"SELECT count() AS n FROM {table} FINAL WHERE {where}",
        parameters,
    )
    return found[0].n


async def replay_quarantine(services: OperatorServices, arguments: ReplayArguments) -> ReplayReport:
    """Store the rows that can be stored by now, each once however often this runs.

    Raises:
        NotFoundError: No such data source.
        ConflictError: Another replay of the data source runs.
        InsertError: ClickHouse did not take a block; running it again completes it.
    """
    datasource = await services.datasource(arguments.datasource)
    feed = services.feed(datasource)
    needs = ReplayNeeds(
        clickhouse=services.clickhouse,
        clock=services.clock,
        window=DEDUPLICATION_WINDOW,
        holder=services.worker,
        positions=lambda: _closed_positions(feed),
        read=_reader(feed.log) if feed.log is not None else None,
    )
    replay = Replay(datasource, schema_revision(datasource), needs)
    if arguments.check:
        return await replay.check(arguments.selection())
    return await replay.run(arguments.selection())


def _reader(log: LogFacts) -> ReadLog:
    """Reads records again, unless the topic was made anew: its records are others then."""

    async def read(place: Place, first: int, next_: int) -> Sequence[Chunk]:
        for facts in await log.partitions(place.topic):
            if (facts.stream, facts.partition.number) == (place.stream, place.partition):
                return await log.read(facts.partition, first, next_)
        return ()

    return read


async def _closed_positions(feed: Feed) -> dict[tuple[int, int], int]:
    """Up to where the group is done, by stream and partition."""
    if feed.log is None:
        return {}
    positions = await feed.log.positions(feed.group, feed.topic)
    return {
        (f.stream, f.partition.number): positions[f.partition.number].offset
        for f in await feed.log.partitions(feed.topic)
        if f.partition.number in positions
    }


async def purge_quarantine(services: OperatorServices, arguments: PurgeArguments) -> PurgeResult:
    """Remove the rows that match, for good.

    Raises:
        BadRequestError: Not confirmed, or a filter cannot be read.
        NotFoundError: No such data source.
    """
    datasource = await services.datasource(arguments.datasource)
    table = _table(services, datasource)
    matching = await _count(services, table, arguments)
    if not arguments.yes:
        raise BadRequestError(
            f"{matching} rows would be removed for good.", hint="Say --yes to do it."
        )
    where, parameters = conditions(arguments.selection())
    if matching:
        await services.clickhouse.execute(
            Statement(sql=f"DELETE FROM {table} WHERE {where}", parameters=parameters)
        )
    return PurgeResult(is_ok=True, datasource=datasource.name, purged=matching)


def _seconds(text: str, name: str) -> int | None:
    if not text:
        return None
    try:
        at = datetime.fromisoformat(text)
    except ValueError as error:
        raise BadRequestError(
            f"'{text}' is not a time for {name}.", hint="For instance 2026-01-31T10:00."
        ) from error
    return int((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp())
