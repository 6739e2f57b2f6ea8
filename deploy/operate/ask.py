"""A question to ClickHouse whose rows come back as values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import msgspec
from msgspec import Struct

from shared.clickhouse.contract import ClickHouse, Statement
from shared.clickhouse.sql import ParameterValue

Row = TypeVar("Row", bound=Struct)


async def ask(
    clickhouse: ClickHouse,
    row: type[Row],
    sql: str,
    parameters: Mapping[str, ParameterValue] | None = None,
) -> list[Row]:
    """The answer, a Struct a row; columns are named like its fields.

    Raises:
        QueryError: ClickHouse refused it.
        ClickHouseUnavailableError: It does not answer.
    """
    result = await clickhouse.fetch(
        Statement(
            sql=sql,
            parameters=parameters or {},
            format="JSONEachRow",
            settings={"output_format_json_quote_64bit_integers": 0},
        )
    )
    return msgspec.json.Decoder(row).decode_lines(result.body)
