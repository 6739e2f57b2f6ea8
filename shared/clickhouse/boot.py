"""Which start of a server answered: a text that changes at every start and is the same for all.

The tables of the ``system`` database get a new UUID whenever a server starts, and keep it until it
ends. Where they have none, the time of the start stands in, which two readings may see a second
apart.
"""

from __future__ import annotations

import threading

BOOT_SQL = "SELECT toString(serverUUID()), toUnixTimestamp(now()) - uptime()"
TABLE_SQL = "SELECT toString(uuid) FROM system.tables WHERE database = 'system' AND name = 'one'"

_NO_UUID = "00000000-0000-0000-0000-000000000000"
# now() and uptime() are whole seconds and are not read at one moment.
_JITTER_S = 2


class Boots:
    """The boot ids that this process has seen; threads share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._starts_s: dict[str, int] = {}
        self._latest = ""

    @property
    def latest(self) -> str:
        """The one seen last; empty before the first."""
        return self._latest

    def seen(self, server_uuid: str, started_s: int, table_uuid: str) -> str:
        """The boot id of a server that says this of itself."""
        with self._lock:
            if table_uuid.strip() not in ("", _NO_UUID):
                self._latest = table_uuid.strip()
                return self._latest
            known_s = self._starts_s.get(server_uuid)
            if known_s is None or abs(known_s - started_s) > _JITTER_S:
                self._starts_s[server_uuid] = known_s = started_s
            self._latest = f"{server_uuid}:{known_s}"
            return self._latest
