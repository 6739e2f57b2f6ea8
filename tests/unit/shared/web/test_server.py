import asyncio
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
