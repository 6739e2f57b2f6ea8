"""Whether the engine is healthy: version, disk, clocks, mutations, parts, replicas."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from msgspec import Struct

from deploy.operate.ask import ask
from deploy.operate.guarantee import Level
from deploy.operate.services import OperatorServices
from shared.clickhouse.boot import TABLE_SQL, is_exact
from shared.clickhouse.sql import quote_identifier
from shared.errors import QueryError

OLDEST_VERSION = (25, 8)
_GIB = 1 << 30
# Free space below which new parts and merges may fail soon.
LITTLE_DISK_BYTES = 5 * _GIB
LITTLE_DISK_SHARE = 0.05
NO_DISK_BYTES = _GIB // 2
MANY_PARTS = 1_000
# Processes judge each other by times they wrote down.
CLOCK_TOLERANCE_MS = 2_000
STUCK_MUTATION_S = 600
_ACCESS_DENIED = 497


class Check(Struct, frozen=True, kw_only=True):
    """One thing that was looked at; ``fix`` says what to do, empty where nothing is wrong."""

    subject: str
    level: Level
    text: str
    fix: str = ""


class _Version(Struct):
    version: str
    now_ms: int


class _Disk(Struct):
    name: str
    free_bytes: int
    total_bytes: int


class _Mutation(Struct):
    table: str
    command: str
    reason: str


class _Parts(Struct):
    table: str
    part: str
    n: int


class _Replica(Struct):
    table: str
    readonly: bool
    delay_s: int


class _Flag(Struct):
    value: int


class _Start(Struct):
    user: str
    table_uuid: str | None


async def engine_checks(services: OperatorServices) -> list[Check]:
    """Everything that can be asked of the engine; what it does not tell is left out.

    Raises:
        ClickHouseUnavailableError: It does not answer.
    """
    looks: tuple[Callable[[OperatorServices], Awaitable[list[Check]]], ...] = (
        _version,
        _disks,
        _rights,
        _boot,
        _mutations,
        _parts,
        _replicas,
    )
    checks: list[Check] = []
    for look in looks:
        try:
            checks += await look(services)
        except QueryError as error:
            if error.clickhouse_code != _ACCESS_DENIED:
                raise
            checks.append(
                Check(
                    subject="rights",
                    level="warning",
                    text=f"The user may not look: {error.message}",
                    fix="Grant it SELECT on the system tables.",
                )
            )
    return checks


async def _version(services: OperatorServices) -> list[Check]:
    before_ms = services.clock.now_ms()
    rows = await ask(
        services.clickhouse,
        _Version,
        "SELECT version() AS version, toUnixTimestamp64Milli(now64(3)) AS now_ms",
    )
    after_ms = services.clock.now_ms()
    found = rows[0]
    parts = tuple(int(p) for p in found.version.split(".")[:2] if p.isdigit())
    checks = [Check(subject="ClickHouse", level="ok", text=f"Version {found.version} answers.")]
    if parts < OLDEST_VERSION:
        oldest = ".".join(map(str, OLDEST_VERSION))
        checks = [
            Check(
                subject="ClickHouse",
                level="bad",
                text=f"Version {found.version} is too old: {oldest} is the oldest supported.",
                fix="Upgrade the server.",
            )
        ]
    off_ms = max(before_ms - found.now_ms, found.now_ms - after_ms, 0)
    if off_ms > CLOCK_TOLERANCE_MS:
        checks.append(
            Check(
                subject="clocks",
                level="warning",
                text=f"The clocks of this machine and ClickHouse differ by {off_ms / 1000:.1f} s.",
                fix="Keep both in time with NTP.",
            )
        )
    return checks


async def _disks(services: OperatorServices) -> list[Check]:
    disks = await ask(
        services.clickhouse,
        _Disk,
        "SELECT name, toInt64(least(free_space, {most:UInt64})) AS free_bytes,"
        " toInt64(least(total_space, {most:UInt64})) AS total_bytes FROM system.disks",
        # Object storage says that it has all there can be.
        {"most": 1 << 60},
    )
    return [disk_check(d.name, d.free_bytes, d.total_bytes) for d in disks if d.total_bytes]


def disk_check(name: str, free_bytes: int, total_bytes: int) -> Check:
    """What the free space of a disk means."""
    text = f"{_amount(free_bytes)} of {_amount(total_bytes)} are free."
    level: Level = "ok"
    if free_bytes < NO_DISK_BYTES:
        level = "bad"
    elif free_bytes < min(LITTLE_DISK_BYTES, int(total_bytes * LITTLE_DISK_SHARE)):
        level = "warning"
    fix = "" if level == "ok" else "Free some space; until then the log keeps what comes in."
    return Check(subject=f"disk {name}", level=level, text=text, fix=fix)


def _amount(size_bytes: int) -> str:
    if size_bytes < _GIB:
        return f"{size_bytes / (1 << 20):.1f} MiB"
    return f"{size_bytes / _GIB:.1f} GiB"


async def _rights(services: OperatorServices) -> list[Check]:
    rows = await ask(
        services.clickhouse,
        _Flag,
        "SELECT toInt64(value) AS value FROM system.settings WHERE name = 'readonly'",
    )
    # 2 is what this very question runs under.
    if rows and rows[0].value == 1:
        return [
            Check(
                subject="rights",
                level="warning",
                text="This user may only read; whoever stores needs another one.",
                fix="Name a writer in PIPEHOUSE_CLICKHOUSE_URL of the workers.",
            )
        ]
    return []


async def _boot(services: OperatorServices) -> list[Check]:
    """Whether all processes call one start of the server the same."""
    if services.clickhouse.capabilities.shares_process:
        return []
    found = await ask(
        services.clickhouse,
        _Start,
        f"SELECT currentUser() AS user, ({TABLE_SQL}) AS table_uuid",
    )
    if is_exact(found[0].table_uuid or ""):
        return []
    user = quote_identifier(found[0].user)
    return [
        Check(
            subject="rights",
            level="warning",
            text="The user does not see the table system.one, which tells starts of the server"
            " apart; by its clock two processes may take one start for two.",
            fix=f"GRANT SELECT ON system.one TO {user}",
        )
    ]


async def _mutations(services: OperatorServices) -> list[Check]:
    rows = await ask(
        services.clickhouse,
        _Mutation,
        "SELECT table, command, latest_fail_reason AS reason FROM system.mutations"
        " WHERE database = {database:String} AND NOT is_done AND"
        " (latest_fail_reason != '' OR create_time < now() - {age:UInt32}) ORDER BY create_time",
        {"database": services.clickhouse.database, "age": STUCK_MUTATION_S},
    )
    return [
        Check(
            subject=row.table,
            level="warning",
            text=f"A change of its rows does not end: {row.command} {row.reason}".strip(),
            fix="KILL MUTATION it, or mend what it fails at.",
        )
        for row in rows
    ]


async def _parts(services: OperatorServices) -> list[Check]:
    rows = await ask(
        services.clickhouse,
        _Parts,
        "SELECT table, partition AS part, toInt64(count()) AS n FROM system.parts"
        " WHERE active AND database = {database:String} GROUP BY table, part"
        " HAVING n >= {many:UInt32} ORDER BY n DESC LIMIT 20",
        {"database": services.clickhouse.database, "many": MANY_PARTS},
    )
    return [
        Check(
            subject=row.table,
            level="warning",
            text=f"Partition {row.part} has {row.n:,} parts: merging does not keep up.",
            fix="Use a coarser PARTITION BY, larger batches, or fewer views.",
        )
        for row in rows
    ]


async def _replicas(services: OperatorServices) -> list[Check]:
    rows = await ask(
        services.clickhouse,
        _Replica,
        "SELECT table, toBool(is_readonly) AS readonly, toInt64(absolute_delay) AS delay_s"
        " FROM system.replicas WHERE database = {database:String}"
        " AND (is_readonly OR absolute_delay > 60)",
        {"database": services.clickhouse.database},
    )
    return [
        Check(
            subject=row.table,
            level="bad" if row.readonly else "warning",
            text="The replica is read-only." if row.readonly else f"It lags {row.delay_s} s.",
            fix="See that Keeper answers." if row.readonly else "See what its queue waits for.",
        )
        for row in rows
    ]
