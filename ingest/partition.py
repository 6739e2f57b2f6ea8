"""Does what the delivery protocol decides for one partition, one action after another."""

from __future__ import annotations

import asyncio
import uuid
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import structlog
from msgspec import Struct, structs

from ingest import delivery, messages
from ingest.batch import Batch, BatchLimits, InsertBudget, make_batch
from ingest.chunk import Chunk, Decoded, Partition, Rejection
from ingest.intake import Intake
from ingest.landing import REFUSED_MESSAGE, Landing, refusals, without
from ingest.ledger import LedgerEntry, absent_runs
from ingest.messages import Action, Event, Fault, Phase, State
from ingest.observe import PipelineObserver
from ingest.progress import Progress
from ingest.source.contract import Assignment, Source
from shared.clickhouse.contract import Run
from shared.clickhouse.failures import (
    InsertFailureError,
    InsertRefusedError,
    InsertViewError,
)
from shared.clock import Clock
from shared.errors import AppError, UnavailableError

log = structlog.get_logger(__name__)
T = TypeVar("T")

LONGEST_BACKOFF_S = 15.0
# When stopping, a range that failed so often is left open: the next start repeats it.
LAST_ATTEMPTS = 6


class _LeftOpenError(Exception):
    """The range under way cannot be completed before the pipeline stops."""


def backoff_s(attempt: int) -> float:
    """How long to wait before an attempt; the first goes at once."""
    return 0.0 if attempt <= 1 else min(LONGEST_BACKOFF_S, 0.1 * 2.0 ** min(attempt - 2, 10))


def _fault(error: InsertFailureError | UnavailableError) -> Fault:
    """What the protocol has to know of a failure; all but a refusal is repeated for ever."""
    if isinstance(error, InsertViewError):
        return Fault.VIEW
    if isinstance(error, InsertRefusedError):
        return Fault.REFUSED
    if isinstance(error, UnavailableError):
        return Fault.UNKNOWN
    return Fault.RETRIABLE if error.stored == "no" else Fault.UNKNOWN


class PartitionNeeds(Struct, frozen=True, kw_only=True):
    """What the partitions of one data source share.

    ``name`` is the data source's, ``schema`` its revision. ``on_settled`` is told of a partition
    that ended without an open range, ``on_held`` that one waits for an operator.
    """

    name: str
    schema: str
    limits: BatchLimits
    budget: InsertBudget
    source: Source
    landing: Landing
    progress: Progress
    clock: Clock
    observer: PipelineObserver
    decode: Callable[[Chunk], Awaitable[Decoded]]
    on_settled: Callable[[Partition], None]
    on_held: Callable[[], None]


class PartitionDelivery:
    """Does what the protocol decides for one partition, one action after another."""

    def __init__(self, needs: PartitionNeeds, assignment: Assignment) -> None:
        self._needs = needs
        self._source = needs.source
        self._landing = needs.landing
        self._clock = needs.clock
        self._assignment = assignment
        self._partition = assignment.partition
        self._state = State(name=needs.name)
        self.intake = Intake(
            assignment.partition,
            needs.source,
            limits=needs.limits,
            budget=needs.budget,
            clock=needs.clock,
        )
        self._current: Batch | None = None
        self._waiting: Batch | None = None
        self._reasons: dict[int, str] = {}
        self._view_failed = False
        self._entry: LedgerEntry | None = None
        self.held = ""

    @property
    def _finishing(self) -> bool:
        return self.intake.is_finishing

    # The loop ---------------------------------------------------------------------------------

    async def run(self) -> None:
        """Claim the partition, recover what was left open, deliver until told to finish."""
        is_settled = False
        try:
            await self._deliver()
            is_settled = self._state.phase is Phase.OPEN
        except _LeftOpenError as reason:
            self._alarm("range_left_open", reason=str(reason))
            is_settled = self._view_failed
        if is_settled:
            self._needs.on_settled(self._partition)

    async def _deliver(self) -> None:
        todo = deque[Action](self._tell(self._assigned()))
        while todo or self._state.phase is not Phase.LOST:
            if todo:
                event = await self._perform(todo.popleft())
            elif self._state.draining or (self.held and self._finishing):
                return
            elif self.held:
                await self.intake.wait_for_finish()
                continue
            else:
                batch = await self.intake.next_batch()
                event = messages.Drain() if batch is None else self._ready(batch)
            if event is not None:
                todo.extend(self._tell(event))

    def _assigned(self) -> Event:
        found = self._assignment
        return messages.Assigned(
            offset=found.log_start if found.offset is None else found.offset,
            metadata=messages.decode_metadata(found.metadata),
            stream=found.stream,
            walk=uuid.uuid4().hex[:12],
            partitions=found.partitions,
        )

    def _tell(self, event: Event) -> Sequence[Action]:
        taken = delivery.step(self._state, event)
        self._state = taken.state
        return taken.actions

    async def _perform(self, action: Action) -> Event | None:
        self._needs.observer.step(self._partition, type(action).__name__.lower(), "before")
        event = await self._act(action)
        self._needs.observer.step(self._partition, type(action).__name__.lower(), "after")
        return event

    async def _act(self, action: Action) -> Event | None:
        match action:
            case messages.Commit():
                return await self._commit(action)
            case messages.ReadAgain():
                return await self._read_again(action)
            case messages.Insert():
                return await self._insert(action)
            case messages.Look():
                return await self._patiently("look", lambda: self._look(action))
            case messages.Search():
                return await self._patiently("search", lambda: self._search(action))
            case messages.Quarantine():
                return await self._patiently("quarantine", lambda: self._quarantine(action))
            case messages.Open():
                self.intake.open(action.offset)
            case messages.Close():
                self._close(action)
            case messages.Hold():
                self.held = action.reason
                self._needs.on_held()
                self._record_alarm(action.reason)
                self._alarm("partition_held", reason=action.reason)
            case messages.Drop():
                await asyncio.sleep(1.0)
                await self._source.release(self._partition)
        return None

    async def _patiently(self, what: str, work: Callable[[], Awaitable[T]]) -> T:
        """Repeat until ClickHouse and the log answer; the partition waits meanwhile."""
        attempt = 1
        while True:
            try:
                return await work()
            except AppError as error:
                attempt += 1
                self._alarm(f"{what}_failed", error=str(error), attempt=attempt)
                if self._finishing and attempt > LAST_ATTEMPTS:
                    raise _LeftOpenError(str(error)) from error
                await self._back_off(attempt)

    async def _back_off(self, attempt: int) -> None:
        """Wait before an attempt; being told to finish cuts it short, once."""
        if self._finishing:
            await asyncio.sleep(backoff_s(attempt))
            return
        await self.intake.wait_for_finish(backoff_s(attempt))

    def _alarm(self, event: str, **facts: object) -> None:
        log.error(
            event,
            datasource=self._state.name,
            topic=self._partition.topic,
            partition=self._partition.number,
            **facts,
        )

    # Actions ----------------------------------------------------------------------------------

    async def _commit(self, action: messages.Commit) -> Event:
        text = action.metadata.encode()
        if await self._source.commit(self._partition, action.offset, text):
            if self._state.phase is Phase.DECLARING:
                self._current, self._waiting = self._waiting, None
            return messages.Committed()
        self._alarm("commit_failed", offset=action.offset)
        return messages.Fenced()

    async def _read_again(self, action: messages.ReadAgain) -> Event:
        intent = self._state.intent
        assert intent is not None
        chunks = await self._patiently(
            "read", lambda: self._source.read(self._partition, action.first, action.next)
        )
        start = self._assignment.log_start
        end = chunks[-1].next if chunks else action.first
        is_whole = start <= action.first and end >= action.next
        is_certain = await self._remembers()
        self._current = await self._decode(
            action.first, action.next, without(chunks, intent.excluded)
        )
        log.info(
            "range_recovered",
            datasource=self._state.name,
            first=action.first,
            next=action.next,
            certain=is_certain,
        )
        return messages.Reread(is_whole=is_whole, is_certain=is_certain)

    async def _remembers(self) -> bool:
        intent = self._state.intent
        assert intent is not None
        return await self._patiently("look", lambda: self._landing.remembers(intent))

    async def _insert(self, action: messages.Insert) -> Event:
        self._view_failed = action.of_view
        if self._finishing and (action.of_view or action.attempt > LAST_ATTEMPTS):
            raise _LeftOpenError(
                "a view fails" if action.of_view else "ClickHouse does not take it"
            )
        if action.attempt > 1:
            await self._back_off(action.attempt)
            if action.is_repeat and not await self._remembers():
                return messages.Forgotten()
        batch = self._current
        assert batch is not None and batch.next == action.next
        if action.excluded and action.attempt > 1:
            batch = self._current = await self._reread_batch(action.first, action.next)
        if not batch.row_count:
            self._prefetch()
            return messages.Stored()
        started_s = self._clock.monotonic()
        try:
            await self._landing.insert(
                batch,
                stream=self._state.stream,
                partition=self._partition.number,
                token=action.token,
            )
        except (InsertFailureError, UnavailableError) as error:
            self._alarm("insert_failed", error=str(error), code=error.code, attempt=action.attempt)
            self._needs.observer.failed(error.code)
            return messages.InsertFailed(_fault(error))
        self._needs.observer.flushed(
            rows=batch.row_count, elapsed_s=self._clock.monotonic() - started_s
        )
        # Its rows are not needed any more, what was rejected is; the next batch takes their place.
        self._current = structs.replace(batch, blocks=())
        self._prefetch()
        return messages.Stored()

    def _prefetch(self) -> None:
        """Hand a batch that is due to the protocol, so that the closing commit declares it."""
        if self._waiting is None and not self._state.draining and self._state.is_flowing:
            batch = self.intake.take_due()
            if batch is not None:
                self._tell(self._ready(batch))

    def _ready(self, batch: Batch) -> messages.Ready:
        self._waiting = batch
        return messages.Ready(
            messages.Intent(
                next=batch.next,
                at_ms=self._clock.now_ms(),
                boot=self._landing.boot_id,
                schema=self._needs.schema,
            )
        )

    async def _reread_batch(self, first: int, next_: int) -> Batch:
        assert self._state.intent is not None
        chunks = await self._patiently(
            "read", lambda: self._source.read(self._partition, first, next_)
        )
        return await self._decode(first, next_, without(chunks, self._state.intent.excluded))

    async def _decode(self, first: int, next_: int, chunks: Sequence[Chunk]) -> Batch:
        """The batch ``[first, next_)`` made of chunks that were read again."""
        return make_batch(first, next_, [await self._needs.decode(c) for c in chunks])

    async def _look(self, action: messages.Look) -> Event:
        batch = await self._reread_batch(action.first, action.next)
        holding = await self._landing.holding(batch, self._state.stream, self._partition.number)
        if holding is messages.Holding.ALL:
            self._alarm("views_not_verified", first=action.first, next=action.next)
        return messages.Looked(holding)

    async def _search(self, action: messages.Search) -> Event:
        assert self._state.intent is not None
        chunks = await self._source.read(self._partition, action.first, action.next)
        guilty = await self._landing.find_guilty(
            self._partition.number, without(chunks, self._state.intent.excluded)
        )
        self._reasons |= guilty
        if not guilty:
            self._alarm("no_guilty_row_found", first=action.first, next=action.next)
        return messages.Found(tuple(Run(offset, 1) for offset in sorted(guilty)))

    async def _quarantine(self, action: messages.Quarantine) -> Event:
        assert self._current is not None
        rejections = list(self._current.rejections)
        if action.excluded or action.is_complement:
            rejections = await self._complement(action)
        await self._landing.quarantine(
            rejections,
            stream=self._state.stream,
            partition=self._partition,
            token=action.token,
            now_s=self._clock.now_ms() // 1000,
        )
        self._needs.observer.quarantined(len(rejections))
        self._entry = self._ledger_entry(action, len(rejections))
        return messages.Quarantined()

    def _ledger_entry(self, action: messages.Quarantine, quarantined: int) -> LedgerEntry:
        """What the ledger will know of the range under way, once it is closed."""
        intent, batch = self._state.intent, self._current
        assert intent is not None and batch is not None
        return LedgerEntry(
            kind="batch",
            datasource=self._state.name,
            topic=self._partition.topic,
            partition=self._partition.number,
            stream=self._state.stream,
            walk=self._state.walk,
            first=action.first,
            next=action.next,
            token=action.token,
            rows=batch.row_count,
            quarantined=quarantined,
            absent=absent_runs(action.first, action.next, batch.runs),
            excluded=action.excluded,
            boot=intent.boot,
            schema=intent.schema,
            at_ms=self._clock.now_ms(),
        )

    def _record_alarm(self, reason: str) -> None:
        intent = self._state.intent
        self._needs.observer.recorded(
            LedgerEntry(
                kind="alarm",
                datasource=self._state.name,
                topic=self._partition.topic,
                partition=self._partition.number,
                stream=self._state.stream,
                walk=self._state.walk,
                first=self._state.position,
                next=self._state.position if intent is None else intent.next,
                note=reason,
                at_ms=self._clock.now_ms(),
            )
        )

    async def _complement(self, action: messages.Quarantine) -> list[Rejection]:
        """Everything of the range that is not, or was not, stored, with the reason."""
        chunks = await self._source.read(self._partition, action.first, action.next)
        batch = await self._decode(action.first, action.next, chunks)
        rejected = {r.offset: r for r in batch.rejections}
        missing = {o for run in action.excluded for o in range(run.first, run.first + run.count)}
        if action.is_complement and self._landing.carries_identity:
            held = await self._landing.held_offsets(
                self._state.stream, self._partition.number, action.first, action.next
            )
            if self._landing.keeps_every_row:
                missing = {o for r in batch.runs for o in range(r.first, r.first + r.count)}
            missing -= held
            rejected = {o: r for o, r in rejected.items() if o not in held}
        reasons = {o: self._reasons.get(o, REFUSED_MESSAGE) for o in missing if o not in rejected}
        return [*rejected.values(), *refusals(chunks, reasons)]

    def _close(self, action: messages.Close) -> None:
        self._current, self._waiting = self._waiting, None
        self._reasons.clear()
        if self._entry is not None:
            self._needs.observer.recorded(self._entry)
            self._entry = None
        self._needs.progress.advance(self._state.name, self._partition, action.next)
        self._needs.observer.closed(
            self._partition, lag_rows=self._source.lag(self._partition, action.next)
        )
