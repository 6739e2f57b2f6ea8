"""An HTTP server inside a process that is not only an HTTP server."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from collections.abc import Iterator
from typing import cast

import uvicorn
from litestar.types import ASGIApp, Scope
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from shared.clock import Deadline
from shared.errors import BadRequestError, ConfigError, UserError
from shared.supervise import Service
from shared.web.errors import error_answer
from shared.web.request_id import HEADER, request_id

MAX_URL_BYTES = 32 << 10
MAX_HEADER_BYTES = 64 << 10

_BACKLOG = 2048
# Longer than the idle limit of common load balancers, so that they are the ones to hang up.
_KEEP_ALIVE_S = 75


class UrlTooLongError(UserError):
    """The URL is too long; parameters may also be sent in the body of a POST."""

    code = "url_too_long"
    http_status = 414


class HeadersTooLongError(UserError):
    """The headers of the request are too long."""

    code = "headers_too_long"
    http_status = 431


def listen(host: str, port: int) -> socket.socket:
    """Bind the address; port 0 picks a free one.

    Raises:
        ConfigError: The port is in use, or the address is not ours.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ConfigError(
                f"Port {port} of {host} is in use.",
                hint="Choose another with --port; --port 0 picks a free one.",
            ) from error
        raise ConfigError(f"Cannot listen on {host}:{port}: {error}.") from error
    # Connections inherit it. Head and body of an answer are written apart: without it, and on an
    # event loop that does not set it, the body would wait 40 ms for the head to be acknowledged.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


async def serve_http(service: Service, app: ASGIApp, listener: socket.socket) -> None:
    """Serve the app until the process stops; returns once connections are accepted.

    At shutdown no new connection is accepted and requests under way are finished, as far as the
    deadline allows. The listener is closed then.
    """
    server = _Server(
        uvicorn.Config(
            app,
            http=_Protocol,
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


class _Protocol(HttpToolsProtocol):
    """Bounds the head of a request, and answers what is no request in our envelope."""

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head_bytes = 0

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        if len(self.url) > MAX_URL_BYTES:
            raise _HeadTooLong

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        self._head_bytes += len(name) + len(value)
        if self._head_bytes > MAX_HEADER_BYTES:
            raise _HeadTooLong

    def send_400_response(self, msg: str) -> None:
        error: UserError = BadRequestError("This is not a valid HTTP request.")
        if len(getattr(self, "url", b"")) > MAX_URL_BYTES:
            error = UrlTooLongError(
                f"The URL is longer than {MAX_URL_BYTES} bytes.",
                hint="Send parameters in the body of a POST.",
            )
        elif getattr(self, "_head_bytes", 0) > MAX_HEADER_BYTES:
            error = HeadersTooLongError(f"The headers have more than {MAX_HEADER_BYTES} bytes.")
        # No request was read, so that nobody can have sent an id.
        scope = cast(Scope, {"headers": [], "state": {}, "path": ""})
        status, headers, body = error_answer(scope, error)
        lines = [STATUS_LINE[status]]
        for name, value in (
            *headers,
            (HEADER, request_id(scope).encode("ascii")),
            (b"content-length", b"%d" % len(body)),
            (b"connection", b"close"),
        ):
            lines.append(name + b": " + value + b"\r\n")
        self.transport.write(b"".join([*lines, b"\r\n", body]))
        self.transport.close()


class _HeadTooLong(Exception):
    """Ends the parsing of a request; it never leaves the parser."""


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
