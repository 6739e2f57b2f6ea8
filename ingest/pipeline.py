"""One data source: source -> decode -> batch -> delivery -> insert -> commit.

``Pipeline`` reads and decodes; for each assigned partition ``ingest/partition.py`` does what
``ingest/delivery.py`` decides, one action after another. Decoding goes on while a batch is being
inserted: one more may be closed, and a third be filled. Backpressure: when that one is full too,
the partition is paused while polling goes on; the log holds what producers send meanwhile. So a
partition keeps at most three batches in memory: in flight, closed, and open; many partitions with
a backlog less, see ``ingest/memory.py``.

Shutdown, under one deadline: stop reading; close every open batch; let each partition finish the
range under way and close it without a following intent; what does not fit into the time, or fails
again and again, is left in the log and is repeated under the same token by the next start.
"""

from __future__ import annotations

import asyncio
from collections import deque
from concurrent.futures import ThreadPoolExecutor

import structlog
from msgspec import Struct

from ingest.batch import BatchLimits, InsertBudget
from ingest.chunk import Chunk, Decoded, Partition
from ingest.entries import stopped_entry
from ingest.excluded import ExcludedStore
from ingest.landing import Landing
from ingest.memory import MemoryBudget
from ingest.needs import PartitionNeeds
from ingest.observe import NOTHING_WATCHED, PipelineObserver, Watched
from ingest.partition import PartitionDelivery
from ingest.progress import Progress
from ingest.quarantine import QuarantineLimit
from ingest.source.contract import Assignment, Source
from shared.clock import Clock, Deadline
from shared.errors import LogUnavailableError

log = structlog.get_logger(__name__)

# Small against a batch, so that a batch never exceeds its limits by much, and so short a piece of
# work for the decoder that requests are served in between.
POLL_ROWS = 8_192
POLL_BYTES = 8 << 20
POLL_TIMEOUT_S = 0.25
# Below this a chunk is decoded at once: handing it to a thread costs more.
INLINE_ROWS = 256
WATCH_INTERVAL_S = 1.0


class PipelineSettings(Struct, frozen=True, kw_only=True):
    """What a pipeline is made of, apart from where it reads and writes.

    ``name`` is the data source's, ``schema`` its revision; both go into tokens and intents. When a
    larger share than ``max_quarantine_ratio`` of the latest rows is rejected, the pipeline stops.
    """

    name: str
    schema: str
    limits: BatchLimits = BatchLimits()
    inserts_per_second: float = 4.0
    max_quarantine_ratio: float = 1.0


class Pipeline:
    """Delivers one topic into one data source.

    Args:
        settings: Names and limits.
        source: Where records come from; closed by the pipeline.
        landing: Where rows go.
        progress: Told how far each partition is.
        clock: Where time comes from.
        observer: Told what happens.
        excluded: Keeps what does not fit into a commit.
        memory: How much may wait in memory, shared with other pipelines.
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
        excluded: ExcludedStore,
        memory: MemoryBudget,
    ) -> None:
        self._memory = memory
        self._parked: deque[tuple[Partition, PartitionDelivery]] = deque()
        self.settings = settings
        self.source = source
        self._decoder = landing.decoder
        self._needs = PartitionNeeds(
            name=settings.name,
            schema=settings.schema,
            limits=settings.limits,
            budget=InsertBudget(settings.inserts_per_second),
            source=source,
            landing=landing,
            progress=progress,
            clock=clock,
            observer=observer,
            excluded=excluded,
            decode=self._decode,
            on_settled=self._settled,
            on_held=lambda: observer.held(len(self.held)),
            on_room=self._make_room,
            on_refused=self._refused,
        )
        self._partitions: dict[Partition, PartitionDelivery] = {}
        self._tasks: dict[Partition, asyncio.Task[None]] = {}
        self._stopping = asyncio.Event()
        self._limit = QuarantineLimit(settings.max_quarantine_ratio)
        self._newest_ms: dict[Partition, int] = {}
        self._watched_s = 0.0
        self.gave_up = ""
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
            self._memory.leave(self.settings.name)
            self._needs.observer.watched(NOTHING_WATCHED)
            await self.source.close()
            self._decoder_thread.shutdown(wait=False)

    def stop(self) -> None:
        """Read nothing more, flush, and let ``run`` return."""
        self._stopping.set()
        for partition in self._partitions.values():
            partition.intake.finish()

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
                self._give_back(revoked)
            for assignment in poll.assigned:
                self._take(group, assignment)
            if recover_only:
                self.stop()
            for chunk in poll.chunks:
                await self._feed(chunk)
            # Others may have made it.
            self._make_room()
            self._watch()

    def _take(self, group: asyncio.TaskGroup, assignment: Assignment) -> None:
        key = assignment.partition
        partition = PartitionDelivery(self._needs, assignment)
        self._partitions[key] = partition
        # Until something is read of it: since when nothing was.
        self._newest_ms[key] = self._needs.clock.now_ms()
        assert self._unsettled is not None
        self._unsettled.add(key)
        if self._stopping.is_set():
            partition.intake.finish()
        deliver = _after(self._tasks.get(key), partition)
        task = group.create_task(deliver, name=f"deliver-{key.topic}-{key.number}")
        self._tasks[key] = task
        task.add_done_callback(lambda done: self._forget(key, done))

    def _give_back(self, key: Partition) -> None:
        """Let the range under way finish; the source is told when nothing more happens."""
        task = self._tasks.get(key)
        if task is None:
            self.source.let_go(key)
            return
        self._partitions[key].abandon()
        task.add_done_callback(lambda _: self.source.let_go(key))

    def _settled(self, key: Partition) -> None:
        """A partition ended without an open range."""
        assert self._unsettled is not None
        self._unsettled.discard(key)

    def _forget(self, key: Partition, task: asyncio.Task[None]) -> None:
        if self._tasks.get(key) is task:
            del self._tasks[key], self._partitions[key]
            self._needs.on_held()

    async def _feed(self, chunk: Chunk) -> None:
        holder = self._partitions.get(chunk.partition)
        if holder is None:
            return
        chunk = holder.left_out(chunk)
        decoded = await self._decode(chunk)
        if not self._limit.add(len(chunk.offsets), len(decoded.rejections)):
            self._give_up(chunk.partition)
            return
        if chunk.timestamps_ms and chunk.timestamps_ms[-1] > 0:
            self._newest_ms[chunk.partition] = chunk.timestamps_ms[-1]
        if self._partitions.get(chunk.partition) is holder:
            holder.intake.add(chunk, decoded)
            self._keep_within_memory()

    def _keep_within_memory(self) -> None:
        """Let every partition wait in the log while too much is in memory."""
        if self._room_bytes() > 0:
            return
        parked = {id(partition) for _, partition in self._parked}
        for key, partition in self._partitions.items():
            if id(partition) not in parked:
                partition.intake.park()
                self._parked.append((key, partition))

    def _make_room(self) -> None:
        """Read on where it has waited longest, as many partitions as there is room for batches."""
        room_bytes = self._room_bytes()
        while self._parked and room_bytes > 0:
            key, partition = self._parked.popleft()
            if self._partitions.get(key) is partition:
                partition.intake.unpark()
                room_bytes -= self.settings.limits.max_bytes

    def _room_bytes(self) -> int:
        name = self.settings.name
        self._memory.report(name, sum(p.held_bytes for p in self._partitions.values()))
        return self._memory.room_bytes(name)

    def _refused(self, partition: Partition, rows: int, refused: int) -> None:
        if not self._limit.refuse(rows, refused):
            self._give_up(partition)

    def _give_up(self, partition: Partition) -> None:
        """Stop without committing what was read; ranges under way are completed."""
        if self.gave_up:
            return
        self.gave_up = (
            f"{self._limit.text} are bad, more than max_quarantine_ratio"
            f" {self.settings.max_quarantine_ratio:g} allows"
        )
        now_ms = self._needs.clock.now_ms()
        entry = stopped_entry(self.settings.name, partition.topic, self.gave_up, now_ms)
        self._needs.observer.recorded(entry)
        self._stopping.set()
        for each in self._partitions.values():
            each.intake.abandon()

    def _watch(self) -> None:
        clock = self._needs.clock
        now_s, now_ms = clock.monotonic(), clock.now_ms()
        if now_s - self._watched_s < WATCH_INTERVAL_S:
            return
        self._watched_s = now_s
        partitions = self._partitions.items()
        self._needs.observer.watched(
            Watched(
                lag_rows={p.number: self.source.lag(p, d.done_to) for p, d in partitions},
                behind_s={p.number: self._behind_s(p, d, now_s, now_ms) for p, d in partitions},
                age_s=max((d.age_s(now_s) for _, d in partitions), default=0.0),
                paused=sum(d.intake.is_full for _, d in partitions),
            )
        )

    def _behind_s(
        self, key: Partition, partition: PartitionDelivery, now_s: float, now_ms: int
    ) -> float:
        # What was read and is not stored cannot be queried either.
        behind_s = partition.age_s(now_s)
        if self.source.lag(key, partition.intake.read_to) > 0:
            behind_s = max(behind_s, (now_ms - self._newest_ms[key]) / 1000)
        return behind_s

    async def _decode(self, chunk: Chunk) -> Decoded:
        """Decode beside the event loop when the chunk is large."""
        if len(chunk.offsets) < INLINE_ROWS:
            return self._decoder.decode(chunk)
        return await asyncio.get_running_loop().run_in_executor(
            self._decoder_thread, self._decoder.decode, chunk
        )


async def _after(previous: asyncio.Task[None] | None, partition: PartitionDelivery) -> None:
    """Deliver once nothing of an earlier assignment is under way in this process."""
    if previous is not None:
        previous.cancel()
        await asyncio.wait({previous})
    await partition.run()


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
