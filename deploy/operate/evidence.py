"""Gathers what tables, quarantine, ledger and log say about the partitions of a data source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from msgspec import Struct, structs

from deploy.operate.ask import ask
from deploy.operate.held import Extent, Held, HeldOffsets, Origin
from deploy.operate.ranges import Range, Ranges, clip, intersect, of_offsets, subtract, union
from deploy.operate.services import Feed, OperatorServices
from deploy.operate.verdict import Evidence, Standing, standing, unaccounted
from ingest.chunk import Chunk
from ingest.ledger import Recorded
from ingest.log.facts import PartitionFacts
from ingest.messages import decode_metadata
from ingest.quarantine import QUARANTINE_SUFFIX
from shared.model.identity import carries_identity
from shared.model.resources import Datasource

# What is looked for in the log, at most, where tables and ledger do not account for offsets.
MOST_LOOKED_UP = 1_000_000
NEAR, MOST_AT_ONCE = 1_000, 50_000
# Entries of the ledger that are read at once, and batches that are kept as one.
PAGE_ENTRIES = 50_000
BUNDLE_BATCHES = 1_000


class PartitionEvidence(Struct, frozen=True, kw_only=True):
    """One partition of one stream; ``facts`` is None where the log has another stream by now."""

    origin: Origin
    facts: PartitionFacts | None
    evidence: Evidence

    @property
    def alarm(self) -> str:
        """Why the partition waits for a person; empty where it does not."""
        after, facts = self.evidence.after, self.facts
        is_ended = facts is not None and (after.offset is None or after.offset > facts.end)
        if after.next is None and not is_ended:
            return ""
        place = after.offset or 0
        alarms = [e for e in self.evidence.recorded if e.kind == "alarm" and e.first == place]
        return alarms[-1].note if alarms else ""


class Deletions(Struct, frozen=True, kw_only=True):
    """What is known of rows that were deleted on purpose; ``at_ms`` is 0 where none were."""

    at_ms: int = 0
    text: str = ""


class Gathered(Struct, frozen=True, kw_only=True):
    """What is known of a data source; ``strangers`` are rows that came from no log."""

    partitions: tuple[PartitionEvidence, ...]
    strangers: int
    deletions: Deletions


async def gather(
    services: OperatorServices, datasource: Datasource, *, asks_log: bool = True
) -> Gathered:
    """Ask everything, in the order that makes the answers fit while delivery goes on.

    What lies below the positions from before must be in the tables; a replay moves rows from
    quarantine to the table, so quarantine is asked first. With ``asks_log`` the log is asked about
    offsets that nothing else accounts for.
    """
    feed = services.feed(datasource)
    facts = {f.partition.number: f for f in await _partitions(feed)}
    before = await standings(feed, datasource.name)
    quarantined = await _quarantined(services, datasource)
    held = await _held(services, datasource)
    after = await standings(feed, datasource.name)
    begins_with_log = await _begins_with_log(feed)
    deletions = await deletions_of(services, datasource)
    found = []
    origins = {*held, *quarantined, *(Origin(f.stream, n) for n, f in facts.items())}
    for origin in sorted(o for o in origins if o.stream):
        number = origin.partition
        current = facts.get(number)
        if current is not None and current.stream != origin.stream:
            current = None
        recorded = await _recorded(services, datasource, origin)
        evidence = Evidence(
            held=held.get(origin, Held()),
            quarantined=quarantined.get(origin, ()),
            recorded=recorded,
            before=before.get(number, Standing()) if current else Standing(),
            after=after.get(number, Standing()) if current else Standing(),
            log=Range(current.start, current.end) if current else None,
            begins_with_log=begins_with_log,
            deletions=deletions.text,
        )
        if asks_log and current is not None and carries_identity(datasource):
            evidence = await _look_up(feed, current, evidence)
        found.append(PartitionEvidence(origin=origin, facts=current, evidence=evidence))
    strangers = sum(h.rows for o, h in held.items() if not o.stream)
    return Gathered(partitions=tuple(found), strangers=strangers, deletions=deletions)


async def _recorded(
    services: OperatorServices, datasource: Datasource, origin: Origin
) -> tuple[Recorded, ...]:
    """What the ledger has of a partition, batches in bundles: there may be millions of them."""
    read = partial(
        services.ledger.entries,
        datasource.name,
        stream=origin.stream,
        partition=origin.partition,
    )
    others = await read(kinds=("gap", "start", "alarm", "repair"))
    bundles: list[Recorded] = []
    low = -1
    while True:
        page = await read(kinds=("batch",), overlapping=(low, 1 << 62), limit=PAGE_ENTRIES)
        bundles += bundled(page)
        if len(page) < PAGE_ENTRIES or page[-1].first <= low:
            return (*others, *bundles)
        # Those that share an offset with the last one come once more, which does no harm.
        low = page[-1].first


def bundled(batches: Sequence[Recorded]) -> list[Recorded]:
    """Batches that follow each other as one, ``BUNDLE_BATCHES`` at most."""
    found: list[list[Recorded]] = []
    for batch in batches:
        last = found[-1] if found else []
        if last and last[-1].next == batch.first and len(last) < BUNDLE_BATCHES:
            last.append(batch)
        else:
            found.append([batch])
    return [
        structs.replace(
            several[0],
            next=several[-1].next,
            absent=tuple(run for batch in several for run in batch.absent),
            at_ms=min(batch.at_ms for batch in several),
        )
        for several in found
    ]


async def _begins_with_log(feed: Feed) -> bool:
    """Whether reading began with the first record: the embedded log is never read from later."""
    return feed.log is not None and (await feed.log.traits(feed.topic)).kind == "embedded log"


async def _partitions(feed: Feed) -> Sequence[PartitionFacts]:
    return () if feed.log is None else await feed.log.partitions(feed.topic)


async def standings(feed: Feed, datasource: str) -> Mapping[int, Standing]:
    """Where the group of a data source stands, by partition."""
    if feed.log is None:
        return {}
    positions = await feed.log.positions(feed.group, feed.topic)
    return {
        number: standing(datasource, position.offset, decode_metadata(position.metadata))
        for number, position in positions.items()
    }


async def _held(services: OperatorServices, datasource: Datasource) -> dict[Origin, Held]:
    """What the table holds, by origin."""
    if not carries_identity(datasource):
        return {}
    table = HeldOffsets(services.clickhouse, datasource.name)
    found = {e.origin: await _of(table, e) for e in await table.extents()}
    if "Replacing" in datasource.engine.name:
        # The same offset twice is one row after a merge.
        found = {o: structs.replace(h, doubled=()) for o, h in found.items()}
    return found


async def _quarantined(services: OperatorServices, datasource: Datasource) -> dict[Origin, Ranges]:
    """What quarantine holds, by origin."""
    name = datasource.name + QUARANTINE_SUFFIX
    table = HeldOffsets(services.clickhouse, name, final=True)
    return {e.origin: (await _of(table, e)).offsets for e in await table.extents()}


async def _of(table: HeldOffsets, extent: Extent) -> Held:
    if not extent.stream:
        return Held(rows=extent.rows)
    return await table.held(extent.origin)


class _Mutation(Struct):
    at: str
    at_ms: int
    count: int


async def deletions_of(services: OperatorServices, datasource: Datasource) -> Deletions:
    """When rows of a table were deleted last; the engine remembers its last statements only."""
    rows = await ask(
        services.clickhouse,
        _Mutation,
        "SELECT toString(max(create_time)) AS at,"
        " toUnixTimestamp(max(create_time)) * 1000 AS at_ms, count() AS count FROM system.mutations"
        " WHERE database = {database:String} AND table = {table:String}"
        " AND (command LIKE '%DELETE%' OR command LIKE '%_row_exists = 0%')",
        {"database": services.clickhouse.database, "table": datasource.name},
    )
    if not rows or not rows[0].count:
        return Deletions()
    text = f"Rows of the table were deleted by statements, last at {rows[0].at} UTC."
    return Deletions(at_ms=rows[0].at_ms, text=text)


async def _look_up(feed: Feed, facts: PartitionFacts, evidence: Evidence) -> Evidence:
    blank, readable = await look_up(feed, facts, unaccounted(evidence))
    return structs.replace(evidence, blank=blank, readable=readable)


async def look_up(feed: Feed, facts: PartitionFacts, offsets: Ranges) -> tuple[Ranges, Ranges]:
    """Where the log has nothing that could be a row, and where it has something.

    Offsets that it does not have any more are in neither, nor those beyond ``MOST_LOOKED_UP``.
    """
    assert feed.log is not None
    blank: list[Range] = []
    readable: list[Range] = []
    left = MOST_LOOKED_UP
    for near in _near_each_other(clip(offsets, facts.start, facts.end)):
        first, next_ = near[0].first, min(near[-1].next, near[0].first + left)
        left -= next_ - first
        chunks = await feed.log.read(facts.partition, first, next_)
        there = of_offsets(_with_value(chunks))
        asked = clip(near, first, next_)
        readable += intersect(asked, there)
        blank += subtract(asked, there)
        if left <= 0:
            break
    return union(blank), union(readable)


def _near_each_other(pieces: Ranges) -> list[list[Range]]:
    """Pieces that are read in one request: what lies between costs less than one more."""
    found: list[list[Range]] = []
    for piece in pieces:
        last = found[-1] if found else []
        is_near = last and piece.first - last[-1].next < NEAR
        if is_near and piece.next - last[0].first <= MOST_AT_ONCE:
            last.append(piece)
        else:
            found.append([piece])
    return found


def _with_value(chunks: Sequence[Chunk]) -> list[int]:
    return [
        offset
        for chunk in chunks
        for offset, value in zip(chunk.offsets, chunk.values, strict=True)
        if value is not None
    ]
