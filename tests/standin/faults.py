"""Faults that tests switch on while the stand-in runs."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from typing import Literal

from msgspec import Struct

from tests.standin.errors import ServerError

# ``query``: when a statement has arrived. ``data``: when the first of an INSERT's data has.
# ``before``: when all of it has, just before it takes effect. ``after``: when it took effect and
# nothing of the answer was sent. ``answer``: when the first part of the answer was sent.
Point = Literal["query", "data", "before", "after", "answer"]
Action = Literal["refuse", "delay", "cut", "reset", "hang", "die"]

_POLL_S = 0.01


class Fault(Struct, kw_only=True, omit_defaults=True):
    """What goes wrong, where and how often.

    ``table`` is a name with or without its database, ``*`` for all; ``match`` a regular expression
    searched in the statement's text. ``times`` counts down; None is for ever. ``skip`` statements
    pass before the first is hit. A ``hang`` ends when the fault is cleared (the statement then goes
    on) or the statement is killed.
    """

    action: Action
    at: Point = "before"
    kind: Literal["insert", "select", "any"] = "insert"
    table: str = "*"
    match: str = ""
    user: str = ""
    times: int | None = 1
    skip: int = 0
    code: int = 252
    name: str = "TOO_MANY_PARTS"
    text: str = "Too many parts (300). Merges are processing significantly slower than inserts"
    seconds: float = 0.0
    hits: int = 0


class Subject(Struct, frozen=True, kw_only=True):
    """The statement that passes a point."""

    kind: str
    table: str
    database: str
    sql: str
    user: str
    cancelled: threading.Event


class Cut(Exception):
    """The connection is to be closed without another byte; ``reset`` sends RST, not FIN."""

    def __init__(self, *, reset: bool) -> None:
        super().__init__("cut")
        self.reset = reset


class Faults:
    """The faults that are switched on; used from many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._faults: list[Fault] = []

    def add(self, fault: Fault) -> None:
        """Switch one more on; the oldest that fits is taken."""
        with self._lock:
            self._faults.append(fault)

    def clear(self) -> None:
        """Switch all off; what hangs goes on."""
        with self._lock:
            self._faults.clear()

    def listed(self) -> list[Fault]:
        """All of them, spent ones with ``times`` 0 included."""
        with self._lock:
            return list(self._faults)

    def pass_through(self, point: Point, subject: Subject) -> None:
        """Let a statement pass a point, or not.

        Raises:
            ServerError: It is refused, or was killed while it hung.
            Cut: Its connection is to be closed.
        """
        fault = self._take(point, subject)
        if fault is None:
            return
        if fault.action == "refuse":
            raise ServerError(fault.code, fault.name, fault.text)
        if fault.action in ("cut", "reset"):
            raise Cut(reset=fault.action == "reset")
        if fault.action == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        self._wait(fault, subject)

    def _take(self, point: Point, subject: Subject) -> Fault | None:
        with self._lock:
            for fault in self._faults:
                if fault.at != point or fault.times == 0 or not _fits(fault, subject):
                    continue
                fault.hits += 1
                if fault.hits <= fault.skip:
                    continue
                if fault.times is not None:
                    fault.times -= 1
                return fault
        return None

    def _wait(self, fault: Fault, subject: Subject) -> None:
        until = time.monotonic() + fault.seconds
        while fault.action == "hang" or time.monotonic() < until:
            if subject.cancelled.wait(_POLL_S):
                raise ServerError(394, "QUERY_WAS_CANCELLED", "Query was cancelled.")
            with self._lock:
                if not any(other is fault for other in self._faults):
                    return


def _fits(fault: Fault, subject: Subject) -> bool:
    if fault.kind not in ("any", subject.kind) or (fault.user and fault.user != subject.user):
        return False
    if fault.table not in ("*", subject.table, f"{subject.database}.{subject.table}"):
        return False
    return not fault.match or re.search(fault.match, subject.sql) is not None
