"""Which version of its data every table is at, so that an answer can be told to be still true.

The version of a table is a hash over its active parts and its definition. Every write changes it,
whoever writes: other processes too. A merge changes it as well, which costs a repeated query and
nothing else.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

import msgspec
import structlog
from msgspec import Struct

from shared.clickhouse.contract import ClickHouse, Statement
from shared.clock import Clock
from shared.errors import QueryError

log = structlog.get_logger(__name__)

MAX_AGE_S = 0.2

# A table whose engine keeps no parts of its own has no version: its rows may lie elsewhere.
_SQL = """
SELECT t.name, multiIf(
    endsWith(t.engine, 'MergeTree'),
    concat(toString(t.uuid), ' ', toString(toUnixTimestamp(t.metadata_modification_time)), ' ',
           toString(p.parts), ' ', hex(p.hash)),
    t.engine = 'Null', 'empty',
    '')
FROM system.tables AS t
LEFT JOIN (
    SELECT table, count() AS parts,
        groupBitXor(cityHash64(name, toString(modification_time), hash_of_all_files)) AS hash
    FROM system.parts
    WHERE database = {database:String} AND active
    GROUP BY table
) AS p ON p.table = t.name
WHERE t.database = {database:String}
"""


class Versions(Struct, frozen=True, kw_only=True):
    """The versions of all tables at one moment, which is not later than ``as_of_ms``.

    ``generation`` is the same for as long as no table changes. ``taken_s`` is the moment on the
    monotonic clock.
    """

    by_table: Mapping[str, str]
    generation: int
    taken_s: float
    as_of_ms: int

    def of(self, tables: Iterable[str]) -> bytes | None:
        """One version for several tables, None where one of them has none."""
        digest = hashlib.blake2b(digest_size=16)
        for table in sorted(tables):
            version = self.by_table.get(table)
            if not version:
                return None
            digest.update(f"{table} {version}\n".encode())
        return digest.digest()

    @property
    def as_of(self) -> bytes:
        """The moment as text, in UTC with milliseconds."""
        moment = datetime.fromtimestamp(self.as_of_ms / 1000, UTC)
        return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z").encode()


class TableVersions:
    """Knows the versions, at most 200 ms old; asks for them only when somebody wants them.

    Args:
        clickhouse: Where the tables are.
        clock: What time it is.
    """

    def __init__(self, clickhouse: ClickHouse, clock: Clock) -> None:
        self._clickhouse = clickhouse
        self._clock = clock
        self._known: Versions | None = None
        self._asking: asyncio.Task[Versions] | None = None
        self._is_refused = False

    def known(self) -> Versions | None:
        """What is known and young enough, without asking."""
        known = self._known
        if known is not None and self._clock.monotonic() - known.taken_s < MAX_AGE_S:
            return known
        return None

    async def current(self) -> Versions:
        """What is known, or else the answer to one question that all who wait share.

        Raises:
            ClickHouseUnavailableError: The engine does not answer.
        """
        known = self.known()
        if known is not None:
            return known
        if self._asking is None:
            self._asking = asyncio.ensure_future(self._ask())
            self._asking.add_done_callback(self._asked)
        # Who stops waiting does not stop the others.
        return await asyncio.shield(self._asking)

    def _asked(self, task: asyncio.Task[Versions]) -> None:
        self._asking = None
        if not task.cancelled():
            # Everybody may have left; then nobody else looks at the error.
            task.exception()

    async def _ask(self) -> Versions:
        taken_s, as_of_ms = self._clock.monotonic(), self._clock.now_ms()
        by_table = await self._fetch()
        before = self._known
        generation = 0 if before is None else before.generation
        if before is None or before.by_table != by_table:
            generation += 1
        self._known = Versions(
            by_table=by_table, generation=generation, taken_s=taken_s, as_of_ms=as_of_ms
        )
        return self._known

    async def _fetch(self) -> dict[str, str]:
        statement = Statement(
            sql=_SQL,
            parameters={"database": self._clickhouse.database},
            format="JSONCompactEachRow",
            readonly=True,
        )
        try:
            result = await self._clickhouse.fetch(statement)
        except QueryError as error:
            # A user of the server that may not read these tables: nothing is kept, all is served.
            if not self._is_refused:
                log.warning("table_versions_refused", error=str(error))
            self._is_refused = True
            return {}
        self._is_refused = False
        return dict(msgspec.json.Decoder(tuple[str, str]).decode_lines(result.body))
