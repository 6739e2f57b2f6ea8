"""Deployments as every process sees them: two tables in ClickHouse, and what is asked of them.

``pipehouse.deployments`` is a history: one row when a deployment begins, one when it ends. The
newest that ended well is live. ``pipehouse.workers`` says what each worker is at, so that a
deployment can wait until what it changes is at rest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec
from msgspec import Struct

from shared.clickhouse.contract import ClickHouse, Statement
from shared.clickhouse.rows import insert_rows
from shared.clock import Clock
from shared.errors import AppError, QueryError

DATABASE = "pipehouse"

# A deployment that has said nothing for so long is taken for dead; it repeats itself more often.
ABANDONED_AFTER_MS = 30_000
# A worker that has said nothing for so long is taken for dead.
GONE_AFTER_MS = 10_000

TABLES = (
    f"CREATE DATABASE IF NOT EXISTS {DATABASE}",
    f"CREATE TABLE IF NOT EXISTS {DATABASE}.deployments ("
    "database String, id UInt64, status LowCardinality(String), at DateTime64(3, 'UTC'),"
    " hash String, files String CODEC(ZSTD(3)), steps Array(String), disturbs Array(String),"
    " message String) ENGINE = MergeTree ORDER BY (database, id, at)",
    f"CREATE TABLE IF NOT EXISTS {DATABASE}.workers ("
    "database String, worker String, at DateTime64(3, 'UTC'), deployment UInt64, pausing UInt64,"
    " paused Array(String), restless Array(String), stopped Bool)"
    " ENGINE = ReplacingMergeTree(at) ORDER BY (database, worker)"
    " TTL toDateTime(at) + INTERVAL 1 DAY",
)

Status = Literal["applying", "halted", "live", "failed"]

_DEPLOYMENTS = (
    ("database", "String"),
    ("id", "UInt64"),
    ("status", "LowCardinality(String)"),
    ("at", "DateTime64(3, 'UTC')"),
    ("hash", "String"),
    ("files", "String"),
    ("steps", "Array(String)"),
    ("disturbs", "Array(String)"),
    ("message", "String"),
)
_WORKERS = (
    ("database", "String"),
    ("worker", "String"),
    ("at", "DateTime64(3, 'UTC')"),
    ("deployment", "UInt64"),
    ("pausing", "UInt64"),
    ("paused", "Array(String)"),
    ("restless", "Array(String)"),
    ("stopped", "Bool"),
)
_UNKNOWN_TABLE, _UNKNOWN_DATABASE = 60, 81


class DeploymentUnderWayError(AppError):
    """Another deployment is under way; try again when it has ended."""

    code = "deployment_under_way"
    http_status = 409


class Deployment(Struct, frozen=True, kw_only=True):
    """One row of the history.

    ``id`` is the time it began, in milliseconds since 1970. ``files`` are (path, text) pairs,
    ``steps`` what was done in words, ``disturbs`` the data sources that must be at rest meanwhile.
    ``failed`` changed nothing; ``halted`` had done some of its steps.
    """

    id: int
    status: Status
    at_ms: int
    hash: str = ""
    files: tuple[tuple[str, str], ...] = ()
    steps: tuple[str, ...] = ()
    disturbs: tuple[str, ...] = ()
    message: str = ""


class Worker(Struct, frozen=True, kw_only=True):
    """What one worker said last.

    ``deployment`` is what it serves, ``pausing`` the deployment for which it holds ``paused`` at
    rest and could not bring ``restless`` to rest. ``stopped``: it ended in order.
    """

    worker: str
    at_ms: int
    deployment: int
    pausing: int = 0
    paused: tuple[str, ...] = ()
    restless: tuple[str, ...] = ()
    stopped: bool = False


def hash_files(files: Iterable[tuple[str, str]]) -> str:
    """A digest of the files of a project; their order does not matter."""
    return hashlib.blake2b(msgspec.json.encode(sorted(files)), digest_size=16).hexdigest()


class DeploymentRecord:
    """The two tables, for the projects of one database.

    Args:
        clickhouse: Whose database it is; the tables are in a database of their own there.
        clock: Where times come from; the clocks of all processes should agree within seconds.
    """

    def __init__(self, clickhouse: ClickHouse, clock: Clock) -> None:
        self._clickhouse = clickhouse
        self._clock = clock

    async def prepare(self) -> None:
        """Make the tables where they are missing; needs the rights of a deployer."""
        for sql in TABLES:
            await self._clickhouse.execute(Statement(sql=sql))

    # Deployments ------------------------------------------------------------------------------

    async def write(self, deployment: Deployment) -> None:
        """Add a row."""
        row = msgspec.to_builtins(deployment)
        row |= {
            "database": self._clickhouse.database,
            "at": _text(row.pop("at_ms")),
            "files": msgspec.json.encode(deployment.files).decode(),
        }
        await insert_rows(self._clickhouse, DATABASE, "deployments", _DEPLOYMENTS, [row])

    async def live_id(self) -> int:
        """The id of the live deployment; 0 where nothing was ever deployed."""
        found = await self._ask(
            "SELECT max(id) AS id FROM pipehouse.deployments"
            " WHERE database = {database:String} AND status = 'live'"
        )
        return int(found[0]["id"]) if found else 0

    async def live(self) -> Deployment | None:
        """The live deployment with its files."""
        found = await self.history(limit=1, status="live", with_files=True)
        return found[0] if found else None

    async def history(
        self, *, limit: int = 20, status: Status | None = None, with_files: bool = False
    ) -> list[Deployment]:
        """The newest deployments as they stand, the newest first."""
        rows = await self._ask(
            "SELECT id, status, toUnixTimestamp64Milli(at) AS at_ms, hash,"
            " if({with_files:Bool}, files, '[]') AS files, steps, disturbs, message"
            " FROM pipehouse.deployments WHERE database = {database:String}"
            " AND ({status:String} = '' OR status = {status:String})"
            " ORDER BY id DESC, at DESC LIMIT 1 BY id LIMIT {limit:UInt32}",
            with_files=with_files,
            status=status or "",
            limit=limit,
        )
        return [
            msgspec.convert({**row, "files": msgspec.json.decode(row["files"])}, Deployment)
            for row in rows
        ]

    async def unfinished(self) -> list[Deployment]:
        """Deployments that began after the live one and did not end, the oldest first.

        Until a later one is live, the data sources that they disturb stay at rest.
        """
        rows = await self._ask(
            "SELECT d.id AS id, argMax(d.status, d.at) AS status,"
            " toUnixTimestamp64Milli(max(d.at)) AS at_ms, argMax(d.disturbs, d.at) AS disturbs,"
            " argMax(d.message, d.at) AS message"
            " FROM pipehouse.deployments AS d WHERE d.database = {database:String} AND d.id >"
            " (SELECT max(id) FROM pipehouse.deployments"
            " WHERE database = {database:String} AND status = 'live')"
            " GROUP BY d.id HAVING countIf(d.status = 'failed') = 0 ORDER BY id"
        )
        return [msgspec.convert(row, Deployment) for row in rows]

    # Workers ----------------------------------------------------------------------------------

    async def beat(self, worker: Worker) -> None:
        """Say what a worker is at."""
        row = msgspec.to_builtins(worker)
        row |= {"database": self._clickhouse.database, "at": _text(row.pop("at_ms"))}
        await insert_rows(self._clickhouse, DATABASE, "workers", _WORKERS, [row])

    async def workers(self) -> list[Worker]:
        """What each living worker said last."""
        rows = await self._ask(
            "SELECT worker, toUnixTimestamp64Milli(at) AS at_ms, deployment, pausing, paused,"
            " restless FROM pipehouse.workers FINAL"
            " WHERE database = {database:String} AND NOT stopped"
            " AND at > fromUnixTimestamp64Milli({since:Int64}) ORDER BY worker",
            since=self._clock.now_ms() - GONE_AFTER_MS,
        )
        return [msgspec.convert(row, Worker) for row in rows]

    async def _ask(self, sql: str, **parameters: str | int) -> Sequence[Mapping[str, Any]]:
        """Rows as objects; none where the tables do not exist yet."""
        statement = Statement(
            sql=sql,
            parameters={"database": self._clickhouse.database, **parameters},
            format="JSONEachRow",
            settings={"output_format_json_quote_64bit_integers": 0},
        )
        try:
            result = await self._clickhouse.fetch(statement)
        except QueryError as error:
            if error.clickhouse_code in (_UNKNOWN_TABLE, _UNKNOWN_DATABASE):
                return []
            raise
        return [msgspec.json.decode(line) for line in result.body.splitlines()]


def _text(at_ms: int) -> str:
    return f"{datetime.fromtimestamp(at_ms / 1000, UTC):%Y-%m-%d %H:%M:%S.%f}"[:-3]
