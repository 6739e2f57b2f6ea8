"""Whether the row filter of a token is one SQL condition on one data source, before it is kept."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection

from shared.clickhouse.allowlist import Analysis, check_select
from shared.clickhouse.sql import quote_identifier
from shared.errors import AppError, BadRequestError


async def check_row_filter(
    parse: Callable[[str], Awaitable[Analysis]],
    datasource: str,
    condition: str,
    tables: Collection[str],
) -> None:
    """Let a condition pass that stands on its own and does nothing that free SQL may not do.

    Args:
        parse: The engine's own parser.
        datasource: Whose rows it is about.
        condition: SQL text.
        tables: What its sub-queries may read.

    Raises:
        BadRequestError: It is no condition, or does more.
    """
    select = f"SELECT 1 FROM {quote_identifier(datasource)} WHERE "
    # In parentheses no other clause can follow it; without them it cannot close any.
    for sql in (f"{select}({condition}\n)", f"{select}{condition}\n"):
        try:
            check_select(await parse(sql), tables={datasource, *tables})
        except AppError as error:
            if error.retriable:
                raise
            raise BadRequestError(
                f"The row filter of '{datasource}' cannot be used: {error.message}"
            ) from error
