"""One data source: source -> decode -> batch -> delivery -> insert -> commit.

``Pipeline`` reads and decodes; a ``_Partition`` for each assigned partition does what
``ingest/delivery.py`` decides, one action after another. Decoding goes on while a batch is being
inserted: one more may be closed, and a third be filled. Backpressure: when that one is full too,
the partition is paused while polling goes on; the log holds what producers send meanwhile. So a
partition keeps at most three batches in memory: in flight, closed, and open.

Shutdown, under one deadline: stop reading; close every open batch; let each partition finish the
range under way and close it without a following intent; what does not fit into the time, or fails
again and again, is left in the log and is repeated under the same token by the next start.
"""

from __future__ import annotations

import asyncio
import uuid
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import structlog
from msgspec import Struct, structs

from ingest import delivery
from ingest.batch import Batch, Batcher, BatchLimits, InsertBudget, make_batch
from ingest.chunk import Chunk, Decoded, Partition, Rejection
from ingest.delivery import Action, Event, Fault, Phase, State
from ingest.landing import REFUSED_MESSAGE, Landing, refusals, without
from ingest.observe import PipelineObserver
from ingest.progress import Progress
from ingest.source.contract import Assignment, Source
from shared.clickhouse.contract import Run
from shared.clickhouse.failures import (
    InsertFailureError,
    InsertRefusedError,
    InsertViewError,
)
from shared.clock import Clock, Deadline
from shared.errors import AppError, LogUnavailableError, UnavailableError

log = structlog.get_logger(__name__)
T = TypeVar("T")

# Small against a batch, so that a batch never exceeds its limits by much, and so short a piece of
# work for the decoder that requests are served in between.
POLL_ROWS = 8_192
POLL_BYTES = 8 << 20
POLL_TIMEOUT_S = 0.25
# Below this a chunk is decoded at once: handing it to a thread costs more.
INLINE_ROWS = 256
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


class PipelineSettings(Struct, frozen=True, kw_only=True):
    """What a pipeline is made of, apart from where it reads and writes.

    ``name`` is the data source's, ``schema`` its revision; both go into tokens and intents.
    """

    name: str
    schema: str
    limits: BatchLimits = BatchLimits()
    inserts_per_second: float = 4.0


class Pipeline:
    """Delivers one topic into one data source.

    Args:
        settings: Names and limits.
        source: Where records come from; closed by the pipeline.
        landing: Where rows go.
        progress: Told how far each partition is.
        clock: Where time comes from.
        observer: Told what happens; the default counts nothing.
    """

    def __init__(
        self,
        settings: PipelineSettings,
        source: Source,
        landing: Landing,
        *,
        progress: Progress,
        clock: Clock,
        observer: PipelineObserver,
    ) -> None:
        self.settings = settings
        self.source = source
        self.landing = landing
        self.progress = progress
        self.clock = clock
        self.observer = observer
        self.budget = InsertBudget(settings.inserts_per_second)
        self._partitions: dict[Partition, _Partition] = {}
        self._tasks: dict[Partition, asyncio.Task[None]] = {}
        self._stopping = asyncio.Event()
        self._unsettled: set[Partition] | None = None
        self._decoder_thread = ThreadPoolExecutor(1, f"decode-{settings.name}")

    @property
    def held(self) -> dict[Partition, str]:
        """Partitions that wait for an operator, and why."""
        return {p: t.held for p, t in self._partitions.items() if t.held}

    @property
    def is_at_rest(self) -> bool:
        """Whether, after the end of ``run``, no partition's range is open.

        A range that only a failing view holds up counts as closed: replacing that view is what
        completes it, under the same token.
        """
        return self._unsettled is not None and not self._unsettled

    async def run(self, *, recover_only: bool = False) -> None:
        """Deliver until ``stop``; only a mistake of ours ends it earlier.

        Args:
            recover_only: Complete the ranges that an earlier owner left open, and return.
        """
        try:
            async with asyncio.TaskGroup() as group:
                await self._read(group, recover_only=recover_only)
        finally:
            await self.source.close()
            self._decoder_thread.shutdown(wait=False)

    def stop(self) -> None:
        """Read nothing more, flush, and let ``run`` return."""
        self._stopping.set()
        for partition in self._partitions.values():
            partition.finish()

    async def _read(self, group: asyncio.TaskGroup, *, recover_only: bool) -> None:
        """Poll until stopped, at least once; everything assigned gets a task of its own."""
        while self._unsettled is None or not self._stopping.is_set():
            try:
                poll = await self.source.poll(
                    max_rows=POLL_ROWS, max_bytes=POLL_BYTES, timeout_s=POLL_TIMEOUT_S
                )
            except LogUnavailableError as error:
                log.warning("log_not_answering", datasource=self.settings.name, error=str(error))
                if self._stopping.is_set():
                    return
                await asyncio.sleep(1.0)
                continue
            self._unsettled = (self._unsettled or set()).difference(poll.revoked)
            for revoked in poll.revoked:
                if revoked in self._tasks:
                    self._tasks[revoked].cancel()
            for assignment in poll.assigned:
                self._take(group, assignment)
            if recover_only:
                self.stop()
            for chunk in poll.chunks:
                await self._feed(chunk)

    def _take(self, group: asyncio.TaskGroup, assignment: Assignment) -> None:
        key = assignment.partition
        partition = _Partition(self, assignment)
        self._partitions[key] = partition
        assert self._unsettled is not None
        self._unsettled.add(key)
        if self._stopping.is_set():
            partition.finish()
        task = group.create_task(partition.run(), name=f"deliver-{key.topic}-{key.number}")
        self._tasks[key] = task
        task.add_done_callback(lambda done: self._forget(key, done))

    def settled(self, key: Partition) -> None:
        """A partition ended without an open range."""
        assert self._unsettled is not None
        self._unsettled.discard(key)

    def _forget(self, key: Partition, task: asyncio.Task[None]) -> None:
        if self._tasks.get(key) is task:
            del self._tasks[key], self._partitions[key]

    async def _feed(self, chunk: Chunk) -> None:
        holder = self._partitions.get(chunk.partition)
        if holder is None:
            return
        decoded = await self.decode(chunk)
        if self._partitions.get(chunk.partition) is holder:
            holder.add(chunk, decoded)

    async def decode(self, chunk: Chunk) -> Decoded:
        """Decode beside the event loop when the chunk is large."""
        if len(chunk.offsets) < INLINE_ROWS:
            return self.landing.decoder.decode(chunk)
        return await asyncio.get_running_loop().run_in_executor(
            self._decoder_thread, self.landing.decoder.decode, chunk
        )


class _Partition:
    """Does what the protocol decides for one partition, one action after another."""

    def __init__(self, pipeline: Pipeline, assignment: Assignment) -> None:
        self._pipeline = pipeline
        self._source = pipeline.source
        self._landing = pipeline.landing
        self._clock = pipeline.clock
        self._assignment = assignment
        self._partition = assignment.partition
        self._state = State(name=pipeline.settings.name)
        self._batcher = Batcher(pipeline.settings.limits)
        self._read_to = 0
        self._current: Batch | None = None
        self._waiting: Batch | None = None
        self._reasons: dict[int, str] = {}
        self._view_failed = False
        self._changed = asyncio.Event()
        self._stop = asyncio.Event()
        self.held = ""

    @property
    def _finishing(self) -> bool:
        return self._stop.is_set()

    # Records in -------------------------------------------------------------------------------

    def add(self, chunk: Chunk, decoded: Decoded) -> None:
        """Records that follow the ones before; pauses the partition when there are enough."""
        now_s = self._clock.monotonic()
        self._batcher.add(chunk, decoded, first=self._read_to, now_s=now_s)
        self._read_to = chunk.next
        if self._batcher.is_full:
            self._source.pause(self._partition)
        self._changed.set()

    def finish(self) -> None:
        """Flush what was read, complete it, and end."""
        self._stop.set()
        self._changed.set()

    def _take_batch(self) -> delivery.Ready:
        batch = self._batcher.take()
        self._source.resume(self._partition)
        self._waiting = batch
        intent = delivery.Intent(
            next=batch.next,
            at_ms=self._clock.now_ms(),
            boot=self._landing.boot_id,
            schema=self._pipeline.settings.schema,
        )
        return delivery.Ready(intent)

    async def _next_event(self) -> Event:
        """Wait until a batch is due, or nothing more will come."""
        while True:
            if self._batcher.is_empty and self._finishing:
                return delivery.Drain()
            self._changed.clear()
            wait_s = self._batcher.due_in_s(self._clock.monotonic())
            if wait_s == 0.0 or self._finishing:
                await self._wait_for_turn()
                return self._take_batch()
            await self._wait(None if wait_s == float("inf") else wait_s)

    async def _wait_for_turn(self) -> None:
        end_s = self._clock.monotonic()
        end_s += self._pipeline.budget.reserve(end_s)
        while not (self._batcher.has_closed or self._finishing):
            left_s = end_s - self._clock.monotonic()
            if left_s <= 0:
                return
            self._changed.clear()
            await self._wait(left_s)
        self._pipeline.budget.give_back()

    async def _wait(self, timeout_s: float | None) -> None:
        try:
            # Not wait_for: before Python 3.12 it may swallow a cancellation.
            async with asyncio.timeout(timeout_s):
                await self._changed.wait()
        except TimeoutError:
            return

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
            self._pipeline.settled(self._partition)

    async def _deliver(self) -> None:
        todo = deque[Action](self._tell(self._assigned()))
        while todo or self._state.phase is not Phase.LOST:
            if todo:
                event = await self._perform(todo.popleft())
            elif self._state.draining or (self.held and self._finishing):
                return
            elif self.held:
                self._changed.clear()
                await self._changed.wait()
                continue
            else:
                event = await self._next_event()
            if event is not None:
                todo.extend(self._tell(event))

    def _assigned(self) -> Event:
        found = self._assignment
        return delivery.Assigned(
            offset=found.log_start if found.offset is None else found.offset,
            metadata=delivery.decode_metadata(found.metadata),
            stream=found.stream,
            walk=uuid.uuid4().hex[:12],
        )

    def _tell(self, event: Event) -> Sequence[Action]:
        taken = delivery.step(self._state, event)
        self._state = taken.state
        return taken.actions

    async def _perform(self, action: Action) -> Event | None:
        self._pipeline.observer.step(self._partition, type(action).__name__.lower(), "before")
        event = await self._act(action)
        self._pipeline.observer.step(self._partition, type(action).__name__.lower(), "after")
        return event

    async def _act(self, action: Action) -> Event | None:
        match action:
            case delivery.Commit():
                return await self._commit(action)
            case delivery.ReadAgain():
                return await self._read_again(action)
            case delivery.Insert():
                return await self._insert(action)
            case delivery.Look():
                return await self._patiently("look", lambda: self._look(action))
            case delivery.Search():
                return await self._patiently("search", lambda: self._search(action))
            case delivery.Quarantine():
                return await self._patiently("quarantine", lambda: self._quarantine(action))
            case delivery.Open():
                self._read_to = action.offset
                self._source.open(self._partition, action.offset)
            case delivery.Close():
                self._close(action)
            case delivery.Hold():
                self.held = action.reason
                self._pipeline.observer.held(len(self._pipeline.held))
                self._alarm("partition_held", reason=action.reason)
            case delivery.Drop():
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
        try:
            async with asyncio.timeout(backoff_s(attempt)):
                await self._stop.wait()
        except TimeoutError:
            return

    def _alarm(self, event: str, **facts: object) -> None:
        log.error(
            event,
            datasource=self._state.name,
            topic=self._partition.topic,
            partition=self._partition.number,
            **facts,
        )

    # Actions ----------------------------------------------------------------------------------

    async def _commit(self, action: delivery.Commit) -> Event:
        text = action.metadata.encode()
        if await self._source.commit(self._partition, action.offset, text):
            if self._state.phase is Phase.DECLARING:
                self._current, self._waiting = self._waiting, None
            return delivery.Committed()
        self._alarm("commit_failed", offset=action.offset)
        return delivery.Fenced()

    async def _read_again(self, action: delivery.ReadAgain) -> Event:
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
        return delivery.Reread(is_whole=is_whole, is_certain=is_certain)

    async def _remembers(self) -> bool:
        intent = self._state.intent
        assert intent is not None
        return await self._patiently("look", lambda: self._landing.remembers(intent))

    async def _insert(self, action: delivery.Insert) -> Event:
        self._view_failed = action.of_view
        if self._finishing and (action.of_view or action.attempt > LAST_ATTEMPTS):
            raise _LeftOpenError(
                "a view fails" if action.of_view else "ClickHouse does not take it"
            )
        if action.attempt > 1:
            await self._back_off(action.attempt)
            if action.is_repeat and not await self._remembers():
                return delivery.Forgotten()
        batch = self._current
        assert batch is not None and batch.next == action.next
        if action.excluded and action.attempt > 1:
            batch = self._current = await self._reread_batch(action.first, action.next)
        if not batch.row_count:
            self._prefetch()
            return delivery.Stored()
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
            self._pipeline.observer.failed(error.code)
            return delivery.InsertFailed(_fault(error))
        self._pipeline.observer.flushed(
            rows=batch.row_count, elapsed_s=self._clock.monotonic() - started_s
        )
        # Its rows are not needed any more, what was rejected is; the next batch takes their place.
        self._current = structs.replace(batch, blocks=())
        self._prefetch()
        return delivery.Stored()

    def _prefetch(self) -> None:
        """Hand a batch that is due to the protocol, so that the closing commit declares it."""
        if self._waiting is None and not self._state.draining and self._state.is_flowing:
            is_due = self._batcher.has_closed or (self._finishing and not self._batcher.is_empty)
            if is_due:
                self._tell(self._take_batch())

    async def _reread_batch(self, first: int, next_: int) -> Batch:
        assert self._state.intent is not None
        chunks = await self._patiently(
            "read", lambda: self._source.read(self._partition, first, next_)
        )
        return await self._decode(first, next_, without(chunks, self._state.intent.excluded))

    async def _decode(self, first: int, next_: int, chunks: Sequence[Chunk]) -> Batch:
        """The batch ``[first, next_)`` made of chunks that were read again."""
        return make_batch(first, next_, [await self._pipeline.decode(c) for c in chunks])

    async def _look(self, action: delivery.Look) -> Event:
        batch = await self._reread_batch(action.first, action.next)
        holding = await self._landing.holding(batch, self._state.stream, self._partition.number)
        if holding is delivery.Holding.ALL:
            self._alarm("views_not_verified", first=action.first, next=action.next)
        return delivery.Looked(holding)

    async def _search(self, action: delivery.Search) -> Event:
        assert self._state.intent is not None
        chunks = await self._source.read(self._partition, action.first, action.next)
        guilty = await self._landing.find_guilty(
            self._partition.number, without(chunks, self._state.intent.excluded)
        )
        self._reasons |= guilty
        if not guilty:
            self._alarm("no_guilty_row_found", first=action.first, next=action.next)
        return delivery.Found(tuple(Run(offset, 1) for offset in sorted(guilty)))

    async def _quarantine(self, action: delivery.Quarantine) -> Event:
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
        self._pipeline.observer.quarantined(len(rejections))
        return delivery.Quarantined()

    async def _complement(self, action: delivery.Quarantine) -> list[Rejection]:
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

    def _close(self, action: delivery.Close) -> None:
        self._current, self._waiting = self._waiting, None
        self._reasons.clear()
        self._pipeline.progress.advance(self._state.name, self._partition, action.next)
        self._pipeline.observer.closed(
            self._partition, lag_rows=self._source.lag(self._partition, action.next)
        )


async def finish(pipeline: Pipeline, task: asyncio.Task[None], deadline: Deadline) -> None:
    """Stop a running pipeline; what does not finish in time is repeated at the next start."""
    pipeline.stop()
    try:
        await asyncio.wait({task}, timeout=deadline.remaining_s)
    finally:
        # Also when the caller stops waiting: the log and the engine are closed next.
        if not task.done():
            log.warning("pipeline_stopped_early", datasource=pipeline.settings.name)
            task.cancel()
    await asyncio.gather(task, return_exceptions=True)
