"""What is said of a partition, from what tables, quarantine, ledger and log say."""

from __future__ import annotations

from deploy.operate.held import Held
from deploy.operate.ranges import Range, Ranges
from deploy.operate.verdict import Evidence, Standing, checked_range, described, judge, standing
from ingest.ledger import Kind, Recorded
from ingest.messages import Intent, Metadata
from shared.clickhouse.contract import Run

WHOLE_LOG = Range(0, 100)


def recorded(kind: Kind, first: int, next_: int, absent: tuple[Run, ...] = ()) -> Recorded:
    return Recorded(
        kind=kind,
        datasource="d",
        topic="t",
        partition=0,
        stream=1,
        first=first,
        next=next_,
        at_ms=0,
        absent=absent,
        note="retention",
    )


def evidence(
    *stored: Range,
    quarantined: Ranges = (),
    doubled: Ranges = (),
    entries: tuple[Recorded, ...] = (),
    at: Standing | int = 100,
    log: Range = WHOLE_LOG,
    blank: Ranges = (),
    readable: Ranges = (),
) -> Evidence:
    stand = Standing(offset=at) if isinstance(at, int) else at
    return Evidence(
        held=Held(offsets=stored, doubled=doubled),
        quarantined=quarantined,
        recorded=entries,
        before=stand,
        after=stand,
        log=log,
        begins_with_log=True,
        blank=blank,
        readable=readable,
    )


def findings(found: Evidence) -> list[tuple[str, Ranges]]:
    return [(f.kind, f.offsets) for f in judge(found).findings]


def test_every_offset_stored_or_quarantined_is_right() -> None:
    verdict = judge(evidence(Range(0, 90), quarantined=(Range(90, 100),)))
    assert verdict.findings == ()
    assert (verdict.stored, verdict.quarantined, verdict.not_rows) == (90, 10, 0)


def test_an_offset_in_table_and_quarantine_counts_as_stored() -> None:
    verdict = judge(evidence(Range(0, 100), quarantined=(Range(5, 6),)))
    assert (verdict.stored, verdict.quarantined, verdict.findings) == (100, 0, ())


def test_an_offset_that_the_ledger_calls_stored_is_missing() -> None:
    found = evidence(Range(0, 50), Range(51, 100), entries=(recorded("batch", 0, 100),))
    assert findings(found) == [("missing", (Range(50, 51),))]


def test_an_offset_that_was_no_row_is_not_missing() -> None:
    entry = recorded("batch", 0, 100, absent=(Run(50, 1),))
    verdict = judge(evidence(Range(0, 50), Range(51, 100), entries=(entry,)))
    assert (verdict.findings, verdict.not_rows) == ((), 1)


def test_a_row_whose_record_left_the_log_after_it_was_stored_is_missed() -> None:
    gone = (Range(40, 50),)
    batch = recorded("batch", 0, 100)
    found = evidence(Range(0, 40), Range(50, 100), entries=(batch,), blank=gone)
    assert findings(found) == [("missing", gone)]


def test_without_a_ledger_row_the_log_decides() -> None:
    hole = Range(50, 52)
    stored = (Range(0, 50), Range(52, 100))
    assert findings(evidence(*stored, readable=(hole,))) == [("missing", (hole,))]
    assert findings(evidence(*stored, blank=(hole,))) == []
    assert findings(evidence(*stored)) == [("unexplained", (hole,))]


def test_a_recorded_gap_is_lost_with_its_reason() -> None:
    found = evidence(Range(0, 50), Range(60, 100), entries=(recorded("gap", 50, 60),))
    (finding,) = judge(found).findings
    assert (finding.kind, finding.offsets, finding.reason) == (
        "lost",
        (Range(50, 60),),
        "retention",
    )
    assert described(finding) == "lost: 10 offsets (50..59). retention"


def test_what_lies_in_the_open_range_is_in_flight_and_what_lies_behind_it_ahead() -> None:
    stand = Standing(offset=100, next=120)
    found = evidence(Range(0, 110), Range(130, 131), at=stand, log=Range(0, 140))
    verdict = judge(found)
    assert (verdict.in_flight, verdict.in_flight_stored) == (Range(100, 120), 10)
    assert [(f.kind, f.offsets) for f in verdict.findings] == [("ahead", (Range(130, 131),))]
    assert verdict.waiting == 40


def test_doubled_offsets_are_named_even_where_rows_vanish() -> None:
    found = evidence(Range(0, 3), doubled=(Range(1, 2),))
    verdict = judge(found, rows_vanish=True)
    assert [(f.kind, f.offsets) for f in verdict.findings] == [("doubled", (Range(1, 2),))]


def test_what_is_checked_begins_where_reading_began() -> None:
    started = evidence(Range(40, 100), entries=(recorded("start", 40, 40),))
    assert checked_range(started) == Range(40, 100)
    assert checked_range(evidence(Range(40, 100))) == Range(0, 100)
    assert checked_range(evidence(Range(40, 100), log=Range(70, 100))) == Range(40, 100)


def test_a_commit_says_what_is_open_and_under_which_token() -> None:
    intent = Intent(next=120, at_ms=7, boot="b", schema="s")
    found = standing("d", 100, Metadata(version=1, stream=1, walk="w", intent=intent))
    assert (found.offset, found.next, found.declared_ms) == (100, 120, 7)
    assert found.token == "ph1:d:0000000000000001:w:100-120"
    assert standing("d", 100, None) == Standing(offset=100)
    assert standing("d", None, None) == Standing()
