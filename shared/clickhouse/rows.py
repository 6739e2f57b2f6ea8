"""A few rows given as values, for the tables that the product keeps for itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec
from msgspec import Struct

from shared.clickhouse.contract import ClickHouse, Insert

_encode = msgspec.json.Encoder().encode


class Rows(Struct, frozen=True):
    """A block of rows by column name; values in the forms that JSON has for their types.

    Times are text (``2026-01-31 10:00:00.000``) or numbers, integers over 64 bits are text.
    """

    rows: Sequence[Mapping[str, object]]

    @property
    def row_count(self) -> int:
        """How many rows."""
        return len(self.rows)

    def json_lines(self) -> Iterable[bytes]:
        """The rows as NDJSON."""
        return [_encode(row) + b"\n" for row in self.rows]


async def insert_rows(
    clickhouse: ClickHouse,
    database: str,
    table: str,
    columns: Sequence[tuple[str, str]],
    rows: Sequence[Mapping[str, object]],
) -> None:
    """Insert a few rows without deduplication.

    Args:
        clickhouse: The engine.
        database: Where the table is.
        table: Its name.
        columns: Name and ClickHouse type of the columns that the rows have.
        rows: The values by column name.

    Raises:
        InsertError: See ``shared/clickhouse/failures.py``.
    """
    block = Rows(rows)
    insert = Insert(database=database, table=table, columns=tuple(columns), block=block)
    await clickhouse.insert(insert)
