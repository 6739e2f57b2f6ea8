"""``partitions`` and ``resolve``: which partitions wait for a person, and how they go on.

A partition is held where going on by itself would lose or double rows: the log lost a part of the
range that was being inserted, or the table has a part of it and no longer remembers its token.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from msgspec import Struct, structs

from deploy.operate.evidence import gather, look_up, standings
from deploy.operate.ranges import Range, Ranges, clip, size, subtract, union
from deploy.operate.repair import Repair, Repaired, require_no_deletions, require_repairable
from deploy.operate.services import Feed, OperatorServices
from deploy.operate.verdict import Standing
from ingest.lease import Lease, take_lease
from ingest.ledger import LedgerEntry, Recorded
from ingest.log.facts import LogFacts, PartitionFacts, Position
from ingest.messages import decode_metadata
from shared.clock import Deadline
from shared.errors import BadRequestError, NotFoundError, UnavailableError
from shared.model.resources import Datasource

PAUSE_TIMEOUT_S = 20.0

Way = Literal["skip", "insert-missing"]


class PartitionsArguments(Struct, frozen=True, forbid_unknown_fields=True):
    """Of one data source, or of all."""

    datasource: str = ""


class PartitionState(Struct, frozen=True, kw_only=True):
    """Where one partition stands; ``held_because`` is empty where it goes on by itself."""

    datasource: str
    topic: str
    partition: int
    position: int | None
    in_flight: Range | None
    waiting: int
    held_because: str


class PartitionsResult(Struct, frozen=True, kw_only=True):
    """``is_ok``: none is held."""

    is_ok: bool
    partitions: tuple[PartitionState, ...]


class ResolveArguments(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``skip``: what is not stored becomes a recorded gap. ``insert-missing``: store it first."""

    datasource: str
    partition: int
    way: Way


class ResolveResult(Struct, frozen=True, kw_only=True):
    """What became of the range; ``gap`` are offsets that were given up."""

    is_ok: bool
    datasource: str
    partition: int
    offsets: Range
    stored_before: int
    repaired: Repaired | None
    gap: Ranges


async def list_partitions(
    services: OperatorServices, arguments: PartitionsArguments
) -> PartitionsResult:
    """Every partition that is read, the held ones first.

    Raises:
        NotFoundError: No such data source.
        LogUnavailableError: The log does not answer.
    """
    states: list[PartitionState] = []
    for datasource in await services.fed_datasources(arguments.datasource):
        states += await _states(services, datasource)
    states.sort(key=lambda s: (not s.held_because, s.datasource, s.partition))
    return PartitionsResult(is_ok=not any(s.held_because for s in states), partitions=tuple(states))


async def _states(services: OperatorServices, datasource: Datasource) -> list[PartitionState]:
    feed = services.feed(datasource)
    log = _log(feed)
    stands = await standings(feed, datasource.name)
    alarms = await services.ledger.entries(datasource.name, kinds=("alarm",))
    found = []
    for facts in await log.partitions(feed.topic):
        number = facts.partition.number
        standing = stands.get(number, Standing())
        held_because = _alarm(facts, standing, alarms)
        if services.ingestion is not None:
            # The pipelines of this process know better.
            held_because = services.ingestion.held.get(facts.partition, "")
        found.append(_state(datasource, facts, standing, held_because))
    return found


def _alarm(facts: PartitionFacts, standing: Standing, alarms: Sequence[Recorded]) -> str:
    """Why a partition waits, as far as the ledger knows."""
    is_before_end = standing.offset is not None and standing.offset <= facts.end
    if standing.next is None and is_before_end:
        return ""
    place = (facts.partition.number, facts.stream, standing.offset or 0)
    notes = [a.note for a in alarms if (a.partition, a.stream, a.first) == place]
    return notes[-1] if notes else ""


def _state(
    datasource: Datasource, facts: PartitionFacts, standing: Standing, held_because: str
) -> PartitionState:
    position = standing.offset
    open_range = None
    if position is not None and standing.next is not None:
        open_range = Range(position, standing.next)
    return PartitionState(
        datasource=datasource.name,
        topic=facts.partition.topic,
        partition=facts.partition.number,
        position=position,
        in_flight=open_range,
        waiting=max(0, facts.end - (facts.start if position is None else position)),
        held_because=held_because,
    )


def _log(feed: Feed) -> LogFacts:
    if feed.log is None:
        raise UnavailableError(
            "The log is not known here.",
            hint="Set PIPEHOUSE_KAFKA_BOOTSTRAP_SERVERS, or ask a running server.",
        )
    return feed.log


async def resolve(services: OperatorServices, arguments: ResolveArguments) -> ResolveResult:
    """Let a held partition go on behind its range.

    Raises:
        NotFoundError: No such data source or partition.
        BadRequestError: The partition is not held, or the table cannot tell what it lacks.
        ConflictError: A worker of another process still reads.
    """
    datasource = await services.datasource(arguments.datasource)
    if arguments.way == "insert-missing":
        require_repairable(datasource)
    states = await _states(services, datasource)
    state = next((s for s in states if s.partition == arguments.partition), None)
    if state is None:
        raise NotFoundError(f"{datasource.name} reads no partition {arguments.partition}.")
    if not state.held_because:
        raise BadRequestError(
            f"Partition {arguments.partition} of {datasource.name} is not held.",
            hint="A range that is open is completed by a worker; see 'pipehouse partitions'.",
        )
    name = f"repair of {services.clickhouse.database}.{datasource.name}"
    async with take_lease(services.clickhouse, services.clock, name, services.worker) as lease:
        if services.ingestion is not None:
            await services.ingestion.pause(
                [datasource.name], Deadline(services.clock, PAUSE_TIMEOUT_S)
            )
        try:
            return await _resolve(services, datasource, arguments, lease)
        finally:
            if services.ingestion is not None:
                services.ingestion.resume([datasource.name])


async def _resolve(
    services: OperatorServices,
    datasource: Datasource,
    arguments: ResolveArguments,
    lease: Lease,
) -> ResolveResult:
    feed = services.feed(datasource)
    log = _log(feed)
    gathered = await gather(services, datasource, asks_log=False)
    found = next(
        p for p in gathered.partitions if p.facts and p.origin.partition == arguments.partition
    )
    facts, after = found.facts, found.evidence.after
    assert facts is not None
    if after.offset is None or after.next is None:
        raise BadRequestError(
            f"Partition {arguments.partition} of {datasource.name} has no open range that could be"
            " given up: it waits at its position.",
            hint="Stop the workers and move the group with Kafka's own tools, then start them.",
        )
    whole = Range(after.offset, after.next)
    position = (await log.positions(feed.group, feed.topic))[arguments.partition]
    # Committed once as it is: this is refused while a worker reads elsewhere.
    await log.move(feed.group, facts.partition, position)
    held = clip(found.evidence.held.offsets, whole.first, whole.next)
    missing = subtract([whole], union(held, found.evidence.quarantined))
    blank, readable = await look_up(feed, facts, missing)
    missing = subtract(missing, blank)
    repaired = None
    if arguments.way == "insert-missing" and readable:
        require_no_deletions(datasource, gathered.deletions, readable, after.declared_ms)
        repair = Repair(services, datasource, feed, facts.stream, lease)
        repaired = await repair.store(facts.partition, readable)
        missing = subtract(missing, readable)
    await _record_gap(services, datasource, facts, missing)
    metadata = decode_metadata(position.metadata)
    assert metadata is not None
    closed = structs.replace(metadata, intent=None).encode()
    await log.move(feed.group, facts.partition, Position(offset=whole.next, metadata=closed))
    return ResolveResult(
        is_ok=True,
        datasource=datasource.name,
        partition=arguments.partition,
        offsets=whole,
        stored_before=size(held),
        repaired=repaired,
        gap=missing,
    )


async def _record_gap(
    services: OperatorServices, datasource: Datasource, facts: PartitionFacts, gap: Ranges
) -> None:
    """Write down what is given up, before the position moves past it."""
    entries = [
        LedgerEntry(
            kind="gap",
            datasource=datasource.name,
            topic=facts.partition.topic,
            partition=facts.partition.number,
            stream=facts.stream,
            first=item.first,
            next=item.next,
            at_ms=services.clock.now_ms(),
            note="given up when an operator let the held partition go on",
        )
        for item in gap
    ]
    if entries:
        await services.ledger.prepare()
        await services.ledger.write(entries, worker=services.worker)
