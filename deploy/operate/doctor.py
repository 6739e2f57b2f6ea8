"""``doctor``: the guarantee that really holds for each data source, and what is not healthy."""

from __future__ import annotations

import asyncio

from msgspec import Struct

from deploy.operate.feeds import feed_checks
from deploy.operate.guarantee import Guarantee, Subject, judge
from deploy.operate.health import Check, engine_checks
from deploy.operate.services import OperatorServices
from deploy.operate.tables import Tables, read_tables
from ingest.worker import takes_events
from shared.model.resources import Datasource

# Logs that are asked at a time: one that does not answer takes seconds to be sure of.
_AT_A_TIME = 8


class DoctorArguments(Struct, frozen=True, forbid_unknown_fields=True):
    """Of one data source, or of everything."""

    datasource: str = ""


class DoctorResult(Struct, frozen=True, kw_only=True):
    """``is_ok``: no guarantee is broken and no check is bad; warnings do not count."""

    is_ok: bool
    engine: str
    guarantees: tuple[Guarantee, ...]
    checks: tuple[Check, ...]


async def doctor(services: OperatorServices, arguments: DoctorArguments) -> DoctorResult:
    """Ask engine, tables and log.

    Raises:
        NotFoundError: No such data source.
        ClickHouseUnavailableError: The engine does not answer.
    """
    state = await services.state()
    datasources = await services.fed_datasources(arguments.datasource)
    tables = await read_tables(services.clickhouse, state)
    guarantees = []
    fed = []
    checks = await engine_checks(services)
    checks += await _table_checks(services, datasources, tables)
    checks += _power_check(services, tables)
    for datasource in datasources:
        table = tables.tables.get(datasource.name)
        if table is not None and takes_events(datasource):
            guarantees.append(
                judge(
                    Subject(
                        datasource=datasource,
                        table=table,
                        views=tables.views(datasource.name),
                        engine=services.clickhouse.capabilities,
                    )
                )
            )
            fed.append(datasource)
    checks += await _feed_checks(services, fed)
    levels = {c.level for c in checks} | {g.level for g in guarantees}
    return DoctorResult(
        is_ok="bad" not in levels,
        engine=services.clickhouse.capabilities.name,
        guarantees=tuple(guarantees),
        checks=tuple(checks),
    )


async def _feed_checks(services: OperatorServices, datasources: list[Datasource]) -> list[Check]:
    turns = asyncio.Semaphore(_AT_A_TIME)

    async def ask(datasource: Datasource) -> list[Check]:
        async with turns:
            return await feed_checks(services, datasource)

    found = await asyncio.gather(*(ask(datasource) for datasource in datasources))
    return [check for checks in found for check in checks]


async def _table_checks(
    services: OperatorServices, datasources: list[Datasource], tables: Tables
) -> list[Check]:
    """Whether tables are those that were written to before."""
    checks = []
    known = await services.ledger.last_uuids()
    for datasource in datasources:
        table = tables.tables.get(datasource.name)
        if table is None:
            checks.append(
                Check(
                    subject=datasource.name,
                    level="bad",
                    text="The table is gone.",
                    fix="Deploy the project again; the log has what is within its retention.",
                )
            )
        elif datasource.name in known and known[datasource.name][0] != table.uuid:
            checks.append(
                Check(
                    subject=datasource.name,
                    level="bad",
                    text="The table is not the one that was written to before: it was made anew,"
                    " and what it held is not in it.",
                    fix="Restore it, or ask 'pipehouse audit' which offsets are missing.",
                )
            )
    return checks


def _power_check(services: OperatorServices, tables: Tables) -> list[Check]:
    """Whether what is stored survives the loss of power."""
    fsync = services.fsync
    on_disk = all(t.fsync for t in tables.tables.values() if t.window) if fsync is None else fsync
    if on_disk:
        return []
    fix = "Set PIPEHOUSE_FSYNC=true where the machine may lose power."
    if fsync is None:
        fix = "Set fsync_after_insert and fsync_part_directory, or use replicas."
    return [
        Check(
            subject="power loss",
            level="warning",
            text="What is stored survives the end of a process, not the loss of power.",
            fix=fix,
        )
    ]
