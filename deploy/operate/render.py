"""Results of operator commands as lines for people."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from msgspec import Struct

from deploy.operate.audit import AuditResult, DatasourceAudit, PartitionAudit
from deploy.operate.doctor import DoctorResult
from deploy.operate.partitions import PartitionsResult, ResolveResult
from deploy.operate.quarantine import ListResult, PurgeResult, ShowResult
from deploy.operate.ranges import shown, size
from deploy.operate.repair import Repaired
from deploy.operate.trace import TraceResult
from deploy.operate.verdict import described
from deploy.tables import cell_text
from ingest.replay import ReplayReport


def lines(result: Struct) -> Iterator[str]:
    """The lines of any result."""
    return _RENDERERS[type(result)](result)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _audit(result: AuditResult) -> Iterator[str]:
    for found in result.datasources:
        yield from _datasource(found)
    if not result.datasources:
        yield "No data source reads events; there is nothing to audit."


def _datasource(found: DatasourceAudit) -> Iterator[str]:
    verdict = "not right"
    if found.is_proven:
        verdict = "each offset once"
    elif found.is_ok:
        verdict = "nothing wrong found, not everything can be proven"
    yield f"{found.datasource} (topic {found.topic}): {verdict}"
    for note in found.notes:
        yield f"  note: {note}"
    for repaired in found.repairs:
        yield f"  {_repaired(repaired)}"
    for partition in found.partitions:
        yield from _partition(partition)


def _repaired(found: Repaired) -> str:
    parts = [f"{_count(found.stored, 'row')} stored past the views"]
    if found.quarantined:
        parts.append(f"{found.quarantined:,} to quarantine")
    if found.left_out:
        parts.append(f"{found.left_out:,} left out, expired")
    return f"repaired partition {found.partition} ({shown(found.offsets)}): {', '.join(parts)}"


def _partition(found: PartitionAudit) -> Iterator[str]:
    verdict = found.verdict
    parts = [
        f"{_count(verdict.stored, 'row')} stored",
        f"{verdict.quarantined:,} in quarantine",
    ]
    if verdict.not_rows:
        parts.append(f"{verdict.not_rows:,} never rows")
    if verdict.in_flight is not None:
        stored = f"{verdict.in_flight_stored:,} of {size([verdict.in_flight]):,} stored"
        parts.append(f"range {verdict.in_flight} in flight ({stored})")
    if verdict.waiting:
        parts.append(f"{verdict.waiting:,} not read yet")
    name = f"partition {found.partition}"
    if not found.is_current:
        name += f" of an earlier topic (stream {found.stream:016x})"
    checked = verdict.checked
    offsets = f"offsets {checked}" if checked.first < checked.next else "no offsets"
    yield f"  {name}, {offsets}: {', '.join(parts)}"
    if found.held_because:
        yield f"    held: {found.held_because}"
    for finding in verdict.findings:
        yield f"    {described(finding)}"


def _trace(result: TraceResult) -> Iterator[str]:
    for sighting in result.sightings:
        yield f"{sighting.datasource}: {sighting.place}. {cell_text(sighting.detail)}"
        if sighting.token:
            yield f"  token {sighting.token}"


def _doctor(result: DoctorResult) -> Iterator[str]:
    yield f"Engine: {result.engine}"
    for found in result.guarantees:
        yield f"{found.datasource}: {found.verdict}"
        for reason in found.reasons:
            yield f"  {reason}"
        for fix in found.fixes:
            yield f"  mend it: {fix}"
    yield ""
    for check in result.checks:
        yield f"{check.level:<8} {check.subject}: {cell_text(check.text)}"
        if check.fix:
            yield f"         {check.fix}"


def _partitions(result: PartitionsResult) -> Iterator[str]:
    for found in result.partitions:
        position = "nothing committed" if found.position is None else f"at {found.position}"
        parts = [position, f"{found.waiting:,} waiting"]
        if found.in_flight is not None:
            parts.append(f"range {found.in_flight} in flight")
        yield f"{found.datasource} {found.topic}:{found.partition}: {', '.join(parts)}"
        if found.held_because:
            yield f"  held: {found.held_because}"
            yield (
                f"  pipehouse resolve {found.datasource} {found.partition} --insert-missing"
                " stores what the table lacks; --skip records it as a gap"
            )
    if not result.partitions:
        yield "Nothing is read yet."


def _resolve(result: ResolveResult) -> Iterator[str]:
    yield (
        f"{result.datasource} partition {result.partition} goes on at {result.offsets.next};"
        f" {_count(result.stored_before, 'row')} of the range were stored before"
    )
    if result.repaired is not None:
        yield _repaired(result.repaired)
    if result.gap:
        count = _count(size(result.gap), "offset")
        yield f"given up, recorded as a gap: {count} ({shown(result.gap)})"
    yield "Whether its views got the whole range is not known."


def _list(result: ListResult) -> Iterator[str]:
    for found in result.datasources:
        if not found.rows:
            yield f"{found.datasource}: nothing in quarantine"
            continue
        yield f"{found.datasource}: {_count(found.rows, 'row')}, {found.first} to {found.last} UTC"
        for reason in found.reasons:
            column = f"{reason.column}: " if reason.column else ""
            yield f"  {reason.rows:>8,}  {cell_text(column + reason.message)}"


def _show(result: ShowResult) -> Iterator[str]:
    for row in result.rows:
        yield f"{row.topic}:{row.partition}:{row.offset}  {row.at} UTC"
        for column, message in zip(row.columns, row.messages, strict=False):
            yield f"  {cell_text(f'{column}: {message}' if column else message)}"
        yield f"  {cell_text(row.raw)}"
    yield f"{len(result.rows):,} of {_count(result.matching, 'row')} in {result.datasource}"


def _replay(result: ReplayReport) -> Iterator[str]:
    if result.is_check:
        yield f"{_count(result.stored, 'row')} could be stored (nothing was changed)"
    else:
        yield f"{_count(result.stored, 'row')} stored"
    if result.already_stored:
        yield f"{_count(result.already_stored, 'row')} already in the table"
    yield f"{_count(result.still_bad, 'row')} still bad"
    if result.in_flight:
        yield f"{_count(result.in_flight, 'row')} left for later: their range is being delivered"
    for note in result.notes:
        yield f"note: {note}"


def _purge(result: PurgeResult) -> Iterator[str]:
    yield f"{_count(result.purged, 'row')} removed from the quarantine of {result.datasource}"


_RENDERERS: Mapping[type[Struct], Callable[[Any], Iterator[str]]] = {
    AuditResult: _audit,
    TraceResult: _trace,
    DoctorResult: _doctor,
    PartitionsResult: _partitions,
    ResolveResult: _resolve,
    ListResult: _list,
    ShowResult: _show,
    ReplayReport: _replay,
    PurgeResult: _purge,
}
