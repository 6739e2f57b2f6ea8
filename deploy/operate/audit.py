"""``audit``: proves that every offset was stored once, or names those that were not."""

from __future__ import annotations

from msgspec import Struct, structs

from deploy.operate.evidence import Gathered, PartitionEvidence, gather
from deploy.operate.repair import Repaired, repair_missing
from deploy.operate.services import Feed, OperatorServices
from deploy.operate.verdict import Verdict, judge
from ingest.worker import takes_events
from shared.errors import BadRequestError
from shared.model.identity import carries_identity
from shared.model.resources import Datasource


class AuditArguments(Struct, frozen=True, forbid_unknown_fields=True):
    """Of one data source, or of all that read events; ``repair``: store what is missing."""

    datasource: str = ""
    repair: bool = False


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
    repairs: tuple[Repaired, ...] = ()


class AuditResult(Struct, frozen=True, kw_only=True):
    """Everything that was asked about."""

    is_ok: bool
    datasources: tuple[DatasourceAudit, ...]


async def audit(services: OperatorServices, arguments: AuditArguments) -> AuditResult:
    """Look at tables, quarantine, ledger and log.

    Raises:
        NotFoundError: No such data source.
        BadRequestError: It reads no events.
        ConflictError: Another repair runs, or a repair would bring deleted rows back.
    """
    datasources = await services.fed_datasources(arguments.datasource)
    for datasource in datasources:
        if not takes_events(datasource):
            raise BadRequestError(
                f"Data source '{datasource.name}' reads no events: a pipe fills it.",
                hint="Audit the data source that the pipe reads.",
            )
    found = []
    for datasource in datasources:
        repairs = await repair_missing(services, datasource) if arguments.repair else ()
        audited = await audit_one(services, datasource)
        found.append(structs.replace(audited, repairs=repairs))
    return AuditResult(is_ok=all(d.is_ok for d in found), datasources=tuple(found))


async def audit_one(services: OperatorServices, datasource: Datasource) -> DatasourceAudit:
    """Look at one data source."""
    feed = services.feed(datasource)
    limits = _limits(datasource)
    gathered = await gather(services, datasource, asks_log=not limits)
    audits = [_judged(p, feed, rows_vanish=bool(limits)) for p in gathered.partitions]
    is_ok = not any(a.verdict.findings or a.held_because for a in audits)
    return DatasourceAudit(
        datasource=datasource.name,
        topic=feed.topic,
        is_ok=is_ok,
        is_proven=is_ok and not limits and feed.log is not None,
        notes=(*limits, *_notes(feed, gathered)),
        partitions=tuple(audits),
    )


def _judged(found: PartitionEvidence, feed: Feed, *, rows_vanish: bool) -> PartitionAudit:
    return PartitionAudit(
        partition=found.origin.partition,
        stream=found.origin.stream,
        is_current=found.facts is not None or feed.log is None,
        position=found.evidence.after.offset,
        verdict=judge(found.evidence, rows_vanish=rows_vanish),
        held_because=found.alarm,
    )


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


def _notes(feed: Feed, gathered: Gathered) -> list[str]:
    notes = []
    if feed.log is None:
        notes.append("The log was not asked: what was committed and what is waiting is not known.")
    if gathered.strangers:
        notes.append(f"{gathered.strangers} rows came from no log (copies, inserts by hand).")
    return notes
