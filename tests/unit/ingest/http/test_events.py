import asyncio
import gzip
from collections.abc import AsyncIterator, Sequence
from typing import Any, cast

import msgspec
import pytest
from httpx import ASGITransport, AsyncClient, Response
from litestar.types import HTTPRequestEvent, HTTPScope, ReceiveMessage
from structlog.testing import capture_logs

from ingest.chunk import CellError, Partition, Rejection
from ingest.http.body import BodyLimits
from ingest.http.events import EventsServices, EventsSettings, events_route, events_settings
from ingest.http.receive import BodyReceiver, ClientLeftError
from ingest.log.contract import Appended
from shared.auth.tokens import DATASOURCES_APPEND, AdminTokenStore, Grant, Scope
from shared.catalog import StaticCatalog
from shared.errors import (
    BadRequestError,
    LogUnavailableError,
    SaturatedError,
    TooLargeError,
)
from shared.model.resources import Column, Datasource
from shared.model.workspace import Workspace
from shared.observe.metrics import Metrics
from shared.settings import Settings
from shared.web.app import create_app

ADMIN_TOKEN = "p.a-token-for-tests"
WRITER_TOKEN = "p.writes-messages-only"
LIMITS = BodyLimits(
    max_body_bytes=1_000_000, max_decompressed_bytes=2_000_000, max_rows=50_000, max_line_bytes=999
)


class Tokens(AdminTokenStore):
    """Knows a second token, which may append to one data source only."""

    def grant(self, token: bytes) -> Grant:
        if token == WRITER_TOKEN.encode():
            scope = Scope(type=DATASOURCES_APPEND, resource="messages")
            return Grant(name="writer", scopes=(scope,))
        return super().grant(token)


class NumberChecker:
    """Takes objects whose ``n`` is a number."""

    def __init__(self, datasource: Datasource) -> None:
        self.datasource = datasource

    def check(self, values: Sequence[bytes]) -> tuple[int, tuple[Rejection, ...]]:
        rejections = tuple(
            Rejection(offset=i, timestamp_ms=0, raw=value, errors=(CellError("", "no"),))
            for i, value in enumerate(values)
            if not value.startswith(b'{"n":') or not value[5:6].isdigit()
        )
        return len(values) - len(rejections), rejections


class MemoryLog:
    """Keeps records in memory; fails when told to."""

    def __init__(self) -> None:
        self.topics: dict[str, list[bytes]] = {}
        self.failure: Exception | None = None

    async def append(self, topic: str, values: Sequence[bytes]) -> Appended:
        if self.failure is not None:
            raise self.failure
        records = self.topics.setdefault(topic, [])
        first = len(records)
        records.extend(values)
        return Appended(Partition(topic, 0), first, len(records))

    async def ping(self) -> None:
        return


class Marks:
    """Says whether events are stored, and remembers what it was asked."""

    def __init__(self) -> None:
        self.stored = True
        self.asked: list[tuple[Partition, int, float]] = []

    async def reached(self, partition: Partition, next_: int, timeout_s: float) -> bool:
        self.asked.append((partition, next_, timeout_s))
        return self.stored


class World:
    def __init__(self, *, can_wait: bool = True) -> None:
        self.log = MemoryLog()
        self.marks = Marks()
        self.metrics = Metrics()
        self.compiled: list[Datasource] = []
        self.catalog = StaticCatalog(workspace("events", "messages"))
        services = EventsServices(
            topic_of=lambda datasource: "events." + datasource.name,
            tokens=Tokens(ADMIN_TOKEN),
            catalog=self.catalog,
            log=self.log,
            checker=self.compile,
            metrics=self.metrics,
            watermarks=self.marks if can_wait else None,
        )
        settings = EventsSettings(limits=LIMITS, wait_timeout_s=3.0)
        self.app = create_app([events_route(services, settings)])
        self.client = AsyncClient(
            transport=ASGITransport(cast(Any, self.app)),
            base_url="http://test",
            headers={"Authorization": f"Bearer {ADMIN_TOKEN}"},
        )

    def compile(self, datasource: Datasource) -> NumberChecker:
        self.compiled.append(datasource)
        return NumberChecker(datasource)

    async def post(self, body: bytes, query: str = "name=events", **headers: str) -> Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.client.post(f"/v0/events?{query}", content=body, headers=named)


def workspace(*names: str) -> Workspace:
    columns = (Column(name="number", type="Int64", jsonpath="$.number"),)
    return Workspace(datasources={name: Datasource(name=name, columns=columns) for name in names})


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    async with world.client:
        yield world


async def test_events_are_appended_in_order_and_counted(world: World) -> None:
    response = await world.post(b'{"n":1}\n{"n":"x"}\n{"n":2}\n')
    assert response.status_code == 202
    assert response.json() == {"successful_rows": 2, "quarantined_rows": 1}
    assert response.headers["content-type"] == "application/json"
    assert world.log.topics == {"events.events": [b'{"n":1}', b'{"n":"x"}', b'{"n":2}']}


async def test_a_trailing_slash_is_tolerated(world: World) -> None:
    response = await world.client.post("/v0/events/?name=events", content=b'{"n":1}')
    assert response.status_code == 202


@pytest.mark.parametrize(
    "content_type",
    ["application/x-www-form-urlencoded", "application/json", "text/plain", "multipart/form-data"],
)
async def test_the_content_type_does_not_matter(world: World, content_type: str) -> None:
    assert (await world.post(b'{"n":1}', content_type=content_type)).status_code == 202
    assert world.log.topics["events.events"] == [b'{"n":1}']


async def test_the_token_may_stand_in_the_query_string_and_wins_there(world: World) -> None:
    for query, status in ((f"token={ADMIN_TOKEN}", 202), ("token=p.wrong-token-here", 403)):
        assert (await world.post(b'{"n":1}', f"name=events&{query}")).status_code == status


@pytest.mark.parametrize("authorization", ["", "Bearer p.wrong", f"Basic {ADMIN_TOKEN}"])
async def test_without_a_known_token_nothing_is_appended(world: World, authorization: str) -> None:
    response = await world.post(b'{"n":1}', authorization=authorization)
    assert (response.status_code, response.json()["code"]) == (403, "bad_token")
    assert world.log.topics == {}


async def test_a_token_appends_only_where_its_scope_allows(world: World) -> None:
    allowed = await world.post(b'{"n":1}', "name=messages", authorization=f"Bearer {WRITER_TOKEN}")
    assert allowed.status_code == 202
    for name in ("events", "unknown"):
        refused = await world.post(b"{}", f"name={name}", authorization=f"Bearer {WRITER_TOKEN}")
        assert (refused.status_code, refused.json()["code"]) == (403, "missing_scope")


@pytest.mark.parametrize(
    ("query", "status", "part"),
    [
        ("", 400, "name"),
        ("name=", 400, "name"),
        ("name=event", 404, "Did you mean 'events'?"),
        ("name=%ff", 404, "not found"),
        ("name=events&wait=perhaps", 400, "wait"),
        ("name=events&format=csv", 400, "format"),
    ],
)
async def test_bad_parameters_are_named(world: World, query: str, status: int, part: str) -> None:
    response = await world.post(b'{"n":1}', query)
    assert response.status_code == status
    assert part in response.json()["error"]
    assert world.log.topics == {}


async def test_a_data_source_that_only_pipes_fill_takes_no_events(world: World) -> None:
    filled = Datasource(name="daily", columns=(Column(name="day", type="Date"),))
    world.catalog.replace(Workspace(datasources={"daily": filled}))
    answer = await world.post(b'{"day":"2025-01-01"}', "name=daily")
    assert answer.status_code == 400
    assert "'daily' takes no events" in answer.json()["error"]
    assert world.log.topics == {}


async def test_parameters_of_other_clients_are_ignored(world: World) -> None:
    response = await world.post(b'{"n":1}', "name=events&from=sdk&cli_version=1&utm_source=x")
    assert response.status_code == 202


@pytest.mark.parametrize("method", ["GET", "PUT", "HEAD", "DELETE"])
async def test_other_methods_are_refused(world: World, method: str) -> None:
    response = await world.client.request(method, "/v0/events?name=events")
    assert (response.status_code, response.headers["allow"]) == (405, "POST")


@pytest.mark.parametrize("body", [b"", b"\n", b"hello", b'[{"n":1}]'])
async def test_a_body_without_events_is_refused(world: World, body: bytes) -> None:
    response = await world.post(body)
    assert (response.status_code, response.json()["code"]) == (400, "bad_request")
    assert world.log.topics == {}


async def test_format_json_takes_an_array(world: World) -> None:
    response = await world.post(b'[{"n":1},{"n":2}]', "name=events&format=json")
    assert response.json() == {"successful_rows": 2, "quarantined_rows": 0}


@pytest.mark.parametrize("count", [1, 40_000])
async def test_compressed_and_large_bodies_are_read_too(world: World, count: int) -> None:
    lines = [b'{"n":%d}' % number for number in range(count)]
    for body, headers in (
        (b"\n".join(lines), {}),
        (gzip.compress(b"\n".join(lines)), {"content_encoding": "gzip"}),
    ):
        response = await world.post(body, **headers)
        assert response.json() == {"successful_rows": count, "quarantined_rows": 0}
    assert world.log.topics["events.events"] == lines + lines


async def test_too_large_a_body_is_refused_by_what_it_declares(world: World) -> None:
    response = await world.post(b"x" * 1_000_001)
    assert (response.status_code, response.json()["code"]) == (413, "too_large")


async def test_a_body_that_inflates_too_far_is_refused(world: World) -> None:
    response = await world.post(gzip.compress(bytes(2_000_001)), content_encoding="gzip")
    assert response.status_code == 413


@pytest.mark.parametrize(
    ("failure", "status"),
    [(LogUnavailableError("The disk is full."), 503), (SaturatedError("Too much."), 429)],
)
async def test_a_log_that_does_not_take_events_is_told_with_when_to_come_back(
    world: World, failure: Exception, status: int
) -> None:
    world.log.failure = failure
    response = await world.post(b'{"n":1}')
    assert response.status_code == status
    assert response.headers["retry-after"] == "1"


async def test_wait_answers_200_once_the_events_are_stored(world: World) -> None:
    await world.post(b'{"n":0}')
    response = await world.post(b'{"n":1}\n{"n":2}', "name=events&wait=true")
    assert (response.status_code, response.json()["successful_rows"]) == (200, 2)
    assert world.marks.asked == [(Partition("events.events", 0), 3, 3.0)]


async def test_a_wait_that_is_over_says_that_the_events_are_safe(world: World) -> None:
    world.marks.stored = False
    response = await world.post(b'{"n":1}', "name=events&wait=true")
    assert (response.status_code, response.json()["code"]) == (408, "wait_timeout")
    assert "do not send them again" in response.json()["error"]
    assert world.log.topics["events.events"] == [b'{"n":1}']


async def test_wait_is_refused_before_anything_is_appended_where_it_is_not_possible() -> None:
    world = World(can_wait=False)
    async with world.client:
        response = await world.post(b'{"n":1}', "name=events&wait=true")
    assert response.status_code == 400
    assert world.log.topics == {}


async def test_a_data_source_is_compiled_once_and_again_when_it_changed(world: World) -> None:
    for _ in range(3):
        await world.post(b'{"n":1}')
    assert len(world.compiled) == 1
    world.catalog.replace(workspace("events"))
    await world.post(b'{"n":1}')
    assert len(world.compiled) == 2
    assert (await world.post(b'{"n":1}', "name=messages")).status_code == 404


async def test_requests_and_rows_are_counted(world: World) -> None:
    await world.post(b'{"n":1}\n{"n":"x"}')
    await world.post(b"", "name=unknown")
    await world.post(b"")
    text = world.metrics.exposition().decode()
    assert 'pipehouse_events_requests_total{datasource="events",status="202"} 1.0' in text
    assert 'pipehouse_events_requests_total{datasource="",status="404"} 1.0' in text
    assert 'pipehouse_events_requests_total{datasource="events",status="400"} 1.0' in text
    assert 'pipehouse_events_rows_total{datasource="events"} 1.0' in text
    assert 'pipehouse_events_quarantined_total{datasource="events"} 1.0' in text
    assert 'pipehouse_events_bytes_total{datasource="events"} 17.0' in text
    assert 'pipehouse_log_appended_total{topic="events.events"} 2.0' in text


def scope(**headers: str) -> HTTPScope:
    raw = [(k.replace("_", "-").encode(), v.encode()) for k, v in headers.items()]
    return {"type": "http", "headers": raw}  # type: ignore[typeddict-item]


class Wire:
    """Hands out a body piece by piece, then says that the caller left, or nothing at all."""

    def __init__(self, *pieces: bytes, leaves: bool = False, stalls: bool = False) -> None:
        self.messages: list[ReceiveMessage] = [
            HTTPRequestEvent(type="http.request", body=piece, more_body=i < len(pieces) - 1)
            for i, piece in enumerate(pieces)
        ]
        if leaves:
            self.messages[-1:] = [{"type": "http.disconnect"}]
        if stalls:
            self.messages.pop()

    async def __call__(self) -> ReceiveMessage:
        if not self.messages:
            await asyncio.Event().wait()
        return self.messages.pop(0)


def receiver(*, inflight: int = 1000, timeout_s: float = 5.0) -> BodyReceiver:
    limits = msgspec.structs.replace(LIMITS, max_body_bytes=100, max_decompressed_bytes=500)
    return BodyReceiver(limits, max_inflight_bytes=inflight, timeout_s=timeout_s)


async def test_a_body_in_pieces_is_joined_and_its_memory_given_back() -> None:
    bodies = receiver()
    body = await bodies.receive(scope(), Wire(b"ab", b"", b"cd"))
    assert (body, bodies.inflight_bytes) == (b"abcd", 4)
    bodies.release(body)
    assert bodies.inflight_bytes == 0


async def test_memory_is_counted_as_it_is_after_decompression() -> None:
    bodies = receiver()
    packed = gzip.compress(b"a" * 400)
    body = await bodies.receive(scope(content_encoding="gzip"), Wire(packed[:10], packed[10:]))
    assert (len(body), bodies.inflight_bytes) == (400, 400)


@pytest.mark.parametrize(
    ("headers", "wire", "error"),
    [
        ({"content_length": "101"}, Wire(b"", stalls=True), TooLargeError),
        ({}, Wire(b"a" * 101), TooLargeError),
        ({}, Wire(b"a" * 60, b"a" * 41), TooLargeError),
        ({"content_length": "-5"}, Wire(b"a" * 60, b"a" * 41), TooLargeError),
        ({"content_encoding": "gzip"}, Wire(gzip.compress(bytes(501))), TooLargeError),
        ({"content_encoding": "gzip"}, Wire(b"hello"), BadRequestError),
        ({}, Wire(b"ab", b"cd", leaves=True), ClientLeftError),
        ({}, Wire(b"", leaves=True), ClientLeftError),
    ],
)
async def test_a_refused_body_leaves_no_memory_counted(
    headers: dict[str, str], wire: Wire, error: type[Exception]
) -> None:
    bodies = receiver()
    with pytest.raises(error):
        await bodies.receive(scope(**headers), wire)
    assert bodies.inflight_bytes == 0


async def test_bodies_that_do_not_fit_beside_the_others_are_refused_for_now() -> None:
    bodies = receiver(inflight=120)
    held = await bodies.receive(scope(), Wire(b"a" * 80))
    for wire in (Wire(b"b" * 41), Wire(b"b" * 20, b"b" * 21)):
        with pytest.raises(SaturatedError):
            await bodies.receive(scope(), wire)
    assert bodies.inflight_bytes == 80
    bodies.release(held)
    assert await bodies.receive(scope(), Wire(b"b" * 41)) == b"b" * 41


async def test_a_body_that_stalls_is_given_up() -> None:
    bodies = receiver(timeout_s=0.01)
    with pytest.raises(BadRequestError, match="did not arrive"):
        await bodies.receive(scope(), Wire(b"ab", b"cd", stalls=True))
    assert bodies.inflight_bytes == 0


async def test_a_caller_that_left_gets_no_answer_and_appends_nothing(world: World) -> None:
    sent: list[object] = []

    async def send(message: object) -> None:
        sent.append(message)

    request = {
        "type": "http",
        "method": "POST",
        "path": "/v0/events",
        "query_string": f"name=events&token={ADMIN_TOKEN}".encode(),
        "headers": [],
    }
    await cast(Any, world.app)(request, Wire(b'{"n":1}\n', b'{"n":2}', leaves=True), send)
    assert sent == []
    assert world.log.topics == {}
    assert b'status="499"} 1.0' in world.metrics.exposition()


def test_limits_come_from_the_settings_of_the_process() -> None:
    settings = events_settings(Settings(max_body_bytes=1, max_rows_per_request=2))
    assert (settings.limits.max_body_bytes, settings.limits.max_rows) == (1, 2)


async def test_the_log_joins_a_request_with_the_offsets_of_its_events() -> None:
    with capture_logs() as lines:
        world = World()
        async with world.client:
            response = await world.post(b'{"n":1}', x_request_id="from-the-caller")
    assert response.headers["x-request-id"] == "from-the-caller"
    (line,) = [line for line in lines if line["event"] == "events_appended"]
    assert line["request_id"] == "from-the-caller"
    assert (line["datasource"], line["topic"]) == ("events", "events.events")
    assert line["next"] - line["first"] == 1
