import asyncio
import json
import signal
import socket

import pytest
from httpx import AsyncClient
from litestar import get
from litestar.types import ControllerRouterHandler

from shared.clock import Deadline, SystemClock
from shared.errors import ConfigError
from shared.supervise import Service
from shared.web.app import create_app
from shared.web.health import health_routes
from shared.web.server import listen, serve_http

HOST = "127.0.0.1"


async def serve(service: Service, *routes: ControllerRouterHandler) -> int:
    listener = listen(HOST, 0)
    port: int = listener.getsockname()[1]
    await serve_http(service, create_app(routes), listener)
    return port


async def test_port_0_picks_a_free_port_and_serves_there_until_closed() -> None:
    service = Service()
    port = await serve(service, *health_routes({}))
    async with AsyncClient(base_url=f"http://{HOST}:{port}") as client:
        assert (await client.get("/health")).json() == {"status": "ok"}
    await service.close(Deadline(SystemClock(), 5.0))
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((HOST, port))


async def test_a_request_under_way_is_finished_at_shutdown() -> None:
    arrived, may_answer = asyncio.Event(), asyncio.Event()

    @get("/slow")
    async def slow() -> str:
        arrived.set()
        await may_answer.wait()
        return "done"

    service = Service()
    port = await serve(service, slow)
    async with AsyncClient(base_url=f"http://{HOST}:{port}") as client:
        request = asyncio.create_task(client.get("/slow"))
        await arrived.wait()
        closing = asyncio.create_task(service.close(Deadline(SystemClock(), 5.0)))
        await asyncio.sleep(0)
        may_answer.set()
        assert (await request).text == "done"
        await closing


async def test_serving_does_not_touch_the_signals_of_the_process() -> None:
    before = signal.getsignal(signal.SIGTERM)
    service = Service()
    await serve(service)
    assert signal.getsignal(signal.SIGTERM) is before
    await service.close(Deadline(SystemClock(), 5.0))


def test_a_port_in_use_is_a_configuration_error_with_the_way_out() -> None:
    with socket.create_server((HOST, 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"Port {port} of {HOST} is in use\. .*--port 0"):
            listen(HOST, port)


@pytest.mark.parametrize("host", ["192.0.2.1", "not a host"])
def test_an_address_that_is_not_ours_is_a_configuration_error(host: str) -> None:
    with pytest.raises(ConfigError, match="Cannot listen"):
        listen(host, 0)


async def exchange(port: int, request: bytes) -> tuple[bytes, bytes]:
    """Head and body of what comes back until the server hangs up."""
    reader, writer = await asyncio.open_connection(HOST, port)
    writer.write(request)
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    return head, body


@pytest.mark.parametrize(
    ("request_bytes", "status", "code"),
    [
        (b"no request at all\r\n\r\n", b"400 Bad Request", "bad_request"),
        (b"GET /" + b"a" * 100_000, b"414 ", "url_too_long"),
        (b"GET /?q=" + b"a" * 40_000, b"414 ", "url_too_long"),
        (b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 40_000, b"431 ", "headers_too_long"),
    ],
)
async def test_what_is_no_request_is_answered_like_any_mistake(
    request_bytes: bytes, status: bytes, code: str
) -> None:
    service = Service()
    port = await serve(service, *health_routes({}))
    head, body = await exchange(port, request_bytes)
    assert head.startswith(b"HTTP/1.1 " + status)
    assert b"content-type: application/json\r\n" in head
    assert b"x-request-id: " in head
    answer = json.loads(body)
    assert answer["code"] == code
    assert answer["documentation"] == f"/docs/errors#{code}"
    await service.close(Deadline(SystemClock(), 5.0))


async def test_a_long_url_within_the_bound_is_served() -> None:
    service = Service()
    port = await serve(service, *health_routes({}))
    async with AsyncClient(base_url=f"http://{HOST}:{port}") as client:
        assert (await client.get("/health?a=" + "a" * 30_000)).status_code == 200
    await service.close(Deadline(SystemClock(), 5.0))
