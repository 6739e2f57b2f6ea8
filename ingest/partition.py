"""Does what the delivery protocol decides for one partition, one action after another."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import structlog
from msgspec import structs

from ingest import delivery, messages
from ingest.batch import Batch
from ingest.chunk import Chunk
from ingest.claim import Claim, NowhereToStartError
from ingest.entries import alarm_entry, batch_entry, gap_entries
from ingest.excluded import fit
from ingest.held import LeaseLostError
from ingest.intake import Intake
from ingest.landing import without
from ingest.ledger import LedgerEntry
from ingest.messages import Action, Event, Phase, State
from ingest.needs import PartitionNeeds, backoff_s, fault_of
from ingest.ranges import Ranges
from ingest.runs import clip_runs
from ingest.source.contract import Assignment
from shared.clickhouse.failures import InsertFailureError
from shared.errors import AppError, UnavailableError

log = structlog.get_logger(__name__)
T = TypeVar("T")

# When stopping, a range that failed so often is left open: the next start repeats it.
LAST_ATTEMPTS = 6
# How long an insert waits for a sign of life of the log's group before the partition is dropped.
_LEASE_PATIENCE_S = 10.0


class _LeftOpenError(Exception):
    """The range under way cannot be completed before the pipeline stops."""


class PartitionDelivery:
    """Delivers one assignment of a partition."""

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
        self._ranges = Ranges(assignment.partition, needs.source, needs.landing, needs.decode)
        self._current: Batch | None = None
        self._waiting: Batch | None = None
        self._view_failed = False
        self._abandoned = False
        self._entry: LedgerEntry | None = None
        self._ended = False
        self.held = ""

    @property
    def done_to(self) -> int:
        """Everything below is stored or quarantined."""
        return self._state.position

    @property
    def held_bytes(self) -> int:
        """Of the raw values in memory."""
        taken = (b for b in (self._current, self._waiting) if b is not None and b.blocks)
        return self.intake.size_bytes + sum(batch.size_bytes for batch in taken)

    def age_s(self, now_s: float) -> float:
        """How long the oldest record in memory that is not stored has been there."""
        batch = self._current if self._current is not None else self._waiting
        opened_s = batch.opened_s if batch is not None and batch.opened_s else self.intake.opened_s
        return 0.0 if opened_s is None else max(0.0, now_s - opened_s)

    async def run(self) -> None:
        """Claim the partition, recover what was left open, deliver until told to finish."""
        is_settled = False
        try:
            await self._deliver()
            is_settled = self._state.phase is Phase.OPEN
        except NowhereToStartError as reason:
            self._hold(str(reason))
            await self.intake.wait_for_finish()
            is_settled = True
        except _LeftOpenError as reason:
            self._alarm("range_left_open", reason=str(reason))
            is_settled = self._view_failed
        finally:
            # An insert may still wait for its turn in a thread, and the partition be ours again.
            self._ended = True
        if is_settled and not self._abandoned:
            self._needs.on_settled(self._partition)

    def abandon(self) -> None:
        """The partition goes to somebody else: complete the range under way and nothing more."""
        self._abandoned = True
        self.intake.abandon()
        if self._state.phase not in (Phase.NEW, Phase.LOST, Phase.HELD):
            self._tell(messages.Drain())

    async def _deliver(self) -> None:
        claim = Claim(self._needs.name, self._assignment, self._needs.excluded, self._landing)
        assigned = await self._patiently("claim", claim.prepare)
        for entry in claim.entries(self._clock.now_ms()):
            say = log.info if claim.is_first else log.warning
            say("position_found", datasource=entry.datasource, offset=entry.first, why=entry.note)
            self._record(entry)
        todo = deque[Action](self._tell(assigned))
        while todo or self._state.phase is not Phase.LOST:
            if todo:
                event = await self._perform(todo.popleft())
            elif self._state.draining or (self.held and self.intake.is_finishing):
                return
            elif self.held:
                await self.intake.wait_for_finish()
                continue
            else:
                batch = await self.intake.next_batch()
                event = messages.Drain() if batch is None else self._ready(batch)
            if event is not None:
                todo.extend(self._tell(event))

    def _tell(self, event: Event) -> Sequence[Action]:
        taken = delivery.step(self._state, event)
        self._state = taken.state
        return taken.actions

    async def _perform(self, action: Action) -> Event | None:
        name = type(action).__name__.lower()
        self._needs.observer.step(self._partition, name, "before")
        event = await self._act(action)
        self._needs.observer.step(self._partition, name, "after")
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
            case messages.LookAhead():
                return await self._patiently(
                    "look", lambda: self._ranges.look_ahead(self._state, action.position)
                )
            case messages.Verify():
                return await self._patiently("verify", lambda: self._verify(action))
            case messages.ReportGap():
                await self._patiently("look", lambda: self._report_gap(action))
            case messages.Search():
                return await self._patiently("search", lambda: self._search(action))
            case messages.Quarantine():
                return await self._patiently("quarantine", lambda: self._quarantine(action))
            case messages.Open():
                self.intake.open(action.offset)
            case messages.Close():
                self._close(action)
            case messages.Hold():
                self._hold(action.reason)
            case messages.Drop() if not self._abandoned:
                await asyncio.sleep(1.0)
                await self._source.release(self._partition)
        return None

    def _hold(self, reason: str) -> None:
        self.held = reason
        self._current = self._waiting = None
        self.intake.shut()
        self._needs.on_held()
        self._alarm("partition_held", reason=reason)
        state = structs.replace(self._state, stream=self._assignment.stream)
        self._record(alarm_entry(state, self._partition, reason, self._clock.now_ms()))

    async def _patiently(self, what: str, work: Callable[[], Awaitable[T]]) -> T:
        """Repeat until ClickHouse and the log answer; the partition waits meanwhile."""
        attempt = 1
        while True:
            try:
                return await work()
            except AppError as error:
                attempt += 1
                self._alarm(f"{what}_failed", error=str(error), attempt=attempt)
                if self.intake.is_finishing and attempt > LAST_ATTEMPTS:
                    raise _LeftOpenError(str(error)) from error
                await self._back_off(attempt)

    async def _back_off(self, attempt: int) -> None:
        """Wait before an attempt; being told to finish cuts it short, once."""
        if self.intake.is_finishing:
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

    async def _commit(self, action: messages.Commit) -> Event:
        metadata = await self._patiently("keep", lambda: fit(action.metadata, self._needs.excluded))
        if await self._source.commit(self._partition, action.offset, metadata.encode()):
            if self._state.phase is Phase.DECLARING:
                self._current, self._waiting = self._waiting, None
            return messages.Committed()
        self._alarm("commit_failed", offset=action.offset)
        return messages.Fenced()

    async def _read_again(self, action: messages.ReadAgain) -> Event:
        state = self._state
        token = delivery.insert_token(state, _intent(state))
        await self._patiently("settle", lambda: self._landing.settle(token))
        # Before the bounds are asked for: what retention takes meanwhile must count as lost.
        self._current = await self._reread_batch(action.first, action.next)
        start, end = await self._patiently("read", lambda: self._source.bounds(self._partition))
        is_certain = await self._remembers()
        facts = {"first": action.first, "next": action.next, "certain": is_certain}
        log.info("range_recovered", datasource=state.name, **facts)
        return messages.Reread(log_start=start, log_end=end, is_certain=is_certain)

    async def _remembers(self) -> bool:
        intent = _intent(self._state)
        return await self._patiently("look", lambda: self._landing.remembers(intent))

    async def _insert(self, action: messages.Insert) -> Event:
        self._view_failed = action.of_view
        if self.intake.is_finishing and (action.of_view or action.attempt > LAST_ATTEMPTS):
            raise _LeftOpenError(
                "a view fails" if action.of_view else "ClickHouse does not take it"
            )
        if action.attempt > 1:
            await self._back_off(action.attempt)
            await self._patiently("settle", lambda: self._landing.settle(action.token))
            if action.is_repeat and not await self._remembers():
                return messages.Forgotten()
        batch = self._current
        assert batch is not None and batch.next == action.next
        if action.excluded and action.attempt > 1:
            batch = self._current = await self._reread_batch(action.first, action.next)
        if not batch.row_count:
            self._prefetch()
            return messages.Stored()
        if not await self._is_ours():
            return messages.Fenced()
        return await self._send(action, batch)

    async def _is_ours(self) -> bool:
        """Whether the lease on the partition is young enough; waits a little for a sign of life."""
        end_s = self._clock.monotonic() + _LEASE_PATIENCE_S
        while not self._source.holds(self._partition):
            if self._abandoned or self._clock.monotonic() > end_s:
                self._alarm("lease_ran_out")
                return False
            await asyncio.sleep(0.1)
        return True

    async def _send(self, action: messages.Insert, batch: Batch) -> Event:
        started_s = self._clock.monotonic()
        try:
            summary = await self._landing.insert(
                batch,
                stream=self._state.stream,
                partition=self._partition.number,
                token=action.token,
                is_held=lambda: not self._ended and self._source.holds(self._partition),
            )
        except LeaseLostError:
            self._alarm("lease_ran_out")
            return messages.Fenced()
        except (InsertFailureError, UnavailableError) as error:
            self._alarm("insert_failed", error=str(error), code=error.code, attempt=action.attempt)
            self._needs.observer.failed(error.code)
            return messages.InsertFailed(fault_of(error))
        self._needs.observer.flushed(
            rows=batch.row_count,
            size_bytes=batch.size_bytes,
            elapsed_s=self._clock.monotonic() - started_s,
        )
        # Its rows are not needed any more, what was rejected is; the next batch takes their place.
        self._current = structs.replace(batch, blocks=())
        self._needs.on_room()
        self._prefetch()
        is_new_boot = summary.boot_id != _intent(self._state).boot
        return messages.Stored(is_doubtful=is_new_boot and self._landing.needs_verification)

    def _prefetch(self) -> None:
        """Hand a batch that is due to the protocol, so that the closing commit declares it."""
        may_follow = self._waiting is None and not self._state.draining and self._state.is_flowing
        if may_follow and (batch := self.intake.take_due()) is not None:
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

    def left_out(self, chunk: Chunk) -> Chunk:
        """The chunk without what the table has already."""
        if not self._state.ahead or not chunk.offsets:
            return chunk
        stored = clip_runs(self._state.ahead, chunk.offsets[0], chunk.next)
        return without([chunk], stored)[0] if stored else chunk

    async def _reread_batch(self, first: int, next_: int) -> Batch:
        return await self._patiently("read", lambda: self._ranges.batch(self._state, first, next_))

    async def _look(self, action: messages.Look) -> Event:
        batch = await self._reread_batch(action.first, action.next)
        looked = await self._ranges.look(batch, self._state)
        if looked.holding is messages.Holding.ALL:
            self._alarm("views_not_verified", first=action.first, next=action.next)
        return looked

    async def _verify(self, action: messages.Verify) -> Event:
        assert self._current is not None
        return messages.Verified(await self._ranges.missing(self._current, self._state))

    async def _report_gap(self, action: messages.ReportGap) -> None:
        missing = await self._ranges.lost(self._state, action.first, action.next)
        if not missing:
            return
        count = sum(run.count for run in missing)
        self._alarm("records_lost", first=action.first, next=action.next, count=count)
        self._needs.observer.lost(count)
        for entry in gap_entries(self._state, self._partition, missing, self._clock.now_ms()):
            self._record(entry)

    async def _search(self, action: messages.Search) -> Event:
        found = await self._ranges.search(self._state, action.first, action.next)
        if found.guilty:
            assert self._current is not None
            refused = sum(run.count for run in found.guilty)
            self._needs.on_refused(self._partition, self._current.row_count, refused)
        else:
            self._alarm("no_guilty_row_found", first=action.first, next=action.next)
        return found

    async def _quarantine(self, action: messages.Quarantine) -> Event:
        assert self._current is not None
        rejections = list(self._current.rejections)
        if action.excluded or action.is_complement:
            rejections = await self._ranges.complement(self._state, action)
        await self._landing.quarantine(
            rejections,
            stream=self._state.stream,
            partition=self._partition,
            token=action.token,
            now_s=self._clock.now_ms() // 1000,
            boot_id=_intent(self._state).boot,
        )
        self._entry = batch_entry(
            self._state,
            self._partition,
            action,
            self._current,
            quarantined=len(rejections),
            at_ms=self._clock.now_ms(),
        )
        self._needs.observer.quarantined(len(rejections))
        return messages.Quarantined()

    def _record(self, entry: LedgerEntry) -> None:
        self._needs.observer.recorded(entry)

    def _close(self, action: messages.Close) -> None:
        if self._entry is not None:
            self._record(self._entry)
            self._entry = None
        self._current, self._waiting = self._waiting, None
        self._ranges.reasons.clear()
        self._needs.progress.advance(self._state.name, self._partition, action.next)
        self._needs.observer.closed(
            self._partition, lag_rows=self._source.lag(self._partition, action.next)
        )


def _intent(state: State) -> messages.Intent:
    assert state.intent is not None
    return state.intent
