"""A TCP proxy that fails on request; for Kafka, ClickHouse or anything else that listens.

It runs in threads of the test. Everything can be changed while connections are open.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from typing import Literal

Direction = Literal["request", "answer"]

_CHUNK_BYTES = 64 * 1024
_POLL_S = 0.2


class Proxy:
    """Forwards a port to another until it is told not to.

    Args:
        host: Where the real server is.
        port: Its port.
        listen_port: The proxy's own port; 0 for any.
    """

    def __init__(self, host: str, port: int, *, listen_port: int = 0) -> None:
        self._target = (host, port)
        self._wanted_port = listen_port
        self._lock = threading.Lock()
        self._links: set[_Link] = set()
        self._listener: socket.socket | None = None
        self._flowing = {"request": threading.Event(), "answer": threading.Event()}
        # Bytes that may still pass; None is any number.
        self._budget: dict[str, int | None] = {"request": None, "answer": None}
        self._swallowing = {"request": False, "answer": False}
        self.accepted = 0
        self.port = 0

    def __enter__(self) -> Proxy:
        self.resume()
        self.accept()
        return self

    def __exit__(self, *_: object) -> None:
        self.refuse()
        self.cut()
        self.resume()

    @property
    def connections(self) -> int:
        """How many are open."""
        with self._lock:
            return len(self._links)

    def target(self, host: str, port: int) -> None:
        """Send new connections somewhere else."""
        self._target = (host, port)

    def accept(self) -> None:
        """Take connections; the port stays the same after ``refuse``."""
        if self._listener is not None:
            return
        self._listener = socket.create_server(("127.0.0.1", self.port or self._wanted_port))
        self._listener.settimeout(_POLL_S)
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, args=(self._listener,), daemon=True).start()

    def refuse(self) -> None:
        """Refuse new connections; open ones go on."""
        listener, self._listener = self._listener, None
        if listener is not None:
            # Closing alone would leave the port open until the accepting thread wakes.
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()

    def cut(self, *, reset: bool = False) -> None:
        """Close every open connection, on both sides.

        Args:
            reset: Send RST instead of FIN, as a host that crashed does.
        """
        with self._lock:
            links = tuple(self._links)
        for link in links:
            link.close(reset=reset)

    def stall(self, direction: Direction | None = None) -> None:
        """Hold back what is sent from now on; connections stay open."""
        for name, event in self._flowing.items():
            if direction in (None, name):
                event.clear()

    def resume(self) -> None:
        """Undo ``stall``, ``swallow`` and ``cut_after``: what was held back goes on."""
        self._swallowing = {"request": False, "answer": False}
        self._budget = {"request": None, "answer": None}
        for event in self._flowing.values():
            event.set()

    def swallow(self, direction: Direction = "answer") -> None:
        """Take what is sent and throw it away: the other side waits for an answer."""
        self._swallowing[direction] = True

    def cut_after(self, count_bytes: int, direction: Direction = "answer") -> None:
        """Let that many more bytes pass in one direction, then cut that connection.

        With 0 the next answer is lost after the request took effect.
        """
        self._budget[direction] = count_bytes

    def _serve(self, listener: socket.socket) -> None:
        while self._listener is listener:
            try:
                client, _ = listener.accept()
            except TimeoutError:
                continue
            except OSError:
                return
            self.accepted += 1
            try:
                server = socket.create_connection(self._target, timeout=10)
            except OSError:
                client.close()
                continue
            server.settimeout(None)
            link = _Link(client, server)
            with self._lock:
                self._links.add(link)
            for direction, source, sink in (
                ("request", client, server),
                ("answer", server, client),
            ):
                threading.Thread(
                    target=self._pump, args=(link, direction, source, sink), daemon=True
                ).start()

    def _pump(
        self, link: _Link, direction: str, source: socket.socket, sink: socket.socket
    ) -> None:
        try:
            while data := source.recv(_CHUNK_BYTES):
                while not self._flowing[direction].wait(_POLL_S):
                    if link.closed:
                        return
                if self._swallowing[direction]:
                    continue
                passed = self._spend(direction, len(data))
                sink.sendall(data[:passed])
                if passed < len(data):
                    break
        except OSError:
            # Either side went away; the other is closed below.
            pass
        finally:
            link.close()
            with self._lock:
                self._links.discard(link)

    def _spend(self, direction: str, count: int) -> int:
        with self._lock:
            budget = self._budget[direction]
            if budget is None:
                return count
            passed = min(budget, count)
            # Spent once: the connections that come after are not cut.
            self._budget[direction] = None if passed < count else budget - passed
            return passed


class _Link:
    """The two sockets of one connection."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self._sockets = (client, server)
        self._reset = False
        self.closed = False

    def close(self, *, reset: bool = False) -> None:
        """Close both; with ``reset`` the threads that read from them do it."""
        self.closed = True
        self._reset = self._reset or reset
        for sock in self._sockets:
            with contextlib.suppress(OSError):
                if self._reset:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                # Closing alone would not wake a thread that reads; SHUT_RD sends nothing.
                sock.shutdown(socket.SHUT_RD if self._reset else socket.SHUT_RDWR)
            if not reset:
                sock.close()
