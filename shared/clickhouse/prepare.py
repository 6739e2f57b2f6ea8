"""Tables that the product keeps for itself: made where they are missing, by those who may."""

from __future__ import annotations

from collections.abc import Sequence

from shared.clickhouse.contract import ClickHouse, Statement


async def prepare_table(
    clickhouse: ClickHouse, database: str, table: str, statements: Sequence[str]
) -> None:
    """Make a table unless it is there.

    It is looked for first: a user who may only insert is refused even a CREATE … IF NOT EXISTS.

    Args:
        clickhouse: The engine.
        database: Where the table is.
        table: Its name.
        statements: What makes it; harmless to repeat.

    Raises:
        QueryError: It is missing, and this user may not make it.
    """
    found = await clickhouse.fetch(
        Statement(
            sql="SELECT count() FROM system.tables"
            " WHERE database = {database:String} AND name = {table:String}",
            parameters={"database": database, "table": table},
            format="TSV",
        )
    )
    if int(found.body):
        return
    for sql in statements:
        await clickhouse.execute(Statement(sql=sql))
