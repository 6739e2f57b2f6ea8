"""Where the HTTP side of every process is put together: which routes it has, over which parts."""

from __future__ import annotations

import os
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence

from litestar.types import ControllerRouterHandler
from msgspec import Struct

from deploy.engine import Engine
from deploy.operate.http import operate_route
from deploy.operate.services import OperatorServices
from ingest.decode import Decoder
from ingest.http.events import EventsServices, events_route, events_settings
from ingest.ledger import Ledger
from ingest.log.contract import Log, Watermarks
from ingest.recorder import LedgerRecorder
from query.cache import AnswerCache
from query.http.docs import docs_routes
from query.http.pipes import QueryServices, pipes_route
from query.http.sql import sql_route
from query.http.tokens import tokens_route
from query.serving import Serving
from shared.auth.stored import StoredTokens
from shared.clickhouse.contract import Limits
from shared.clock import Clock, Deadline
from shared.model.resources import Datasource
from shared.observe.metrics import Metrics
from shared.settings import Settings
from shared.supervise import Close, Service
from shared.web.app import create_app
from shared.web.cors import parse_origins
from shared.web.health import Check, health_routes, metrics_route
from shared.web.server import serve_http

Routes = Sequence[ControllerRouterHandler]


class Parts(Struct, frozen=True, kw_only=True):
    """What the routes of a process work with."""

    settings: Settings
    clock: Clock
    clickhouse: Engine
    serving: Serving
    tokens: StoredTokens
    metrics: Metrics


def serving_of(clickhouse: Engine, settings: Settings) -> Serving:
    """What is served, which is nothing yet."""
    return Serving(
        clickhouse.parse,
        clickhouse.database,
        strict_enums=settings.strict_enums,
        max_threads=settings.query_max_threads,
    )


def query_limits(settings: Settings) -> Limits:
    """The limits of one query."""
    return Limits(
        max_time_s=settings.query_timeout_s,
        max_memory_bytes=settings.query_max_memory_bytes,
        max_result_bytes=settings.query_max_result_bytes,
    )


def query_routes(parts: Parts) -> Routes:
    """What readers call."""
    queries = QueryServices(
        tokens=parts.tokens,
        serving=parts.serving,
        clickhouse=parts.clickhouse,
        metrics=parts.metrics,
        limits=query_limits(parts.settings),
        cache=_answer_cache(parts),
    )
    return [
        pipes_route(queries),
        tokens_route(parts.tokens, parts.serving, parts.clock),
        sql_route(queries),
        *docs_routes(parts.tokens, parts.serving, parts.clickhouse),
    ]


def _answer_cache(parts: Parts) -> AnswerCache | None:
    settings = parts.settings
    if not settings.cache_max_bytes:
        return None
    return AnswerCache(
        parts.clickhouse,
        parts.clock,
        parts.metrics,
        max_bytes=settings.cache_max_bytes,
        for_all=settings.cache_all,
    )


def events_routes(
    parts: Parts,
    log: Log,
    watermarks: Watermarks | None,
    topic_of: Callable[[Datasource], str],
) -> Routes:
    """What producers call."""
    events = EventsServices(
        tokens=parts.tokens,
        catalog=parts.serving,
        log=log,
        topic_of=topic_of,
        checker=Decoder,
        metrics=parts.metrics,
        watermarks=watermarks,
    )
    return [events_route(events, events_settings(parts.settings))]


def operator_routes(services: OperatorServices, parts: Parts) -> Routes:
    """What operators' commands call."""
    return [operate_route(services, parts.tokens)]


def open_ledger(
    service: Service, clickhouse: Engine, metrics: Metrics, name: str
) -> LedgerRecorder:
    """The ledger of a process that ingests; registered before its pipelines, it closes after."""
    recorder = LedgerRecorder(Ledger(clickhouse), metrics, worker=name)
    service.on_close("ledger", recorder.close)
    service.background("ledger-write", recorder.run())
    return recorder


def process_name(role: str) -> str:
    """What a process is called in records and in the ledger."""
    return f"{role}-{socket.gethostname()}-{os.getpid()}"


async def serve(
    service: Service,
    parts: Parts,
    routes: Routes,
    checks: Mapping[str, Check],
    listener: socket.socket,
) -> None:
    """Serve these routes, health and metrics until the process stops."""
    need_token = parts.settings.metrics_need_token
    app = create_app(
        [
            *routes,
            *health_routes(checks),
            metrics_route(parts.metrics, parts.tokens, need_token=need_token),
        ],
        cors_origins=parse_origins(parts.settings.cors_origins),
    )
    await serve_http(service, app, listener)


def closing(close: Callable[[], None]) -> Close:
    """A step of the shutdown that takes no time."""

    async def run(deadline: Deadline) -> None:
        close()

    return run


def awaiting(close: Callable[[], Awaitable[None]]) -> Close:
    """A step of the shutdown that knows by itself when to give up."""

    async def run(deadline: Deadline) -> None:
        await close()

    return run
