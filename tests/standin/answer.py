"""An answer that one thread lets the engine write into a pipe and another reads from it."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
from collections.abc import Iterator
from typing import Any

from shared.clickhouse.session import Session
from tests.standin.engine import Access, Engine
from tests.standin.errors import ServerError
from tests.standin.running import Query

_WATCH_S = 0.05


class Answer(threading.Thread):
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
        super().__init__(daemon=True)
        self.reading, self._writing = os.pipe()
        self._engine = engine
        self._session = session
        self._query = query
        self._access = access
        self._sql = sql
        self._output_format = output_format
        self._result: Any = None
        self._error: ServerError | None = None

    def run(self) -> None:
        """Write the answer; runs in this thread."""
        try:
            self._result = self._engine.run_into(
                self._session,
                self._query,
                self._access,
                self._sql,
                self._output_format,
                self._writing,
            )
        except ServerError as error:
            self._error = error
        except BrokenPipeError:
            self._error = ServerError(394, "QUERY_WAS_CANCELLED", "Query was cancelled.")
        finally:
            os.close(self._writing)

    def __enter__(self) -> Answer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.reading)
        self.join()

    def result(self) -> Any:
        """The engine's result, once the pipe has ended.

        Raises:
            ServerError: It failed.
        """
        self.join()
        if self._error is not None:
            raise self._error
        return self._result


@contextlib.contextmanager
def ended_with(sock: socket.socket, engine: Engine, query: Query) -> Iterator[None]:
    """End the query when its client says anything more, or goes away."""
    over = threading.Event()

    def watch() -> None:
        while not over.is_set():
            try:
                readable = select.select([sock], [], [], _WATCH_S)[0]
            except (OSError, ValueError):
                return
            if readable and not over.is_set():
                engine.end(query)
                return

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        # Not joined: it may be inside a KILL that waits for this very query.
