"""``pipehouse dev``: the whole product in one process, on the embedded engine and log.

1. Open the engine and the log in the data folder; both refuse a second process.
2. Complete what an earlier process left open, against the tables as they are.
3. Release the project, start the pipelines, serve HTTP.
4. Watch the files: every change is released; a broken edit keeps the last good version.

Stopping goes the other way: no new requests, pipelines flush, the log and the engine close.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

import structlog
from msgspec import Struct

from deploy.compose import (
    Parts,
    awaiting,
    closing,
    events_routes,
    open_ledger,
    operator_routes,
    process_name,
    query_routes,
    serve,
    serving_of,
)
from deploy.engine import Engine, open_engine
from deploy.fixtures import find_fixtures, skipped_fixtures
from deploy.operate.services import OperatorServices, prefixed_feed
from deploy.own_tables import prepare_own_tables
from deploy.release import Released, Releaser
from deploy.roles import worker_settings
from deploy.state import read_state
from deploy.watch import watch_project
from ingest.chunk import Partition
from ingest.log.facts import LocalLogFacts
from ingest.log.local import LocalLog, open_local_log
from ingest.observe import MetricsObserver, nothing
from ingest.progress import Progress
from ingest.source.local import LocalSource
from ingest.worker import Worker
from shared.auth.opening import open_tokens
from shared.auth.stored import StoredTokens
from shared.auth.tokens import load_or_create_admin_token
from shared.clock import Clock, SystemClock
from shared.datafile.project import LoadedProject, load_project
from shared.errors import AppError, LogUnavailableError
from shared.model.resources import Datasource
from shared.observe.metrics import Metrics
from shared.settings import Settings
from shared.supervise import Service
from shared.web.server import listen

log = structlog.get_logger(__name__)

RETENTION_INTERVAL_S = 60.0


class Running(Struct, kw_only=True):
    """A dev server that serves; mutable because each release replaces ``released``."""

    url: str
    token: str
    released: Released
    clickhouse: Engine
    log: LocalLog
    worker: Worker
    metrics: Metrics


class DevOptions(Struct, frozen=True, kw_only=True):
    """What the command was asked for beside its settings.

    ``on_release`` is told of every release, the first included. ``on_step`` is told of every step
    of a delivery; tests end the process there.
    """

    folders: tuple[Path, ...]
    environ: tuple[tuple[str, str], ...] = ()
    fixtures: bool = False
    watch: bool = True
    on_release: Callable[[Released], None] = lambda released: None
    on_step: Callable[[Partition, str, str], None] = nothing


async def start_dev(service: Service, settings: Settings, options: DevOptions) -> Running:
    """Start everything and return once requests are answered.

    Raises:
        ConfigError: The data folder is owned, the port is in use, a setting is wrong.
    """
    clock = SystemClock()
    listener = listen(settings.host, settings.port)
    service.on_close("listener", closing(listener.close))
    token = load_or_create_admin_token(settings.data, settings.admin_token)
    clickhouse = await open_engine(settings)
    service.on_close("clickhouse", awaiting(clickhouse.close))
    await prepare_own_tables(clickhouse)
    local_log = open_local_log(settings.data / "log", fsync=settings.fsync, clock=clock)
    service.on_close("log", awaiting(local_log.close))

    metrics, progress = Metrics(), Progress()
    serving = serving_of(clickhouse, settings)
    name = process_name("dev")
    recorder = open_ledger(service, clickhouse, metrics, name)

    def observe(datasource: str) -> MetricsObserver:
        return MetricsObserver(metrics, datasource, options.on_step, recorder.record)

    worker = _worker(settings, clickhouse, local_log, progress, clock, observe)
    service.on_close("pipelines", worker.close)
    state = await read_state(clickhouse)
    await worker.recover(state.datasources.values())
    tokens = await open_tokens(clickhouse, settings, admin_token=token, clock=clock)
    releaser = Releaser(clickhouse, serving, worker, clock)
    released = await _release(releaser, tokens, options)
    running = Running(
        url=f"http://{settings.host}:{listener.getsockname()[1]}",
        token=token,
        released=released,
        clickhouse=clickhouse,
        log=local_log,
        worker=worker,
        metrics=metrics,
    )
    options.on_release(released)
    if options.fixtures:
        await _load_fixtures(running, options.folders)
    service.background("retention", _retain(local_log, settings, clock))
    if options.watch:
        service.background("watch", _reload(releaser, tokens, running, options))
    service.background("tokens", tokens.watch())
    parts = Parts(
        settings=settings,
        clock=clock,
        clickhouse=clickhouse,
        serving=serving,
        tokens=tokens,
        metrics=metrics,
    )
    routes = [
        *events_routes(parts, local_log, progress, lambda d: worker.topic(d.name)),
        *query_routes(parts),
        *operator_routes(_operators(settings, parts, local_log, worker, name), parts),
    ]
    checks = {"clickhouse": clickhouse.ping, "log": local_log.ping}
    await serve(service, parts, routes, checks, listener)
    return running


def _worker(
    settings: Settings,
    clickhouse: Engine,
    local_log: LocalLog,
    progress: Progress,
    clock: Clock,
    observe: Callable[[str], MetricsObserver],
) -> Worker:
    def open_source(datasource: Datasource) -> LocalSource:
        name = datasource.name
        return LocalSource(local_log, settings.topic_prefix + name, settings.group_prefix + name)

    return Worker(
        worker_settings(settings),
        clickhouse,
        open_source,
        progress=progress,
        clock=clock,
        observe=observe,
    )


def _operators(
    settings: Settings, parts: Parts, local_log: LocalLog, worker: Worker, name: str
) -> OperatorServices:
    facts = LocalLogFacts(local_log)
    return OperatorServices(
        clickhouse=parts.clickhouse,
        clock=parts.clock,
        feed=prefixed_feed(settings.topic_prefix, settings.group_prefix, facts),
        ingestion=worker,
        data=settings.data,
        fsync=settings.fsync,
        worker=name,
    )


def _load(options: DevOptions) -> LoadedProject:
    return load_project(options.folders, dict(options.environ))


async def _load_fixtures(running: Running, folders: Sequence[Path]) -> None:
    """Append fixtures to the log, of data sources that have no events yet."""
    datasources = running.released.workspace.datasources
    for skipped in skipped_fixtures(folders, datasources):
        log.warning("fixture_skipped", reason=skipped)
    for fixture in find_fixtures(folders, datasources):
        topic = running.worker.topic(fixture.datasource.name)
        await running.log.create_topic(topic)
        if running.log.end(Partition(topic, 0)) == 0:
            await running.log.append(topic, fixture.values)
            log.info("fixture_loaded", path=str(fixture.path), rows=len(fixture.values))


async def _retain(local_log: LocalLog, settings: Settings, clock: Clock) -> None:
    while True:
        await asyncio.sleep(RETENTION_INTERVAL_S)
        try:
            await local_log.remove_read(clock.now_ms() - settings.log_retention_s * 1000)
        except LogUnavailableError as error:
            # A full disk is no reason to stop; the next turn comes.
            log.warning("retention_failed", error=str(error))


async def _release(releaser: Releaser, tokens: StoredTokens, options: DevOptions) -> Released:
    released = await releaser.release(_load(options))
    await tokens.apply_workspace(released.workspace)
    return released


async def _reload(
    releaser: Releaser, tokens: StoredTokens, running: Running, options: DevOptions
) -> None:
    """Release every change of the files; nothing that goes wrong ends the server."""
    async for _ in watch_project(options.folders):
        try:
            running.released = await _release(releaser, tokens, options)
        except AppError as error:
            log.error("release_failed", error=str(error), code=error.code)
        else:
            options.on_release(running.released)
