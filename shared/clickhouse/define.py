"""Making tables of our own, in the form that the engine needs."""

from __future__ import annotations

from collections.abc import Iterable

from shared.clickhouse.contract import ClickHouse, Statement
from shared.clickhouse.replicated import DATABASE_ENGINE, database_of, replicated
from shared.errors import ConfigError


async def define(clickhouse: ClickHouse, statements: Iterable[str]) -> None:
    """Run statements that make databases and tables of ours, where they are missing.

    A database that several hosts keep has to be there: no statement makes it on all of them.

    Raises:
        ConfigError: It is not there, or not kept by several hosts.
        QueryError: This user may not.
    """
    for sql in statements:
        if not clickhouse.capabilities.replicates:
            await clickhouse.execute(Statement(sql=sql))
        elif (name := database_of(sql)) is None:
            await clickhouse.execute(Statement(sql=replicated(sql)))
        elif await _engine_of(clickhouse, name) != DATABASE_ENGINE:
            raise ConfigError(
                f"Database '{name}' is not one that the hosts share.",
                hint="pipehouse deploy --bootstrap makes it, with all hosts in the URL.",
            )


async def _engine_of(clickhouse: ClickHouse, database: str) -> str:
    asked = Statement(
        sql="SELECT engine FROM system.databases WHERE name = {name:String}",
        parameters={"name": database},
        format="TSV",
    )
    return (await clickhouse.fetch(asked)).body.decode().strip()
