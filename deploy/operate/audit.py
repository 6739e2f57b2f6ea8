"""``audit``: proves that every offset was stored once, or names those that were not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec import Struct, structs

from deploy.operate.ask import ask
from deploy.operate.held import Extent, Held, HeldOffsets, Origin
from deploy.operate.ranges import Range, Ranges, of_offsets, subtract, union
from deploy.operate.services import Feed, OperatorServices
from deploy.operate.verdict import Evidence, Standing, Verdict, judge, standing, unaccounted
from ingest.chunk import Chunk
from ingest.log.facts import PartitionFacts
from ingest.messages import decode_metadata
from ingest.quarantine import QUARANTINE_SUFFIX
from ingest.worker import takes_events
from shared.errors import BadRequestError
from shared.model.identity import carries_identity
from shared.model.resources import Datasource

# What is looked for in the log, at most, where tables and ledger do not account for offsets.
MOST_LOOKED_UP = 1_000_000


class AuditArguments(Struct, frozen=True, forbid_unknown_fields=True):
    """Of one data source, or of all that read events."""

    datasource: str = ""


class PartitionAudit(Struct, frozen=True, kw_only=True):
    """One partition of one stream; ``is_current``: the one that the topic has now.

    ``held_because`` is why it waits for a person, empty where it does not.
    """

    partition: int
    stream: int
    is_current: bool
    position: int | None
    verdict: Verdict
    held_because: str = ""


class DatasourceAudit(Struct, frozen=True, kw_only=True):
    """One data source; ``is_proven``: each offset is accounted for once.

    ``notes`` say what cannot be proven, and why.
    """

    datasource: str
    topic: str
    is_ok: bool
    is_proven: bool
    notes: tuple[str, ...]
    partitions: tuple[PartitionAudit, ...] = ()


class AuditResult(Struct, frozen=True, kw_only=True):
    """Everything that was asked about."""

    is_ok: bool
    datasources: tuple[DatasourceAudit, ...]


async def audit(services: OperatorServices, arguments: AuditArguments) -> AuditResult:
    """Look at tables, quarantine, ledger and log.

    Raises:
        NotFoundError: No such data source.
        BadRequestError: It reads no events.
    """
    datasources = await services.fed_datasources(arguments.datasource)
    for datasource in datasources:
        if not takes_events(datasource):
            raise BadRequestError(
                f"Data source '{datasource.name}' reads no events: a pipe fills it.",
                hint="Audit the data source that the pipe reads.",
            )
    found = [await _audit(services, d) for d in datasources]
    return AuditResult(is_ok=all(d.is_ok for d in found), datasources=tuple(found))


async def _audit(services: OperatorServices, datasource: Datasource) -> DatasourceAudit:
    feed = services.feed(datasource)
    facts = {} if feed.log is None else {f.partition.number: f for f in await _facts(feed)}
    before = await standings(feed, datasource.name)
    tables = _Tables(services, datasource)
    quarantined = await tables.quarantined()
    held = await tables.held()
    after = await standings(feed, datasource.name)
    origins = {*held, *quarantined, *(Origin(f.stream, n) for n, f in facts.items())}
    traits = None if feed.log is None else await feed.log.traits(feed.topic)
    deletions = await _deletions(services, datasource)
    audits = []
    for origin in sorted(o for o in origins if o.stream):
        number = origin.partition
        current = facts.get(number)
        is_current = current is not None and current.stream == origin.stream
        recorded = await services.ledger.entries(
            datasource.name, stream=origin.stream, partition=number
        )
        evidence = Evidence(
            held=held.get(origin, Held()),
            quarantined=quarantined.get(origin, ()),
            recorded=tuple(recorded),
            before=before.get(number, Standing()) if is_current else Standing(),
            after=after.get(number, Standing()) if is_current else Standing(),
            log=Range(current.start, current.end) if current and is_current else None,
            begins_at_zero=traits is not None and traits.kind == "embedded log",
            deletions=deletions,
        )
        if current and is_current and tables.is_provable:
            evidence = await _look_up(feed, current, evidence)
        alarms = [e for e in recorded if e.kind == "alarm" and e.first == evidence.after.offset]
        is_held = bool(alarms) and evidence.after.next is not None
        audits.append(
            PartitionAudit(
                partition=number,
                stream=origin.stream,
                is_current=is_current or feed.log is None,
                position=evidence.after.offset,
                verdict=judge(evidence, rows_vanish=not tables.is_provable),
                held_because=alarms[-1].note if is_held else "",
            )
        )
    notes = (*tables.notes, *_notes(feed, held))
    is_ok = not any(a.verdict.findings or a.held_because for a in audits)
    return DatasourceAudit(
        datasource=datasource.name,
        topic=feed.topic,
        is_ok=is_ok,
        is_proven=is_ok and tables.is_provable and feed.log is not None,
        notes=notes,
        partitions=tuple(audits),
    )


async def _facts(feed: Feed) -> Sequence[PartitionFacts]:
    assert feed.log is not None
    return await feed.log.partitions(feed.topic)


async def standings(feed: Feed, datasource: str) -> Mapping[int, Standing]:
    """Where the group of a data source stands, by partition."""
    if feed.log is None:
        return {}
    positions = await feed.log.positions(feed.group, feed.topic)
    return {
        number: standing(datasource, position.offset, decode_metadata(position.metadata))
        for number, position in positions.items()
    }


class _Tables:
    """What the tables of one data source can be asked."""

    def __init__(self, services: OperatorServices, datasource: Datasource) -> None:
        self._clickhouse = services.clickhouse
        self._datasource = datasource
        self.notes = tuple(_limits(datasource))
        self.is_provable = not self.notes

    async def held(self) -> dict[Origin, Held]:
        """What the table holds, by origin; offsets are not looked at where no row came from one."""
        if not carries_identity(self._datasource):
            return {}
        table = HeldOffsets(self._clickhouse, self._datasource.name)
        found = {}
        for extent in await table.extents():
            found[extent.origin] = await _of(table, extent)
        if "Replacing" in self._datasource.engine.name:
            # Versions of a row are different offsets; the same offset twice goes with a merge.
            found = {o: Held(rows=h.rows, offsets=h.offsets) for o, h in found.items()}
        return found

    async def quarantined(self) -> dict[Origin, Ranges]:
        """What quarantine holds, by origin."""
        name = self._datasource.name + QUARANTINE_SUFFIX
        table = HeldOffsets(self._clickhouse, name, final=True)
        return {e.origin: (await _of(table, e)).offsets for e in await table.extents()}


async def _of(table: HeldOffsets, extent: Extent) -> Held:
    if not extent.stream:
        return Held(rows=extent.rows)
    return await table.held(extent.origin)


def _limits(datasource: Datasource) -> list[str]:
    """Why rows that are not there prove nothing, in words."""
    engine = datasource.engine
    notes = []
    if not carries_identity(datasource):
        notes.append(
            f"{engine.name} keeps no row as it was sent, so its rows carry no offsets: what it"
            " holds cannot be proven. Each range went in under one token."
        )
    elif "Replacing" in engine.name:
        notes.append(
            f"{engine.name} lets newer rows take the place of older ones: that an offset is not"
            " there proves nothing, and an offset that came twice is one row after a merge."
        )
    if engine.ttl:
        notes.append(
            f"Rows expire (TTL {engine.ttl}): that an offset is not there proves nothing. Offsets"
            " that are there twice or too early are found."
        )
    return notes


def _notes(feed: Feed, held: Mapping[Origin, Held]) -> list[str]:
    notes = []
    if feed.log is None:
        notes.append("The log was not asked: what was committed and what is waiting is not known.")
    strangers = sum(h.rows for o, h in held.items() if not o.stream)
    if strangers:
        notes.append(f"{strangers} rows came from no log (copies, inserts by hand).")
    return notes


class _Mutation(Struct):
    at: str
    count: int


async def _deletions(services: OperatorServices, datasource: Datasource) -> str:
    """What is known of rows that were deleted on purpose."""
    rows = await ask(
        services.clickhouse,
        _Mutation,
        "SELECT toString(max(create_time)) AS at, count() AS count FROM system.mutations"
        " WHERE database = {database:String} AND table = {table:String}"
        " AND (command LIKE '%DELETE%' OR command LIKE '%_row_exists = 0%')",
        {"database": services.clickhouse.database, "table": datasource.name},
    )
    if not rows or not rows[0].count:
        return ""
    return f"Rows of the table were deleted by statements, last at {rows[0].at} UTC."


async def _look_up(feed: Feed, facts: PartitionFacts, evidence: Evidence) -> Evidence:
    """Ask the log about offsets that nothing else accounts for."""
    assert feed.log is not None
    blank: list[Range] = []
    readable: list[Range] = []
    left = MOST_LOOKED_UP
    for item in unaccounted(evidence):
        first, next_ = max(item.first, facts.start), min(item.next, facts.end, item.first + left)
        if first >= next_:
            continue
        left -= next_ - first
        chunks = await feed.log.read(facts.partition, first, next_)
        there = of_offsets(_with_value(chunks))
        readable += there
        blank += subtract([Range(first, next_)], there)
    return structs.replace(evidence, blank=union(blank), readable=union(readable))


def _with_value(chunks: Sequence[Chunk]) -> list[int]:
    return [
        offset
        for chunk in chunks
        for offset, value in zip(chunk.offsets, chunk.values, strict=True)
        if value is not None
    ]
