"""Connections to the engine inside this process: one thread each, kept warm, handed work.

A chDB connection is one mutex with session state, so it never leaves the thread that opened it.
What is known about the engine and nowhere in its documentation:

- A query that fails after it has begun to write leaves what it wrote in the connection, and the
  *next* query's answer starts with it. So a connection is rinsed after every failure.
- ``SET readonly = 2`` cannot be taken back within a session: writing statements are refused, and
  settings may still be changed from statement to statement.
- ``KILL QUERY`` does not know which connection a statement came from. A statement ends in a
  comment that no other one has (``Call.marker``), or carries it as ``log_comment``.
"""

from __future__ import annotations

import itertools
import threading
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

    Args:
        name: What its threads are called.
        plan: How each session is opened.
        size: How many sessions, opened when first needed.
        max_waiting: How many calls may wait for a free session.
    """

    def __init__(self, name: str, plan: SessionPlan, *, size: int, max_waiting: int) -> None:
        self._name = name
        self._plan = plan
        self._pool = ThreadPoolExecutor(max_workers=size, thread_name_prefix=f"clickhouse-{name}")
        self._capacity = size + max_waiting
        self._size = size
        self._lock = threading.Lock()
        self._pending = 0
        self._sessions: list[Session] = []
        self._local = threading.local()

    def warm(self) -> None:
        """Open every session now.

        Raises:
            EngineError: The engine cannot be opened.
        """
        together = threading.Barrier(self._size)

        def open_one() -> None:
            together.wait(timeout=60)
            self._session()

        for future in [self._pool.submit(open_one) for _ in range(self._size)]:
            future.result()

    def submit(self, call: Call, work: Callable[[Session], T]) -> Future[T]:
        """Queue one call.

        Raises:
            ClickHouseUnavailableError: Too many are waiting already, or the lane is closed.
        """
        with self._lock:
            if self._pending >= self._capacity:
                raise ClickHouseUnavailableError(
                    f"ClickHouse is busy: {self._pending} statements are waiting ({self._name})."
                )
            self._pending += 1
        try:
            future = self._pool.submit(self._run, call, work)
        except RuntimeError:
            self._leave()
            raise ClickHouseUnavailableError("The embedded ClickHouse is closed.") from None
        future.add_done_callback(lambda _: self._leave())
        return future

    def _leave(self) -> None:
        with self._lock:
            self._pending -= 1

    def _run(self, call: Call, work: Callable[[Session], T]) -> T:
        try:
            # In this order: whoever cancels a call that has not started need not kill it.
            call.started = True
            if call.cancelled:
                raise EngineError("Code: 394. DB::Exception: Query was cancelled.")
            return work(self._session())
        finally:
            call.done.set()

    def _session(self) -> Session:
        session: Session | None = getattr(self._local, "session", None)
        if session is None:
            try:
                session = Session(self._plan)
            except RuntimeError as error:
                raise EngineError(str(error)) from None
            self._local.session = session
            with self._lock:
                self._sessions.append(session)
        return session

    def close(self) -> None:
        """Wait for what runs, drop what waits, close every session."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        with self._lock:
            sessions, self._sessions = self._sessions, []
        for session in sessions:
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
            " OR Settings['log_comment'] = {marker:String} ASYNC",
            "Null",
            {"comment": f"-- {call.marker}", "marker": call.marker},
        )
        if call.done.wait(pause_s):
            return
