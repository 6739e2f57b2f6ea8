"""An answer that one thread lets the engine write into a pipe and another reads from it."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

from shared.clickhouse.session import Session
from tests.standin.engine import Access, Engine
from tests.standin.errors import ServerError
from tests.standin.running import Query

_WATCH_S = 0.02


# Kept warm: a thread that is new to the engine costs it more than a small query does.
_threads = ThreadPoolExecutor(256, thread_name_prefix="answer")


class Answer:
    """Runs a query whose answer is read from ``reading``.

    Args:
        engine: Runs it.
        session: In this session.
        query: What runs.
        access: Under these settings.
        sql: Its text.
        output_format: Used where the text names none.
    """

    def __init__(
        self,
        engine: Engine,
        session: Session,
        query: Query,
        access: Access,
        sql: str,
        output_format: str,
    ) -> None:
        self.reading, writing = os.pipe()

        def work() -> Any:
            try:
                return engine.run_into(session, query, access, sql, output_format, writing)
            except BrokenPipeError:
                raise ServerError(394, "QUERY_WAS_CANCELLED", "Query was cancelled") from None
            finally:
                os.close(writing)

        self._future = _threads.submit(work)

    def __enter__(self) -> Answer:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.reading)
        # The session is used again: nobody may still be in it.
        wait([self._future])

    def result(self) -> Any:
        """The engine's result, once the pipe has ended.

        Raises:
            ServerError: It failed.
        """
        return self._future.result()


class Watch:
    """Looks after clients that wait for a query; one that says anything or goes away ends it."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lock = threading.Lock()
        self._waiting: dict[int, Query] = {}
        self._some = threading.Event()
        threading.Thread(target=self._look, daemon=True).start()

    @contextlib.contextmanager
    def over(self, sock: socket.socket, query: Query) -> Iterator[None]:
        """Look after the client of one query."""
        descriptor = sock.fileno()
        with self._lock:
            self._waiting[descriptor] = query
        self._some.set()
        try:
            yield
        finally:
            with self._lock:
                self._waiting.pop(descriptor, None)

    def _look(self) -> None:
        while self._some.wait():
            with self._lock:
                waiting = dict(self._waiting)
                if not waiting:
                    self._some.clear()
                    continue
            poll = select.poll()
            for descriptor in waiting:
                poll.register(descriptor, select.POLLIN | select.POLLHUP)
            for descriptor, _ in poll.poll(0):
                with self._lock:
                    query = self._waiting.pop(descriptor, None)
                if query is not None and query is waiting.get(descriptor):
                    _threads.submit(self._engine.end, query)
            time.sleep(_WATCH_S)
