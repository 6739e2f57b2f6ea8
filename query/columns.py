"""The columns of an answer, as the engine itself names and types them."""

from __future__ import annotations

import msgspec
from msgspec import Struct

from query.planned import Planned
from shared.clickhouse.contract import ClickHouse, Statement


class OutputColumn(Struct, frozen=True):
    """One column of a node's answer; ``type`` is ClickHouse's spelling."""

    name: str
    type: str


async def output_columns(clickhouse: ClickHouse, planned: Planned) -> tuple[OutputColumn, ...]:
    """What a planned statement answers with, in order; nothing is run.

    Raises:
        QueryError: The engine refuses the statement.
        ClickHouseUnavailableError: It does not answer.
    """
    result = await clickhouse.fetch(
        Statement(
            sql=f"DESCRIBE TABLE (\n{planned.sql}\n)",
            parameters=planned.bindings,
            format="JSONEachRow",
        )
    )
    return tuple(msgspec.json.Decoder(OutputColumn).decode_lines(result.body))
