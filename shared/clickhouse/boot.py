"""Which start of a server answered, and what its clock says.

A boot id is a text that changes at every start and is the same for all.

The tables of the ``system`` database get a new UUID whenever a server starts, and keep it until it
ends. Where they have none, the time of the start stands in, which two readings may see a second
apart.
"""

from __future__ import annotations

import threading

from shared.clock import steady_s

BOOT_SQL = "SELECT toString(serverUUID()), toUnixTimestamp(now()), uptime()"
CLOCK_SQL = "SELECT toUnixTimestamp(now())"
TABLE_SQL = "SELECT toString(uuid) FROM system.tables WHERE database = 'system' AND name = 'one'"

_NO_UUID = "00000000-0000-0000-0000-000000000000"
# now() and uptime() are whole seconds and are not read at one moment.
_JITTER_S = 2


def is_exact(table_uuid: str) -> bool:
    """Whether what ``TABLE_SQL`` answered tells every start apart."""
    return table_uuid.strip() not in ("", _NO_UUID)


class Boots:
    """The boot ids that this process has seen; threads share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._starts_s: dict[str, int] = {}
        self._latest = ""
        self._clock_ahead_s = 0.0

    @property
    def latest(self) -> str:
        """The one seen last; empty before the first."""
        return self._latest

    @property
    def server_now_s(self) -> int:
        """The time on the clock of the server that was seen last, in Unix seconds.

        It goes on while this process or its machine is suspended.
        """
        return int(steady_s() + self._clock_ahead_s)

    def read_clock(self, now_s: int) -> None:
        """A server said this of the time, just now."""
        self._clock_ahead_s = now_s - steady_s()

    def seen(self, server_uuid: str, now_s: int, uptime_s: int, table_uuid: str) -> str:
        """The boot id of a server that says this of itself, just now."""
        started_s = now_s - uptime_s
        self.read_clock(now_s)
        with self._lock:
            if is_exact(table_uuid):
                self._latest = table_uuid.strip()
                return self._latest
            known_s = self._starts_s.get(server_uuid)
            if known_s is None or abs(known_s - started_s) > _JITTER_S:
                self._starts_s[server_uuid] = known_s = started_s
            self._latest = f"{server_uuid}:{known_s}"
            return self._latest
