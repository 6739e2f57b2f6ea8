"""Connections to the engine inside this process: one thread each, kept warm, handed work.

A chDB connection is one mutex with session state, so it never leaves the thread that opened it.
What is known about the engine and nowhere in its documentation:

- A query that fails after it has begun to write leaves what it wrote in the connection, and the
  *next* query's answer starts with it. So a connection is rinsed after every failure.
- ``SET readonly = 2`` cannot be taken back within a session: writing statements are refused, and
  settings may still be changed from statement to statement.
- ``KILL QUERY`` does not know which connection a statement came from. A statement carries a text
  that no other one has (``Call.marker``) in its ``log_comment``, or ends in it as a comment, which
  is lost where the statement has parameters.
"""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import chdb
from msgspec import Struct

from shared.clickhouse.contract import SettingValue
from shared.clickhouse.sql import literal, quote_identifier
from shared.errors import ClickHouseUnavailableError

T = TypeVar("T")

_RINSE_ATTEMPTS = 3
_KILL_PAUSES_S = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)


class EngineError(Exception):
    """The engine's own error text; translated where the kind of statement is known."""


class SessionPlan(Struct, frozen=True, kw_only=True):
    """How a connection is opened."""

    connection_string: str
    database: str
    settings: Mapping[str, SettingValue]
    read_only: bool


class Call:
    """One statement on its way, which can be ended from outside its thread."""

    _numbers = itertools.count(1)

    def __init__(self) -> None:
        self.marker = f"ph:{next(self._numbers)}"
        self.done = threading.Event()
        self.started = False
        self.cancelled = False
        self.timed_out = False


class Session:
    """One connection; used by one thread only."""

    def __init__(self, plan: SessionPlan) -> None:
        self._plan = plan
        self._applied: dict[str, SettingValue] = {}
        self._connection = self._open()

    def _open(self) -> Any:
        connection: Any = chdb.connect(self._plan.connection_string)  # type: ignore[no-untyped-call]
        if self._plan.database:
            connection.query(f"USE {quote_identifier(self._plan.database)}")
        settings = dict(self._plan.settings)
        if settings:
            connection.query(f"SET {_assignments(settings)}")
        if self._plan.read_only:
            connection.query("SET readonly = 2")
        return connection

    def apply(self, settings: Mapping[str, SettingValue]) -> None:
        """Make these, and no others, the settings that differ from the session's own.

        Costs a statement only where they differ from those of the statement before.
        """
        if settings == self._applied:
            return
        base = self._plan.settings
        changes: dict[str, SettingValue | None] = {
            name: base.get(name) for name in self._applied if name not in settings
        }
        changes.update(settings)
        # What is applied is unknown until the statement has succeeded.
        self._applied = {**self._applied, **settings}
        self.query(f"SET {_assignments(changes)}", "Null")
        self._applied = dict(settings)

    def query(
        self, sql: str, output_format: str, parameters: Mapping[str, str] | None = None
    ) -> Any:
        """Run one statement and return chDB's result object.

        Raises:
            EngineError: The engine refused it; the connection is clean again.
        """
        try:
            return self._connection.query(sql, output_format, params=parameters or {})
        except RuntimeError as error:
            self._rinse()
            raise EngineError(str(error)) from None

    def _rinse(self) -> None:
        for _ in range(_RINSE_ATTEMPTS):
            try:
                if self._connection.query("SELECT 1", "TabSeparated").bytes() == b"1\n":
                    return
            except RuntimeError:
                break
        self.reopen()

    def reopen(self) -> None:
        """Start over with a new connection."""
        self.close()
        self._applied = {}
        self._connection = self._open()

    def close(self) -> None:
        """Let go of the connection; harmless when repeated."""
        self._connection.close()


def _assignments(settings: Mapping[str, SettingValue | None]) -> str:
    return ", ".join(f"{quote_identifier(n)} = {_setting(v)}" for n, v in settings.items())


def _setting(value: SettingValue | None) -> str:
    if value is None:
        return "DEFAULT"
    return literal(value) if isinstance(value, str) else repr(value)


def settings_clause(settings: Mapping[str, SettingValue]) -> str:
    """The settings as the text after ``SETTINGS``."""
    return _assignments(settings)


class Lane:
    """A fixed number of sessions with a thread each, taking calls from one bounded queue.

    The session that was used last is used next: its thread and its part of the engine are still
    warm, which takes up to a tenth off a small query.

    Args:
        name: What its threads are called.
        plan: How each session is opened.
        size: How many sessions, opened when first needed.
        max_waiting: How many calls may wait for a free session.
    """

    def __init__(self, name: str, plan: SessionPlan, *, size: int, max_waiting: int) -> None:
        self._name = name
        self._plan = plan
        self._max_waiting = max_waiting
        self._threads = [
            ThreadPoolExecutor(1, thread_name_prefix=f"clickhouse-{name}-{number}")
            for number in range(size)
        ]
        self._sessions: list[Session | None] = [None] * size
        self._lock = threading.Lock()
        self._idle = list(range(size))
        self._waiting: deque[tuple[Future[Any], Callable[[int], Any]]] = deque()
        self._closed = False

    def warm(self) -> None:
        """Open every session now.

        Raises:
            EngineError: The engine cannot be opened.
        """
        opening = [
            thread.submit(self._session, number) for number, thread in enumerate(self._threads)
        ]
        for future in opening:
            future.result()

    def submit(self, call: Call, work: Callable[[Session], T]) -> Future[T]:
        """Queue one call.

        Raises:
            ClickHouseUnavailableError: Too many are waiting already, or the lane is closed.
        """
        future: Future[T] = Future()

        def run(number: int) -> T:
            return self._run(call, work, number)

        with self._lock:
            if self._closed:
                raise ClickHouseUnavailableError("The embedded ClickHouse is closed.")
            if self._idle:
                number = self._idle.pop()
                self._threads[number].submit(self._serve, number, future, run)
            elif len(self._waiting) < self._max_waiting:
                self._waiting.append((future, run))
            else:
                raise ClickHouseUnavailableError(
                    f"ClickHouse is busy: {len(self._waiting)} statements are waiting"
                    f" ({self._name})."
                )
        return future

    def _serve(
        self, number: int, future: Future[Any] | None, run: Callable[[int], Any] | None
    ) -> None:
        """Work on one call after another until none waits; runs in the session's thread."""
        while future is not None and run is not None:
            if future.set_running_or_notify_cancel():
                try:
                    result = run(number)
                except BaseException as error:  # noqa: BLE001 - whoever waits has to hear of it
                    future.set_exception(error)
                else:
                    future.set_result(result)
            with self._lock:
                if self._waiting:
                    future, run = self._waiting.popleft()
                else:
                    future = run = None
                    self._idle.append(number)

    def _run(self, call: Call, work: Callable[[Session], T], number: int) -> T:
        try:
            # In this order: whoever cancels a call that has not started need not kill it.
            call.started = True
            if call.cancelled:
                raise EngineError("Code: 394. DB::Exception: Query was cancelled.")
            return work(self._session(number))
        finally:
            call.done.set()

    def _session(self, number: int) -> Session:
        session = self._sessions[number]
        if session is None:
            try:
                session = self._sessions[number] = Session(self._plan)
            except RuntimeError as error:
                raise EngineError(str(error)) from None
        return session

    def close(self) -> None:
        """Wait for what runs, drop what waits, close every session."""
        with self._lock:
            self._closed = True
            waiting, self._waiting = self._waiting, deque()
        for future, _ in waiting:
            future.cancel()
        for thread in self._threads:
            thread.shutdown(wait=True)
        for session in self._sessions:
            if session is not None:
                session.close()


def kill(session: Session, call: Call) -> None:
    """End the statement of a cancelled call.

    Returns when its thread is free, or after ten seconds without. Repeated, because the statement
    may not have reached the engine yet.
    """
    for pause_s in _KILL_PAUSES_S:
        if call.done.is_set() or not call.started:
            return
        session.query(
            "KILL QUERY WHERE endsWith(query, {comment:String})"
            " OR endsWith(Settings['log_comment'], {marker:String}) ASYNC",
            "Null",
            {"comment": f"-- {call.marker}", "marker": call.marker},
        )
        if call.done.wait(pause_s):
            return
