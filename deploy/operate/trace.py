"""``trace``: where one record is, in every data source that reads its topic."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal

from msgspec import Struct

from deploy.operate.ask import ask
from deploy.operate.evidence import standings
from deploy.operate.ranges import of_runs
from deploy.operate.services import Feed, OperatorServices
from deploy.operate.verdict import Standing
from ingest.ledger import Recorded
from ingest.log.facts import PartitionFacts
from ingest.quarantine import QUARANTINE_SUFFIX
from ingest.worker import takes_events
from shared.clickhouse.sql import ParameterValue, quote_table
from shared.errors import BadRequestError, NotFoundError
from shared.model.identity import carries_identity
from shared.model.resources import Datasource

Place = Literal[
    "not written",
    "not read",
    "in a batch",
    "stored",
    "quarantined",
    "not a row",
    "lost",
    "missing",
    "unknown",
]


class TraceArguments(Struct, frozen=True, forbid_unknown_fields=True):
    """``record`` is ``<topic>:<partition>:<offset>``."""

    record: str


class Sighting(Struct, frozen=True, kw_only=True):
    """Where the record is for one data source; ``detail`` is one line for people.

    ``at`` is when it was stored or quarantined, UTC, empty where that is not known.
    """

    datasource: str
    place: Place
    detail: str
    table: str = ""
    at: str = ""
    token: str = ""


class TraceResult(Struct, frozen=True, kw_only=True):
    """A record's places; ``is_ok``: it is lost or missing nowhere."""

    is_ok: bool
    topic: str
    partition: int
    offset: int
    sightings: tuple[Sighting, ...]


class Record(Struct, frozen=True):
    """The place of a record in the log."""

    topic: str
    partition: int
    offset: int


def parse_record(text: str) -> Record:
    """The parts of ``<topic>:<partition>:<offset>``.

    Raises:
        BadRequestError: It has another form.
    """
    topic, _, rest = text.strip().partition(":")
    partition, _, offset = rest.partition(":")
    if not (topic and partition.isdecimal() and offset.isdecimal()):
        raise BadRequestError(
            f"'{text}' is not <topic>:<partition>:<offset>.",
            hint="For instance events.page_views:0:1234.",
        )
    return Record(topic, int(partition), int(offset))


async def trace(services: OperatorServices, arguments: TraceArguments) -> TraceResult:
    """Look for one record.

    Raises:
        BadRequestError: The record is not named well.
        NotFoundError: Nothing reads that topic, or it has no such partition.
    """
    record = parse_record(arguments.record)
    fed = await services.fed_datasources()
    feeds = [(d, services.feed(d)) for d in fed if takes_events(d)]
    reading = [(d, f) for d, f in feeds if f.topic == record.topic]
    if not reading:
        topics = ", ".join(sorted({f.topic for _, f in feeds})) or "none"
        raise NotFoundError(
            f"No data source reads topic '{record.topic}'.", hint=f"Topics that are read: {topics}."
        )
    sightings = [await _sighting(services, d, f, record) for d, f in reading]
    return TraceResult(
        is_ok=not any(s.place in ("lost", "missing") for s in sightings),
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        sightings=tuple(sightings),
    )


async def _sighting(
    services: OperatorServices, datasource: Datasource, feed: Feed, record: Record
) -> Sighting:
    facts = await _partition(feed, record)
    standing = (await standings(feed, datasource.name)).get(record.partition, Standing())
    found = None
    if carries_identity(datasource):
        found = await _stored(services, datasource, record, facts)
    found = found or await _quarantined(services, datasource, record, facts)
    if found is not None:
        return found
    entries = await services.ledger.entries(
        datasource.name,
        stream=facts.stream if facts else None,
        partition=record.partition,
        overlapping=(record.offset, record.offset + 1),
    )
    place, detail, token = _elsewhere(datasource, record, facts, standing, entries)
    return Sighting(datasource=datasource.name, place=place, detail=detail, token=token)


async def _partition(feed: Feed, record: Record) -> PartitionFacts | None:
    if feed.log is None:
        return None
    found = await feed.log.partitions(record.topic)
    for facts in found:
        if facts.partition.number == record.partition:
            return facts
    if not found:
        raise NotFoundError(f"Topic '{record.topic}' does not exist yet: nothing was sent to it.")
    raise NotFoundError(
        f"Topic '{record.topic}' has no partition {record.partition}.",
        hint=f"It has {len(found)}, numbered from 0.",
    )


class _Row(Struct):
    at: str
    copies: int


def _identity(record: Record, facts: PartitionFacts | None) -> dict[str, ParameterValue]:
    return {
        "any_stream": facts is None,
        "stream": facts.stream if facts else 0,
        "partition": record.partition,
        "offset": record.offset,
    }


_IS_RECORD = (
    "({any_stream:Bool} OR __stream = {stream:UInt64}) AND __stream != 0"
    " AND __partition = {partition:Int32} AND __offset = {offset:Int64}"
)


async def _stored(
    services: OperatorServices, datasource: Datasource, record: Record, facts: PartitionFacts | None
) -> Sighting | None:
    database, table = services.clickhouse.database, datasource.name
    rows = await ask(
        services.clickhouse,
        _Row,
        "SELECT toString(min(p.modification_time)) AS at, count() AS copies FROM"
        f" (SELECT _part AS part FROM {quote_table(database, table)} WHERE {_IS_RECORD}) AS r"
        " LEFT JOIN (SELECT name, modification_time FROM system.parts WHERE active"
        " AND database = {database:String} AND table = {table:String}) AS p ON p.name = r.part",
        {**_identity(record, facts), "database": database, "table": table},
    )
    if not rows or not rows[0].copies:
        return None
    batches = await services.ledger.entries(
        datasource.name,
        kinds=("batch",),
        stream=facts.stream if facts else None,
        partition=record.partition,
        overlapping=(record.offset, record.offset + 1),
    )
    copies = rows[0].copies
    # A merge writes rows anew; the ledger knows when they came.
    at = _text(batches[-1].at_ms) if batches else rows[0].at
    return Sighting(
        datasource=datasource.name,
        place="stored",
        detail=f"In table {table} since {at} UTC." + (f" {copies} times." if copies > 1 else ""),
        table=table,
        at=at,
        token=batches[-1].token if batches else "",
    )


class _Reason(Struct):
    at: str
    columns: list[str]
    messages: list[str]


async def _quarantined(
    services: OperatorServices, datasource: Datasource, record: Record, facts: PartitionFacts | None
) -> Sighting | None:
    name = datasource.name + QUARANTINE_SUFFIX
    rows = await ask(
        services.clickhouse,
        _Reason,
        "SELECT toString(insertion_date) AS at, c__error_column AS columns, c__error AS messages"
        f" FROM {quote_table(services.clickhouse.database, name)} FINAL WHERE {_IS_RECORD}",
        _identity(record, facts),
    )
    if not rows:
        return None
    row = rows[0]
    pairs = zip(row.columns, row.messages, strict=False)
    reasons = "; ".join(f"{column}: {message}" if column else message for column, message in pairs)
    return Sighting(
        datasource=datasource.name,
        place="quarantined",
        detail=f"In {name} since {row.at} UTC: {reasons}",
        table=name,
        at=row.at,
    )


def _elsewhere(
    datasource: Datasource,
    record: Record,
    facts: PartitionFacts | None,
    standing: Standing,
    entries: list[Recorded],
) -> tuple[Place, str, str]:
    """Place, detail and token of a record that neither table nor quarantine has."""
    offset = record.offset
    if facts is not None and offset >= facts.end:
        return "not written", f"The log ends at {facts.end}.", ""
    position = standing.offset
    if position is not None and position <= offset < (standing.next or position):
        begun = _text(standing.declared_ms)
        detail = f"In the range {position}-{standing.next}, begun {begun} UTC and not finished."
        return "in a batch", detail, standing.token
    gap = next((e for e in entries if e.kind == "gap"), None)
    if gap is not None:
        return "lost", gap.note, ""
    batch = next((e for e in entries if e.kind == "batch"), None)
    if batch is not None:
        return _in_batch(datasource, offset, batch)
    is_read = position is not None and offset < position
    if facts is not None and offset < facts.start:
        end = "read before it was recorded" if is_read else "never read"
        detail = f"The log begins at {facts.start} by now; the record was {end}."
        return ("unknown" if is_read else "lost"), detail, ""
    if facts is None:
        return "unknown", "Neither stored nor in quarantine; the log was not asked.", ""
    if not is_read:
        return "not read", f"The group stands at {position if position is not None else '-'}.", ""
    if carries_identity(datasource) and not datasource.engine.ttl:
        return "missing", f"Below the committed position {position}, stored nowhere.", ""
    return "unknown", f"Below the committed position {position}; {_silence(datasource)}", ""


def _in_batch(datasource: Datasource, offset: int, batch: Recorded) -> tuple[Place, str, str]:
    when = f"The range {batch.first}-{batch.next} was completed {_text(batch.at_ms)} UTC"
    absent = any(r.first <= offset < r.next for r in of_runs(batch.absent))
    if absent:
        detail = f"{when}; this offset was no row: a tombstone, a hole, or removed from quarantine."
        return "not a row", detail, batch.token
    if not carries_identity(datasource):
        return "stored", f"{when}; {_silence(datasource)}", batch.token
    if datasource.engine.ttl or "Replacing" in datasource.engine.name:
        return "unknown", f"{when}; {_silence(datasource)}", batch.token
    return "missing", f"{when}, and the table does not hold the row: deleted, or lost.", batch.token


def _silence(datasource: Datasource) -> str:
    """Why the table cannot tell."""
    if not carries_identity(datasource):
        return f"{datasource.engine.name} adds rows up, so single rows cannot be found in it."
    if "Replacing" in datasource.engine.name:
        return "a newer row may have taken its place."
    return "it may have expired."


def _text(at_ms: int) -> str:
    return f"{datetime.fromtimestamp(at_ms / 1000, UTC):%Y-%m-%d %H:%M:%S}"
