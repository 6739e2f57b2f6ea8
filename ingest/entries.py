"""What a partition has to say for the ledger, made of its state."""

from __future__ import annotations

from ingest import messages
from ingest.batch import Batch
from ingest.chunk import Partition
from ingest.ledger import LedgerEntry, absent_runs
from ingest.messages import State
from ingest.runs import clip_runs, merge_runs
from shared.clickhouse.contract import Run

# Instead of a number, where something concerns the whole data source.
EVERY_PARTITION = -1


def batch_entry(
    state: State,
    partition: Partition,
    action: messages.Quarantine,
    batch: Batch,
    *,
    quarantined: int,
    at_ms: int,
) -> LedgerEntry:
    """What became of the range under way, to be recorded once it is closed."""
    assert state.intent is not None
    # Left out because the table had them: rows all the same.
    stored = clip_runs(state.ahead, action.first, action.next)
    return LedgerEntry(
        kind="batch",
        datasource=state.name,
        topic=partition.topic,
        partition=partition.number,
        stream=state.stream,
        walk=state.walk,
        first=action.first,
        next=action.next,
        token=action.token,
        rows=batch.row_count,
        quarantined=quarantined,
        absent=absent_runs(action.first, action.next, merge_runs((*batch.runs, *stored))),
        excluded=action.excluded,
        boot=state.intent.boot,
        schema=state.intent.schema,
        at_ms=at_ms,
    )


def alarm_entry(state: State, partition: Partition, reason: str, at_ms: int) -> LedgerEntry:
    """The partition waits for a person."""
    return LedgerEntry(
        kind="alarm",
        datasource=state.name,
        topic=partition.topic,
        partition=partition.number,
        stream=state.stream,
        walk=state.walk,
        first=state.position,
        next=state.position if state.intent is None else state.intent.next,
        note=reason,
        at_ms=at_ms,
    )


def stopped_entry(name: str, topic: str, reason: str, at_ms: int) -> LedgerEntry:
    """The pipeline of a data source stopped by itself, with all its partitions."""
    return LedgerEntry(
        kind="alarm",
        datasource=name,
        topic=topic,
        partition=EVERY_PARTITION,
        stream=0,
        first=0,
        next=0,
        note=reason,
        at_ms=at_ms,
    )


def gap_entries(
    state: State, partition: Partition, missing: tuple[Run, ...], at_ms: int
) -> list[LedgerEntry]:
    """Offsets that the log lost before they were stored."""
    return [
        LedgerEntry(
            kind="gap",
            datasource=state.name,
            topic=partition.topic,
            partition=partition.number,
            stream=state.stream,
            first=run.first,
            next=run.first + run.count,
            note="the log no longer has these records",
            at_ms=at_ms,
        )
        for run in missing
    ]


def start_entry(
    name: str, partition: Partition, stream: int, offset: int, note: str, at_ms: int
) -> LedgerEntry:
    """Reading begins here because nothing was committed."""
    return LedgerEntry(
        kind="start",
        datasource=name,
        topic=partition.topic,
        partition=partition.number,
        stream=stream,
        first=offset,
        next=offset,
        note=note,
        at_ms=at_ms,
    )
