"""An HTTP server inside a process that is not only an HTTP server."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from collections.abc import Iterator

import uvicorn
from litestar.types import ASGIApp

from shared.clock import Deadline
from shared.errors import ConfigError
from shared.supervise import Service

_BACKLOG = 2048
# Longer than the idle limit of common load balancers, so that they are the ones to hang up.
_KEEP_ALIVE_S = 75


def listen(host: str, port: int) -> socket.socket:
    """Bind the address; port 0 picks a free one.

    Raises:
        ConfigError: The port is in use, or the address is not ours.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ConfigError(
                f"Port {port} of {host} is in use.",
                hint="Choose another with --port; --port 0 picks a free one.",
            ) from error
        raise ConfigError(f"Cannot listen on {host}:{port}: {error}.") from error


async def serve_http(service: Service, app: ASGIApp, listener: socket.socket) -> None:
    """Serve the app until the process stops; returns once connections are accepted.

    At shutdown no new connection is accepted and requests under way are finished, as far as the
    deadline allows. The listener is closed then.
    """
    server = _Server(
        uvicorn.Config(
            app,
            http="httptools",
            ws="none",
            loop="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            # Nothing here asks who the client is; the middleware would cost every request.
            proxy_headers=False,
            backlog=_BACKLOG,
            timeout_keep_alive=_KEEP_ALIVE_S,
        )
    )
    serving = asyncio.ensure_future(server.serve(sockets=[listener]))

    async def close(deadline: Deadline) -> None:
        server.config.timeout_graceful_shutdown = max(1, int(deadline.remaining_s))
        server.should_exit = True
        await asyncio.wait([serving])

    async def supervise() -> None:
        await serving

    service.background("http", supervise())
    service.on_close("http", close)
    await server.accepting.wait()


class _Server(uvicorn.Server):
    """Leaves signals to ``run_service`` and says when it accepts connections."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.accepting = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        self.accepting.set()
