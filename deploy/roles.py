"""The processes of an installation: ``query``, ``events``, ``serve`` and ``ingest``.

Each works with a ClickHouse server, keeps no state of its own and follows the deployments recorded
there; any number of each may run. ``serve`` is ``events`` and ``query`` on one port.

Starting goes: listen, ClickHouse, Kafka, tokens, the live deployment, HTTP. Stopping goes the other
way: no new requests, pipelines flush, connections close.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import Literal

import structlog
from litestar.types import ControllerRouterHandler
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
from deploy.engine import open_server_engine
from deploy.feed import Feed, open_feed
from deploy.follow import Follower
from deploy.operate.logs import KafkaFeeds
from deploy.operate.services import OperatorServices
from deploy.record import Deployment, DeploymentRecord
from ingest.batch import BatchLimits
from ingest.observe import MetricsObserver
from ingest.progress import Progress
from ingest.recorder import LedgerRecorder
from ingest.worker import Worker, WorkerSettings
from shared.auth.opening import open_tokens
from shared.auth.tokens import load_or_create_admin_token
from shared.clock import SystemClock
from shared.errors import AppError
from shared.model.workspace import Workspace
from shared.observe.metrics import Metrics
from shared.settings import Settings
from shared.supervise import Service
from shared.web.health import Check
from shared.web.server import listen

log = structlog.get_logger(__name__)

Role = Literal["ingest", "events", "query", "serve"]

PORTS: Mapping[Role, int] = {"ingest": 7184, "events": 7183, "query": 7181, "serve": 7181}


class Started(Struct, frozen=True, kw_only=True):
    """A process that serves."""

    url: str
    follower: Follower


async def start_role(
    service: Service, settings: Settings, role: Role, environ: Mapping[str, str]
) -> Started:
    """Start one process and return once it answers requests.

    It is ready (``/ready``) once something is deployed and what it needs answers.

    Raises:
        ConfigError: A setting is missing or wrong, the port is in use.
        UnavailableError: ClickHouse or Kafka cannot be reached.
    """
    clock, metrics = SystemClock(), Metrics()
    listener = listen(settings.host, settings.port)
    service.on_close("listener", closing(listener.close))
    # The query service writes only where tokens are changed, and says so where it may not.
    clickhouse = await open_server_engine(settings, role, writes=role != "query")
    service.on_close("clickhouse", awaiting(clickhouse.close))
    feed: Feed | None = None
    if role != "query":
        feed = await open_feed(settings)
        service.on_close("kafka", awaiting(feed.close))
    token = load_or_create_admin_token(settings.data, settings.admin_token)
    parts = Parts(
        settings=settings,
        clock=clock,
        clickhouse=clickhouse,
        serving=serving_of(clickhouse, settings),
        tokens=await open_tokens(clickhouse, settings, admin_token=token, clock=clock),
        metrics=metrics,
    )
    service.background("tokens", parts.tokens.watch())
    name = process_name(role)
    record = DeploymentRecord(clickhouse)
    checks: dict[str, Check] = {"clickhouse": clickhouse.ping}
    routes: list[ControllerRouterHandler] = []
    ingestion: Worker | None = None
    if feed is not None:
        checks["log"] = feed.log.ping
    if role == "ingest":
        assert feed is not None
        recorder = open_ledger(service, clickhouse, metrics, name)
        ingestion = _worker(parts, feed, recorder)
        checks["pipelines"] = ingestion.check
    if role in ("events", "serve"):
        assert feed is not None
        routes += events_routes(parts, feed.log, feed.watermarks, feed.topic_of)
    if role in ("query", "serve"):
        feeds = KafkaFeeds(settings, lambda: parts.serving.workspace.connections)
        service.on_close("operators", awaiting(feeds.close))
        operators = OperatorServices(
            clickhouse=clickhouse, clock=clock, feed=feeds.feed, worker=name
        )
        routes += [*query_routes(parts), *operator_routes(operators, parts)]

    async def switch(workspace: Workspace, deployment: Deployment) -> None:
        if feed is not None:
            feed.use(workspace)
        parts.serving.replace(workspace, follower.missing_pipes)

    follower = Follower(
        record,
        environ,
        switch,
        clock,
        ingestion=ingestion,
        answers=role in ("query", "serve"),
        name=name,
    )
    checks["deployment"] = follower.check
    await _follow(service, follower, ingestion)
    await serve(service, parts, routes, checks, listener)
    return Started(url=_url(settings, listener), follower=follower)


async def _follow(service: Service, follower: Follower, ingestion: Worker | None) -> None:
    """The first look before anything is served, then one a second."""
    if ingestion is not None:
        service.on_close("record", lambda _: follower.leave())
        service.on_close("pipelines", ingestion.close)
        service.background("beat", follower.keep_known())
    try:
        await follower.turn()
    except AppError as error:
        log.warning("deployment_not_read", error=str(error), code=error.code)
    service.background("follow", follower.run())


def _worker(parts: Parts, feed: Feed, recorder: LedgerRecorder) -> Worker:
    settings = parts.settings
    return Worker(
        worker_settings(settings),
        parts.clickhouse,
        feed.open_source,
        progress=Progress(),
        clock=parts.clock,
        observe=lambda name: MetricsObserver(parts.metrics, name, on_entry=recorder.record),
    )


def worker_settings(settings: Settings) -> WorkerSettings:
    """The part of the settings that concerns ingestion."""
    return WorkerSettings(
        topic_prefix=settings.topic_prefix,
        max_quarantine_ratio=settings.max_quarantine_ratio,
        looks_for_leftovers=settings.kafka_bootstrap_servers is None,
        limits=BatchLimits(
            max_rows=settings.batch_max_rows,
            max_bytes=settings.batch_max_bytes,
            max_age_s=settings.batch_max_age_s,
        ),
    )


def _url(settings: Settings, listener: socket.socket) -> str:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"http://{host}:{listener.getsockname()[1]}"
