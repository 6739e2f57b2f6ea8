"""Judges what tables, quarantine, ledger and log say about one partition; plain code.

The tables are the truth. An offset below the committed position is accounted for when the table
holds it, quarantine holds it, or it never was a row (a tombstone, a hole in the log). What is left
is named, with the most that is known about it. That the ledger lacks a row says nothing.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from deploy.operate.held import Held
from deploy.operate.ranges import (
    Range,
    Ranges,
    clip,
    intersect,
    of_runs,
    shown,
    size,
    subtract,
    union,
)
from ingest.ledger import Recorded
from ingest.messages import Metadata

FindingKind = Literal["missing", "doubled", "ahead", "lost", "unexplained"]


class Finding(Struct, frozen=True, kw_only=True):
    """Offsets that are not as they should be; ``reason`` says why and what is known."""

    kind: FindingKind
    offsets: Ranges
    reason: str


class Standing(Struct, frozen=True, kw_only=True):
    """Where a group stands in a partition.

    ``offset`` is None where it never committed; ``next`` where its open range ends, None where no
    range is open; ``token`` that of the open range.
    """

    offset: int | None = None
    next: int | None = None
    token: str = ""
    declared_ms: int = 0


def standing(datasource: str, offset: int | None, metadata: Metadata | None) -> Standing:
    """Where a commit says that a group stands."""
    if offset is None or metadata is None or metadata.intent is None:
        return Standing(offset=offset)
    intent = metadata.intent
    return Standing(
        offset=offset,
        next=intent.next,
        token=f"ph1:{datasource}:{metadata.stream:016x}:{metadata.walk}:{offset}-{intent.next}",
        declared_ms=intent.at_ms,
    )


class Evidence(Struct, frozen=True, kw_only=True):
    """Everything that is known of one partition.

    ``before`` was read before tables and quarantine were asked, ``after`` afterwards: what lies
    below the one must be there, what lies at or after the other may not be there yet. ``log`` is
    what the log has, None where it was not asked. ``blank`` are offsets at which the log has
    nothing that could become a row, ``readable`` those where it has something.
    """

    held: Held
    quarantined: Ranges
    recorded: tuple[Recorded, ...] = ()
    before: Standing = Standing()
    after: Standing = Standing()
    log: Range | None = None
    begins_with_log: bool = False
    blank: Ranges = ()
    readable: Ranges = ()
    deletions: str = ""


class Verdict(Struct, frozen=True, kw_only=True):
    """What was found: the offsets that were checked, how they are accounted for, what is wrong."""

    checked: Range
    stored: int
    quarantined: int
    not_rows: int
    in_flight: Range | None
    in_flight_stored: int
    waiting: int | None
    findings: tuple[Finding, ...]


def checked_range(evidence: Evidence) -> Range:
    """The offsets that must be accounted for."""
    known = [r.first for r in (*evidence.held.offsets, *evidence.quarantined)]
    known += [e.first for e in evidence.recorded if e.kind == "batch"]
    starts = [e.first for e in evidence.recorded if e.kind == "start"]
    end = evidence.before.offset
    if end is None:
        last = [r.next for r in (*evidence.held.offsets, *evidence.quarantined)]
        end = max(last, default=0)
    if starts:
        first = min([*starts, *known])
    elif evidence.begins_with_log and evidence.log is not None:
        first = min([evidence.log.first, *known])
    else:
        first = min(known, default=end)
    return Range(min(first, end), end)


def unaccounted(evidence: Evidence) -> Ranges:
    """Checked offsets that neither table, quarantine nor ledger account for."""
    recorded = evidence.recorded
    gaps = union(Range(e.first, e.next) for e in recorded if e.kind == "gap")
    known = (evidence.held.offsets, evidence.quarantined, _absent(recorded), gaps)
    return subtract([checked_range(evidence)], union(*known))


def missing_offsets(evidence: Evidence) -> Ranges:
    """Checked offsets that nothing accounts for.

    Where the log has nothing there never was a row, unless the ledger knows better: a record may
    have left the log, by compaction or deletion, after it was stored.
    """
    blank = subtract(evidence.blank, _recorded_ranges(evidence))
    return subtract(unaccounted(evidence), blank)


def _recorded_ranges(evidence: Evidence) -> Ranges:
    """What the ledger says to have been completed."""
    return union(Range(e.first, e.next) for e in evidence.recorded if e.kind == "batch")


def _absent(recorded: tuple[Recorded, ...]) -> Ranges:
    """Offsets that a completed range knew not to be rows."""
    return union(*(of_runs(e.absent) for e in recorded if e.kind == "batch"))


def judge(evidence: Evidence, *, rows_vanish: bool = False) -> Verdict:
    """What can be said; with ``rows_vanish`` offsets that are not there prove nothing."""
    checked = checked_range(evidence)
    held = evidence.held.offsets
    accounted = union(held, evidence.quarantined)
    after = evidence.after
    open_range = None
    if after.offset is not None and after.next is not None:
        open_range = Range(after.offset, after.next)
    findings = [*_doubled(evidence), *_ahead(evidence, open_range)]
    if not rows_vanish:
        findings += [*_lost(evidence, checked), *_missing(evidence)]
    absent = clip(union(_absent(evidence.recorded), evidence.blank), checked.first, checked.next)
    waiting = None
    if evidence.log is not None:
        position = evidence.log.first if after.offset is None else after.offset
        waiting = max(0, evidence.log.next - position)
    return Verdict(
        checked=checked,
        stored=size(clip(held, checked.first, checked.next)),
        quarantined=size(subtract(clip(evidence.quarantined, checked.first, checked.next), held)),
        not_rows=size(subtract(absent, accounted)),
        in_flight=open_range,
        in_flight_stored=size(intersect(held, [open_range])) if open_range else 0,
        waiting=waiting,
        findings=tuple(findings),
    )


def _doubled(evidence: Evidence) -> list[Finding]:
    doubled = evidence.held.doubled
    if not doubled:
        return []
    return [Finding(kind="doubled", offsets=doubled, reason="The table holds them more than once.")]


def _ahead(evidence: Evidence, open_range: Range | None) -> list[Finding]:
    """Rows at or after the committed position, outside the range that is under way."""
    position = evidence.after.offset
    if position is None:
        return []
    ahead = clip(evidence.held.offsets, position, 1 << 62)
    ahead = subtract(ahead, [open_range] if open_range else [])
    if not ahead:
        return []
    reason = (
        f"They are stored although the group stands at {position}: its position was moved back."
        " They are left out when the group reads them again."
    )
    return [Finding(kind="ahead", offsets=ahead, reason=reason)]


def _lost(evidence: Evidence, checked: Range) -> list[Finding]:
    found = []
    for entry in evidence.recorded:
        if entry.kind == "gap":
            left = clip([Range(entry.first, entry.next)], checked.first, checked.next)
            left = subtract(left, union(evidence.held.offsets, evidence.quarantined))
            if left:
                found.append(Finding(kind="lost", offsets=left, reason=entry.note))
    return found


def _missing(evidence: Evidence) -> list[Finding]:
    """What nothing accounts for, by what is known of it."""
    left = missing_offsets(evidence)
    if not left:
        return []
    stored_once = _recorded_ranges(evidence)
    was_stored = intersect(left, stored_once)
    read = intersect(subtract(left, was_stored), evidence.readable)
    unknown = subtract(left, union(was_stored, read))
    deletions = f" {evidence.deletions}" if evidence.deletions else ""
    found = []
    if was_stored:
        reason = "The ledger says that they were stored; the table does not hold them." + deletions
        found.append(Finding(kind="missing", offsets=was_stored, reason=reason))
    if read:
        reason = (
            "They are in the log below the committed position, neither stored nor in quarantine."
        )
        found.append(Finding(kind="missing", offsets=read, reason=reason + deletions))
    if unknown:
        reason = (
            "Nothing tells what they were: not stored, not in quarantine, not recorded, and no"
            " longer in the log." + deletions
        )
        found.append(Finding(kind="unexplained", offsets=unknown, reason=reason))
    return found


def described(finding: Finding) -> str:
    """One line."""
    count = size(finding.offsets)
    noun = "offset" if count == 1 else "offsets"
    return f"{finding.kind}: {count} {noun} ({shown(finding.offsets)}). {finding.reason}"
