"""Which of several servers is asked first; shared by the threads and tasks of one engine."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from shared.clickhouse.url import Host

_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 1.0


class Hosts:
    """Replicas in order of preference: the one that answered last, then those after it.

    A host that does not answer is left alone for a while, longer each time, so that many threads
    do not beat on a server that is starting.

    Args:
        hosts: At least one.
        monotonic_s: The clock.
    """

    def __init__(
        self, hosts: tuple[Host, ...], monotonic_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._hosts = hosts
        self._monotonic_s = monotonic_s
        self._lock = threading.Lock()
        self._first = 0
        self._failures: dict[Host, tuple[int, float]] = {}

    @property
    def all(self) -> tuple[Host, ...]:
        """As the URL names them."""
        return self._hosts

    def in_order(self) -> tuple[Host, ...]:
        """Every host, the preferred one first, those that failed just now last."""
        with self._lock:
            turned = self._hosts[self._first :] + self._hosts[: self._first]
            now_s = self._monotonic_s()
            return tuple(sorted(turned, key=lambda h: self._failures.get(h, (0, 0.0))[1] > now_s))

    def pause_s(self, host: Host) -> float:
        """How long to leave a host alone."""
        with self._lock:
            return max(0.0, self._failures.get(host, (0, 0.0))[1] - self._monotonic_s())

    def answered(self, host: Host) -> None:
        """Stay with this one."""
        with self._lock:
            self._failures.pop(host, None)
            self._first = self._hosts.index(host)

    def failed(self, host: Host) -> None:
        """It could not be connected to."""
        with self._lock:
            count = self._failures.get(host, (0, 0.0))[0] + 1
            pause_s = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2.0 ** min(count - 1, 10))
            self._failures[host] = (count, self._monotonic_s() + pause_s)
