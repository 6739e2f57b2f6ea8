"""The stand-in's sockets."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from tests.standin.http import HttpConnection
from tests.standin.native import NativeConnection
from tests.standin.service import Service


class Connection(Protocol):
    """Something that talks to one client."""

    def serve(self) -> None:
        """Answer until the client goes away."""


def tls_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """What a listener with TLS needs."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context


class Listener:
    """Accepts connections on a port and serves each in a thread.

    Args:
        host: The address to bind.
        port: The port; 0 for any.
        serve: Makes the connection of a socket.
        tls: Where connections are encrypted.
    """

    def __init__(
        self,
        host: str,
        port: int,
        serve: Callable[[socket.socket], Connection],
        tls: ssl.SSLContext | None,
    ) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.create_server((host, port), family=family, backlog=256)
        self._serve = serve
        self._tls = tls
        self.port: int = self._socket.getsockname()[1]

    def start(self) -> None:
        """Accept from now on."""
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connected, _ = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=self._run, args=(connected,), daemon=True).start()

    def _run(self, sock: socket.socket) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._tls is not None:
            try:
                sock = self._tls.wrap_socket(sock, server_side=True)
            except OSError:
                sock.close()
                return
        self._serve(sock).serve()

    def close(self) -> None:
        """Accept no more."""
        self._socket.close()


def listeners(
    service: Service, host: str, ports: tuple[int, int], tls: ssl.SSLContext | None
) -> tuple[Listener, Listener]:
    """The native and the HTTP listener of a server."""
    native = Listener(host, ports[0], lambda sock: NativeConnection(sock, service), tls)
    web = Listener(host, ports[1], lambda sock: HttpConnection(sock, service), tls)
    return native, web
