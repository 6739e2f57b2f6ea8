"""``POST /v0/events``: events into the log, and the answer once they are safe there.

1. Who asks, for which data source, with which options: nothing is read before that is clear.
2. The body is received within its limits, decompressed, and cut into values.
3. The compiled decoder looks at every value, so that the counts of the answer are true.
4. All values, those for quarantine too, are appended to the log in one call.
5. 202; with ``wait=true`` 200 as soon as the rows can be queried.

The handler is plain ASGI below the router, because single events are the commonest request.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping

import structlog
from litestar import asgi
from litestar.handlers import ASGIRouteHandler
from litestar.types import Receive, Scope, Send
from msgspec import Struct

from ingest.http.body import BodyFormat, BodyLimits, Checked, Checker, read_body
from ingest.http.receive import BodyReceiver, ClientLeftError
from ingest.log.contract import Appended, Log, Watermarks
from shared.auth.tokens import DATASOURCES_APPEND, Grant, TokenStore
from shared.catalog import Catalog
from shared.errors import AppError, BadRequestError, UserError
from shared.model.resources import Datasource
from shared.observe.metrics import Metrics
from shared.settings import Settings
from shared.web.errors import require_method
from shared.web.guards import authenticate, query_parameters
from shared.web.request_id import request_id

log = structlog.get_logger(__name__)

# Up to this size a body is read at once: handing it to a thread would cost more.
_INLINE_BYTES = 256 << 10

# What web servers commonly log for a caller that is gone; it is never sent.
_CLIENT_LEFT = 499

_TRUE = frozenset({"true", "1", "yes"})
_FALSE = frozenset({"false", "0", "no", ""})


class WaitTimeoutError(UserError):
    """The events are safe in the log but were not stored in time; do not send them again."""

    code = "wait_timeout"
    http_status = 408


class EventsSettings(Struct, frozen=True, kw_only=True):
    """Limits of the Events API.

    ``max_inflight_bytes`` bounds all bodies in memory together. A body that takes longer than
    ``body_timeout_s`` to arrive is refused.
    """

    limits: BodyLimits
    wait_timeout_s: float = 10.0
    body_timeout_s: float = 60.0
    max_inflight_bytes: int = 512 << 20


class EventsServices(Struct, frozen=True, kw_only=True):
    """What the Events API works with.

    ``checker`` compiles a data source; it is called once for each version of one, and what it
    returns may be called from several threads. ``watermarks`` is None where this process does
    not learn when events are stored; ``wait=true`` is refused there. ``topic_of`` names the topic
    of a data source, or raises a UserError where events have to go elsewhere.
    """

    tokens: TokenStore
    catalog: Catalog
    log: Log
    topic_of: Callable[[Datasource], str]
    checker: Callable[[Datasource], Checker]
    metrics: Metrics
    watermarks: Watermarks | None = None


def events_settings(settings: Settings) -> EventsSettings:
    """The part of the process's settings that concerns the Events API."""
    return EventsSettings(
        limits=BodyLimits(
            max_body_bytes=settings.max_body_bytes,
            max_decompressed_bytes=settings.max_decompressed_bytes,
            max_rows=settings.max_rows_per_request,
            max_line_bytes=settings.max_line_bytes,
        ),
        wait_timeout_s=settings.wait_timeout_s,
        max_inflight_bytes=settings.max_inflight_bytes,
    )


def events_route(services: EventsServices, settings: EventsSettings) -> ASGIRouteHandler:
    """The route of the Events API."""
    api = _EventsApi(services, settings)

    @asgi("/v0/events", is_mount=False, copy_scope=False)
    async def events(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            status, body = await api.accept(scope, receive)
        except ClientLeftError:
            return
        await send(
            {
                "type": "http.response.start",
                "status": status,
                "headers": [
                    (b"content-type", b"application/json"),
                    (b"content-length", b"%d" % len(body)),
                ],
            }
        )
        await send({"type": "http.response.body", "body": body, "more_body": False})

    return events


class _Options(Struct, frozen=True, kw_only=True):
    name: str
    wait: bool
    body_format: BodyFormat


class _Target(Struct, frozen=True, kw_only=True):
    """What all requests for one version of a data source have in common."""

    datasource: Datasource
    topic: str
    checker: Checker
    count: Callable[[Checked, int, float], None]


class _EventsApi:
    def __init__(self, services: EventsServices, settings: EventsSettings) -> None:
        self._services = services
        self._settings = settings
        self._receiver = BodyReceiver(
            settings.limits,
            max_inflight_bytes=settings.max_inflight_bytes,
            timeout_s=settings.body_timeout_s,
        )
        self._targets: dict[str, _Target] = {}
        # Bound once: that costs more than a line that is not written.
        self._log = log.bind()

    async def accept(self, scope: Scope, receive: Receive) -> tuple[int, bytes]:
        """Carry out one request and count it; returns status and body."""
        require_method(scope, "POST")
        known_name = ""
        status = 500
        try:
            grant = authenticate(scope, self._services.tokens)
            options = _options(query_parameters(scope["query_string"]))
            watermarks = self._services.watermarks
            if options.wait and watermarks is None:
                raise BadRequestError(
                    "wait=true is not possible here, this process stores nothing."
                )
            target = self._target(options.name, grant)
            known_name = options.name
            checked, appended = await self._append(target, options, scope, receive)
            if options.wait and watermarks is not None:
                await self._wait(watermarks, appended)
            status = 200 if options.wait else 202
        except AppError as error:
            status = error.http_status
            raise
        except ClientLeftError:
            status = _CLIENT_LEFT
            raise
        finally:
            self._services.metrics.events_requests.labels(known_name, str(status)).inc()
        return status, (
            b'{"successful_rows":%d,"quarantined_rows":%d}'
            % (checked.successful_rows, checked.quarantined_rows)
        )

    def _target(self, name: str, grant: Grant) -> _Target:
        grant.require(DATASOURCES_APPEND, name)
        datasource = self._services.catalog.workspace.datasource(name)
        target = self._targets.get(name)
        if target is None or target.datasource is not datasource:
            _require_json_paths(datasource)
            topic = self._services.topic_of(datasource)
            target = self._targets[name] = _Target(
                datasource=datasource,
                topic=topic,
                checker=self._services.checker(datasource),
                count=_counter(self._services.metrics, name, topic),
            )
        return target

    async def _append(
        self, target: _Target, options: _Options, scope: Scope, receive: Receive
    ) -> tuple[Checked, Appended]:
        started_s = time.perf_counter()
        body = await self._receiver.receive(scope, receive)
        try:
            checked = await self._values(target, options, body)
            appended = await self._services.log.append(target.topic, checked.values)
        finally:
            self._receiver.release(body)
        target.count(checked, len(body), time.perf_counter() - started_s)
        # The batch that these offsets lie in says its token, which the query id begins with.
        self._log.debug(
            "events_appended",
            request_id=request_id(scope),
            datasource=options.name,
            topic=appended.partition.topic,
            partition=appended.partition.number,
            first=appended.first,
            next=appended.next,
        )
        return checked, appended

    async def _values(self, target: _Target, options: _Options, body: bytes) -> Checked:
        limits = self._settings.limits
        if len(body) <= _INLINE_BYTES:
            return read_body(body, options.body_format, limits, target.checker)
        return await asyncio.to_thread(read_body, body, options.body_format, limits, target.checker)

    async def _wait(self, watermarks: Watermarks, appended: Appended) -> None:
        timeout_s = self._settings.wait_timeout_s
        if not await watermarks.reached(appended.partition, appended.next, timeout_s):
            raise WaitTimeoutError(
                f"The events are safe but were not stored within {timeout_s:g} s.",
                hint="They will appear; do not send them again.",
            )


def _require_json_paths(datasource: Datasource) -> None:
    """Nothing of an event would be stored where no column says what it takes from it."""
    if not any(column.jsonpath for column in datasource.columns):
        raise BadRequestError(
            f"Data source '{datasource.name}' takes no events: no column has a JSON path.",
            hint="Add `json:$.…` to its columns, unless pipes fill it.",
        )


def _counter(metrics: Metrics, name: str, topic: str) -> Callable[[Checked, int, float], None]:
    """Count an accepted request; finding the numbers once saves half of the cost."""
    rows = metrics.events_rows.labels(name)
    quarantined = metrics.events_quarantined.labels(name)
    size = metrics.events_bytes.labels(name)
    seconds = metrics.events_seconds.labels(name)
    appended = metrics.log_appended.labels(topic)

    def count(checked: Checked, size_bytes: int, elapsed_s: float) -> None:
        rows.inc(checked.successful_rows)
        if checked.quarantined_rows:
            quarantined.inc(checked.quarantined_rows)
        size.inc(size_bytes)
        seconds.observe(elapsed_s)
        appended.inc(len(checked.values))

    return count


def _options(parameters: Mapping[str, str]) -> _Options:
    name = parameters.get("name")
    if not name:
        raise BadRequestError("The parameter 'name' is missing.", hint="Add ?name=<data source>.")
    wait = parameters.get("wait", "").lower()
    if wait not in _TRUE and wait not in _FALSE:
        raise BadRequestError(f"The parameter 'wait' is '{wait}', expected true or false.")
    body_format = parameters.get("format", "ndjson").lower()
    if body_format not in ("ndjson", "json"):
        raise BadRequestError(
            f"The parameter 'format' is '{body_format}', expected ndjson or json."
        )
    return _Options(
        name=name, wait=wait in _TRUE, body_format="json" if body_format == "json" else "ndjson"
    )
