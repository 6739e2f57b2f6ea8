"""A pipeline for each data source that takes events, started and stopped with the deployment."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Iterable, Mapping

import msgspec
import structlog
from msgspec import Struct

from ingest.batch import BatchLimits
from ingest.chunk import Partition
from ingest.excluded import ClickHouseExcludedStore
from ingest.landing import Landing
from ingest.memory import MemoryBudget
from ingest.observe import PipelineObserver
from ingest.pipeline import Pipeline, PipelineSettings, finish
from ingest.progress import Progress
from ingest.source.contract import Source
from shared.clickhouse.contract import ClickHouse
from shared.clock import Clock, Deadline
from shared.errors import AppError, LogUnavailableError, UnavailableError
from shared.model.identity import DEDUPLICATION_WINDOW
from shared.model.resources import Datasource

log = structlog.get_logger(__name__)

# Repeating after a mistake of ours; everything else is repeated inside the pipeline.
RESTART_AFTER_S = 5.0
RETIRE_TIMEOUT_S = 15.0


def schema_revision(datasource: Datasource) -> str:
    """A short digest of what decides how records become rows."""
    shape = [(c.name, c.type, c.jsonpath, c.default) for c in datasource.columns]
    return hashlib.blake2b(msgspec.json.encode(shape), digest_size=6).hexdigest()


def takes_events(datasource: Datasource) -> bool:
    """Whether any column has a JSON path; a view fills the table where none has."""
    return any(column.jsonpath is not None for column in datasource.columns)


def _problem(error: BaseException) -> BaseException:
    """What a group of one is about."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


class WorkerSettings(Struct, frozen=True, kw_only=True):
    """What all pipelines of a worker share.

    ``looks_for_leftovers``: records in the topic of a data source that takes no events are
    mentioned in the log; only where the topic costs nothing to read. ``memory_bytes`` of values may
    wait in memory, rows made of them not counted.
    """

    topic_prefix: str = "events."
    looks_for_leftovers: bool = True
    limits: BatchLimits = BatchLimits()
    inserts_per_second: float = 4.0
    max_quarantine_ratio: float = 1.0
    memory_bytes: int = 512 << 20


class _Running(Struct, kw_only=True):
    """A pipeline and the task that runs it; mutable because a restart replaces both."""

    datasource: Datasource
    pipeline: Pipeline
    task: asyncio.Task[None]


class Worker:
    """Runs the pipelines of one process.

    Args:
        settings: Names and limits.
        clickhouse: Where rows go.
        open_source: Makes the source of a data source.
        progress: Told how far each partition is.
        clock: Where time comes from.
        observe: Makes the observer of a data source's pipeline.
    """

    def __init__(
        self,
        settings: WorkerSettings,
        clickhouse: ClickHouse,
        open_source: Callable[[Datasource], Source],
        *,
        progress: Progress,
        clock: Clock,
        observe: Callable[[str], PipelineObserver],
    ) -> None:
        self._settings = settings
        self._clickhouse = clickhouse
        self._open_source = open_source
        self._progress = progress
        self._clock = clock
        self._observe = observe
        self._running: dict[str, _Running] = {}
        self._unsettled: set[str] = set()
        self._looks: dict[str, asyncio.Task[None]] = {}
        self._retiring: dict[str, asyncio.Task[bool]] = {}
        self._wanted: Mapping[str, Datasource] = {}
        self._refused: dict[str, Datasource] = {}
        self._excluded = ClickHouseExcludedStore(clickhouse)
        self._memory = MemoryBudget(max(settings.memory_bytes, settings.limits.max_bytes))

    def __repr__(self) -> str:
        return f"Worker(running={sorted(self._running)})"

    def topic(self, datasource: str) -> str:
        """The topic that feeds a data source without Kafka lines of its own."""
        return self._settings.topic_prefix + datasource

    @property
    def held(self) -> dict[Partition, str]:
        """Partitions that wait for an operator, and why."""
        return {p: why for r in self._running.values() for p, why in r.pipeline.held.items()}

    async def check(self) -> None:
        """Return where the pipelines run.

        Raises:
            UnavailableError: One has stopped by itself, or could not be started.
        """
        stopped = {n: r.pipeline.gave_up for n, r in self._running.items() if r.pipeline.gave_up}
        stopped |= dict.fromkeys(self._refused, "its connection cannot be used; see the log")
        if stopped:
            reasons = "; ".join(f"'{name}' stopped: {why}" for name, why in sorted(stopped.items()))
            raise UnavailableError(
                f"Not everything is read: {reasons}.",
                hint="Mend the data source and deploy it, or start this process again.",
            )

    def start(self, datasources: Mapping[str, Datasource]) -> None:
        """Run a pipeline for each of these data sources and for no other; their tables exist.

        Not where no column has a JSON path: nothing could be made of an event. Records of such a
        topic stay in the log.
        """
        self._wanted = datasources
        for name in [name for name in self._running if name not in datasources]:
            self._retire(name)
        for datasource in datasources.values():
            if not takes_events(datasource):
                self._look_once(datasource)
            elif self._is_new(datasource):
                self._start(datasource)

    def resume(self, names: Iterable[str]) -> None:
        """Run the pipelines of these data sources again after ``pause``; the others go on."""
        for name in names:
            wanted = self._wanted.get(name)
            if wanted is not None and takes_events(wanted) and self._is_new(wanted):
                self._start(wanted)

    def _is_new(self, datasource: Datasource) -> bool:
        name = datasource.name
        if name in self._running or name in self._retiring:
            return False
        return self._refused.get(name) != datasource

    def _retire(self, name: str) -> None:
        """Stop the pipeline of a data source that is not there any more."""
        task = asyncio.create_task(
            self.pause([name], Deadline(self._clock, RETIRE_TIMEOUT_S)), name=f"retire-{name}"
        )
        self._retiring[name] = task
        task.add_done_callback(lambda _: self._retired(name))

    def _retired(self, name: str) -> None:
        del self._retiring[name]
        wanted = self._wanted.get(name)
        if wanted is not None and name not in self._running and takes_events(wanted):
            # It came back while its last range was being completed.
            self._start(wanted)

    def _look_once(self, datasource: Datasource) -> None:
        name = datasource.name
        if self._settings.looks_for_leftovers and name not in self._looks:
            self._looks[name] = asyncio.create_task(self._look(datasource), name=f"look-{name}")

    async def _look(self, datasource: Datasource) -> None:
        """Say it when records wait in the topic of a data source that takes no events."""
        name = datasource.name
        source = self._open_source(datasource)
        try:
            poll = await source.poll(max_rows=1, max_bytes=1, timeout_s=0.0)
            waiting = sum(
                source.lag(a.partition, a.log_start if a.offset is None else a.offset)
                for a in poll.assigned
            )
        except LogUnavailableError:
            return
        finally:
            await source.close()
        if waiting:
            log.info("records_left_in_log", datasource=name, topic=self.topic(name), rows=waiting)

    def _start(self, datasource: Datasource) -> None:
        self._unsettled.discard(datasource.name)
        if look := self._looks.pop(datasource.name, None):
            look.cancel()
        try:
            pipeline = self._pipeline(datasource)
        except AppError as error:
            # The others run; this one does when it is deployed without the mistake.
            log.error("pipeline_not_started", datasource=datasource.name, error=str(error))
            self._refused[datasource.name] = datasource
            return
        self._refused.pop(datasource.name, None)
        self._observe(datasource.name).stopped(is_stopped=False)
        task = asyncio.create_task(pipeline.run(), name=f"pipeline-{datasource.name}")
        self._running[datasource.name] = _Running(
            datasource=datasource, pipeline=pipeline, task=task
        )
        task.add_done_callback(lambda done: self._ended(datasource.name, done))

    def _ended(self, name: str, task: asyncio.Task[None]) -> None:
        running = self._running.get(name)
        if running is None or running.task is not task or task.cancelled():
            return
        error = task.exception()
        if error is None:
            if why := running.pipeline.gave_up:
                # Until a deployment changes it, or the process starts anew.
                log.error("pipeline_stopped", datasource=name, reason=why)
                self._observe(name).stopped(is_stopped=True)
            return
        problem = _problem(error)
        if isinstance(problem, AppError):
            # Not a mistake of ours, so one line is enough.
            log.error("pipeline_failed", datasource=name, error=str(problem), code=problem.code)
        else:
            log.error("pipeline_failed", datasource=name, exc_info=error)
        asyncio.get_running_loop().call_later(RESTART_AFTER_S, self._restart, name, task)

    def _restart(self, name: str, failed: asyncio.Task[None]) -> None:
        running = self._running.get(name)
        if running is not None and running.task is failed:
            self._start(running.datasource)

    def _pipeline(self, datasource: Datasource) -> Pipeline:
        settings = PipelineSettings(
            name=datasource.name,
            schema=schema_revision(datasource),
            limits=self._settings.limits,
            inserts_per_second=self._settings.inserts_per_second,
            max_quarantine_ratio=self._settings.max_quarantine_ratio,
        )
        return Pipeline(
            settings,
            self._open_source(datasource),
            Landing(self._clickhouse, datasource, DEDUPLICATION_WINDOW),
            progress=self._progress,
            clock=self._clock,
            observer=self._observe(datasource.name),
            excluded=self._excluded,
            memory=self._memory,
        )

    async def recover(self, datasources: Iterable[Datasource]) -> None:
        """Complete every range that an earlier process left open, and nothing else.

        What cannot be completed now is left open, and ``pause`` says so.

        Called with the data sources as they were deployed then, before any table is changed.
        """
        pipelines = [self._pipeline(d) for d in datasources if takes_events(d)]
        runs = (pipeline.run(recover_only=True) for pipeline in pipelines)
        ended = await asyncio.gather(*runs, return_exceptions=True)
        for pipeline, error in zip(pipelines, ended, strict=True):
            if error is not None:
                # The others, and everything that reads, need not stand still for this one.
                log.error("recovery_failed", datasource=pipeline.settings.name, exc_info=error)
        self._note(pipelines)

    def _note(self, stopped: Iterable[Pipeline]) -> None:
        self._unsettled |= {p.settings.name for p in stopped if not p.is_at_rest}

    async def pause(self, names: Iterable[str], deadline: Deadline) -> bool:
        """Flush and stop these data sources; False when one of them has a range open.

        After True their tables and views may be changed: nothing of them is under way but what
        waits for a view to be mended.
        """
        names = list(names)
        for name in names:
            # Whatever it is paused for may be what was wrong with it.
            self._refused.pop(name, None)
        stopping = [self._running.pop(name) for name in names if name in self._running]
        for running in stopping:
            running.pipeline.stop()
        await asyncio.gather(*(finish(r.pipeline, r.task, deadline) for r in stopping))
        self._note(r.pipeline for r in stopping)
        return self._unsettled.isdisjoint(names)

    async def close(self, deadline: Deadline) -> None:
        """Flush and stop everything."""
        self._wanted = {}
        for look in self._looks.values():
            look.cancel()
        await asyncio.gather(
            *self._looks.values(), *self._retiring.values(), return_exceptions=True
        )
        await self.pause(list(self._running), deadline)
