"""Deployments as every process sees them: two tables in ClickHouse, and what is asked of them.

``pipehouse.deployments`` is a history: one row when a deployment begins, one when it ends. The
newest that ended well is live. ``pipehouse.workers`` says what each worker is at, so that a
deployment can wait until what it changes is at rest.

All times are the server's: the clocks of the hosts that processes run on need not agree.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import msgspec
from msgspec import Struct

from shared.clickhouse.contract import ClickHouse, Statement
from shared.clickhouse.rows import insert_rows
from shared.errors import AppError, QueryError

DATABASE = "pipehouse"

# A deployment that has said nothing for so long is taken for dead; it repeats itself more often.
ABANDONED_AFTER_MS = 30_000
# A worker that has said nothing for so long is taken for dead. Longer than a worker that was
# suspended may send what it had: see ``KafkaSourceOptions.lease_s``, and it speaks every 3 s.
GONE_AFTER_MS = 20_000

TABLES = (
    f"CREATE DATABASE IF NOT EXISTS {DATABASE}",
    f"CREATE TABLE IF NOT EXISTS {DATABASE}.deployments ("
    "database String, id UInt64, owner String, status LowCardinality(String),"
    " at DateTime64(3, 'UTC') DEFAULT now64(3), hash String, files String CODEC(ZSTD(3)),"
    " steps Array(String), disturbs Array(String), message String)"
    " ENGINE = MergeTree ORDER BY (database, id, at)",
    f"CREATE TABLE IF NOT EXISTS {DATABASE}.workers ("
    "database String, worker String, at DateTime64(3, 'UTC') DEFAULT now64(3),"
    " deployment UInt64, pausing UInt64, paused Array(String), restless Array(String),"
    " stopped Bool)"
    " ENGINE = ReplacingMergeTree(at) ORDER BY (database, worker)"
    " TTL toDateTime(at) + INTERVAL 1 DAY",
)

Status = Literal["begun", "applying", "halted", "live", "failed"]

_DEPLOYMENTS = (
    ("database", "String"),
    ("id", "UInt64"),
    ("owner", "String"),
    ("status", "LowCardinality(String)"),
    ("hash", "String"),
    ("files", "String"),
    ("steps", "Array(String)"),
    ("disturbs", "Array(String)"),
    ("message", "String"),
)
_WORKERS = (
    ("database", "String"),
    ("worker", "String"),
    ("deployment", "UInt64"),
    ("pausing", "UInt64"),
    ("paused", "Array(String)"),
    ("restless", "Array(String)"),
    ("stopped", "Bool"),
)
# Of two rows of one millisecond the later one.
_RANK = "transform(d.status, ['begun', 'applying'], [0, 1], 2)"
_UNKNOWN_TABLE, _UNKNOWN_DATABASE = 60, 81


class DeploymentUnderWayError(AppError):
    """Another deployment is under way; try again when it has ended."""

    code = "deployment_under_way"
    http_status = 409


class Deployment(Struct, frozen=True, kw_only=True):
    """One row of the history.

    ``id`` is above all before it, and about the time it began, in milliseconds since 1970;
    ``owner`` tells two apart that took the same. ``files`` are (path, text) pairs, ``steps`` what
    is done in words, ``disturbs`` the data sources that must be at rest meanwhile. ``begun`` may
    still be refused, ``applying`` may not; ``failed`` changed nothing; ``halted`` had done some of
    its steps. ``at_ms`` and ``age_ms`` are when the row was written and how long ago; they come
    from the server.
    """

    id: int
    status: Status
    owner: str = ""
    at_ms: int = 0
    age_ms: int = 0
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
    """

    def __init__(self, clickhouse: ClickHouse) -> None:
        self._clickhouse = clickhouse

    async def prepare(self) -> None:
        """Make the tables where they are missing; needs the rights of a deployer."""
        for sql in TABLES:
            await self._clickhouse.execute(Statement(sql=sql))

    # Deployments ------------------------------------------------------------------------------

    async def write(self, deployment: Deployment) -> None:
        """Add a row."""
        row = msgspec.to_builtins(deployment)
        del row["at_ms"], row["age_ms"]
        row |= {
            "database": self._clickhouse.database,
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

    async def last_id(self) -> int:
        """The highest id that any deployment took; 0 where there was none."""
        found = await self._ask(
            "SELECT max(id) AS id FROM pipehouse.deployments WHERE database = {database:String}"
        )
        return int(found[0]["id"]) if found else 0

    async def live(self) -> Deployment | None:
        """The live deployment with its files."""
        rows = await self._ask(
            "SELECT id, owner, status, toUnixTimestamp64Milli(at) AS at_ms, hash, files, steps,"
            " disturbs, message FROM pipehouse.deployments"
            # One deployment by its key: the files of all that ever were are not read.
            " WHERE database = {database:String} AND status = 'live' AND id ="
            " (SELECT max(id) FROM pipehouse.deployments"
            " WHERE database = {database:String} AND status = 'live') LIMIT 1"
        )
        for row in rows:
            files = msgspec.json.decode(row["files"])
            return msgspec.convert({**row, "files": files}, Deployment)
        return None

    async def history(self, *, limit: int = 20) -> list[Deployment]:
        """The newest deployments as they stand, the newest first; without their files."""
        rows = await self._ask(
            "SELECT id, owner, status, toUnixTimestamp64Milli(at) AS at_ms, hash, steps, disturbs,"
            " message FROM pipehouse.deployments AS d WHERE database = {database:String}"
            f" ORDER BY id DESC, owner, at DESC, {_RANK} DESC LIMIT 1 BY id, owner"
            " LIMIT {limit:UInt32}",
            limit=limit,
        )
        return [msgspec.convert(row, Deployment) for row in rows]

    async def unfinished(self) -> list[Deployment]:
        """Deployments that began after the live one and did not end, the oldest first.

        Until a later one is live, the data sources that they disturb stay at rest.
        """
        rows = await self._ask(
            f"SELECT d.id AS id, d.owner AS owner, argMax(d.status, (d.at, {_RANK})) AS status,"
            " toUnixTimestamp64Milli(max(d.at)) AS at_ms,"
            " toUnixTimestamp64Milli(now64(3)) - at_ms AS age_ms,"
            " argMax(d.disturbs, d.at) AS disturbs, argMax(d.message, d.at) AS message"
            " FROM pipehouse.deployments AS d WHERE d.database = {database:String} AND d.id >"
            " (SELECT max(id) FROM pipehouse.deployments"
            " WHERE database = {database:String} AND status = 'live')"
            " GROUP BY d.id, d.owner HAVING countIf(d.status = 'failed') = 0 ORDER BY id, owner"
        )
        return [msgspec.convert(row, Deployment) for row in rows]

    # Workers ----------------------------------------------------------------------------------

    async def beat(self, worker: Worker) -> None:
        """Say what a worker is at."""
        row = msgspec.to_builtins(worker)
        row["database"] = self._clickhouse.database
        await insert_rows(self._clickhouse, DATABASE, "workers", _WORKERS, [row])

    async def workers(self) -> list[Worker]:
        """What each living worker said last."""
        rows = await self._ask(
            "SELECT worker, deployment, pausing, paused, restless FROM pipehouse.workers FINAL"
            " WHERE database = {database:String} AND NOT stopped"
            " AND at > now64(3) - toIntervalMillisecond({gone:UInt32}) ORDER BY worker",
            gone=GONE_AFTER_MS,
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
