"""How a data source stands with its log: what is open, held or late, and how safe the topic is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from deploy.operate.evidence import standings
from deploy.operate.guarantee import Level, duration
from deploy.operate.health import Check
from deploy.operate.services import Feed, OperatorServices
from deploy.operate.verdict import Standing
from ingest.entries import EVERY_PARTITION
from ingest.ledger import Recorded
from ingest.log.facts import LogFacts, LogTraits, PartitionFacts
from shared.errors import UnavailableError
from shared.model.resources import Datasource

# A range takes less than a second; one that is open for longer waits for something.
LONG_OPEN_S = 60
# How long the end of a pipeline may take.
STOPPING_MS = 20_000
# Share of the retention that the oldest record not yet stored may have used up.
LATE_SHARE, LOSING_SHARE = 0.5, 0.9


async def feed_checks(services: OperatorServices, datasource: Datasource) -> list[Check]:
    """Everything that can be asked of the log about one data source."""
    feed = services.feed(datasource)
    if feed.log is None:
        return []
    try:
        return await _checks(services, datasource, feed, feed.log)
    except UnavailableError as error:
        return [
            Check(
                subject=datasource.name,
                level="bad",
                text=f"Its log cannot be asked: {error.message}",
                fix=error.hint or "See that the log runs.",
            )
        ]


async def _checks(
    services: OperatorServices, datasource: Datasource, feed: Feed, log: LogFacts
) -> list[Check]:
    traits = await log.traits(feed.topic)
    partitions = await log.partitions(feed.topic)
    stands = await standings(feed, datasource.name)
    alarms = await services.ledger.entries(datasource.name, kinds=("alarm",))
    now_ms = services.clock.now_ms()
    checks = [*trait_checks(feed.topic, traits)]
    checks += await _stopped(services, datasource.name, alarms)
    for facts in partitions:
        standing = stands.get(facts.partition.number, Standing())
        checks += open_checks(datasource.name, facts, standing, alarms, now_ms)
        checks += await _retention(datasource.name, log, facts, standing, traits, now_ms)
    late = sum(_waiting(f, stands) for f in partitions)
    text = f"{len(partitions)} partitions of {feed.topic}, {late:,} records not stored yet."
    return [*checks, Check(subject=datasource.name, level="ok", text=text)]


async def _stopped(
    services: OperatorServices, datasource: str, alarms: Sequence[Recorded]
) -> list[Check]:
    """Whether the pipeline stopped by itself and nothing was stored since."""
    stops = [alarm for alarm in alarms if alarm.partition == EVERY_PARTITION]
    if not stops:
        return []
    # Ranges that were under way are completed after the stop.
    stored = await services.ledger.batches_since(stops[-1].at_ms + STOPPING_MS)
    if stored.get(datasource):
        return []
    return [
        Check(
            subject=datasource,
            level="bad",
            text=f"A worker stopped reading: {stops[-1].note}.",
            fix="Mend the data source or the producer, then deploy or start the workers again.",
        )
    ]


def _waiting(facts: PartitionFacts, stands: Mapping[int, Standing]) -> int:
    position = stands.get(facts.partition.number, Standing()).offset
    return facts.end - (facts.start if position is None else max(position, facts.start))


def open_checks(
    datasource: str,
    facts: PartitionFacts,
    standing: Standing,
    alarms: Sequence[Recorded],
    now_ms: int,
) -> list[Check]:
    """What an open range means; plain code."""
    if standing.offset is None:
        return []
    place = f"{facts.partition.topic}:{facts.partition.number}"
    if facts.end < (standing.next or standing.offset):
        return [
            Check(
                subject=datasource,
                level="bad",
                text=f"{place} ends at {facts.end}, before the committed {standing.offset}: the log"
                " lost records that were delivered, and offsets may be used again.",
                fix="Find out what happened to the topic before anything more is stored.",
            )
        ]
    if standing.next is None:
        return []
    here = (facts.partition.number, facts.stream, standing.offset)
    notes = [a.note for a in alarms if (a.partition, a.stream, a.first) == here]
    if notes:
        return [
            Check(
                subject=datasource,
                level="bad",
                text=f"{place} is held at {standing.offset}: {notes[-1]}.",
                fix="See 'pipehouse partitions' and 'pipehouse resolve'.",
            )
        ]
    return _long_open(datasource, place, standing, (now_ms - standing.declared_ms) / 1000)


def _long_open(datasource: str, place: str, standing: Standing, age_s: float) -> list[Check]:
    if age_s < LONG_OPEN_S:
        return []
    return [
        Check(
            subject=datasource,
            level="warning",
            text=f"{place}: the range {standing.offset}-{standing.next} is open for"
            f" {duration(age_s)}: no worker runs, or something refuses its rows.",
            fix="The log of the worker says what it waits for.",
        )
    ]


def trait_checks(topic: str, traits: LogTraits) -> list[Check]:
    """What the broker's settings mean; plain code."""
    found: list[tuple[Level, str, str]] = []
    if traits.replication_factor == 1:
        found.append(
            (
                "warning",
                "is kept by one broker only: what it loses is lost.",
                "Use a replication factor of 3.",
            )
        )
    elif traits.replication_factor and (traits.min_insync_replicas or 1) < 2:
        found.append(
            (
                "warning",
                "accepts records that only one replica has: an acknowledged event can be lost.",
                "Set min.insync.replicas to 2.",
            )
        )
    if traits.unclean_leader_election:
        found.append(
            (
                "warning",
                "may be led by a replica that lacks records (unclean.leader.election.enable):"
                " offsets would be used again for other records, which nothing can mend.",
                "Set it to false.",
            )
        )
    if traits.compacted:
        found.append(
            ("warning", "is compacted: records may go before they are read.", "Use delete.")
        )
    return [
        Check(subject=topic, level=level, text=f"The topic {text}", fix=fix)
        for level, text, fix in found
    ]


async def _retention(
    datasource: str,
    log: LogFacts,
    facts: PartitionFacts,
    standing: Standing,
    traits: LogTraits,
    now_ms: int,
) -> list[Check]:
    """Whether what is not stored yet is about to leave the log."""
    position = standing.offset if standing.offset is not None else facts.start
    if traits.retention_s is None or position >= facts.end:
        return []
    place = f"{facts.partition.topic}:{facts.partition.number}"
    if position < facts.start:
        return [
            Check(
                subject=datasource,
                level="bad",
                text=f"{place} begins at {facts.start}, behind the committed {position}:"
                f" {facts.start - position:,} records left the log before they were stored.",
                fix="They become a recorded gap; give the topic a longer retention.",
            )
        ]
    chunks = await log.read(facts.partition, position, position + 1)
    times = [at for chunk in chunks for at in chunk.timestamps_ms]
    if not times:
        return []
    age_s = (now_ms - times[0]) / 1000
    if age_s < LATE_SHARE * traits.retention_s:
        return []
    return [
        Check(
            subject=datasource,
            level="bad" if age_s > LOSING_SHARE * traits.retention_s else "warning",
            text=f"{place}: the oldest record not stored is {duration(age_s)} old, and the topic"
            f" keeps records for {duration(traits.retention_s)}.",
            fix="Start more workers, or give the topic a longer retention.",
        )
    ]
