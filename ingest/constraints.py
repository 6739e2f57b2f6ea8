"""Which rows of a block break a constraint, all at once.

ClickHouse refuses a block at the first row that breaks a constraint, and says which one with its
expression. Where most rows of a batch break it, looking for them one by one would take minutes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import msgspec
from msgspec import Struct, structs

from shared.clickhouse.contract import ClickHouse, Identity, Insert, Run, Statement
from shared.clickhouse.failures import InsertFatalError, InsertRefusedError
from shared.clickhouse.sql import quote_identifier, quote_table
from shared.errors import QueryError

# The second form is for an expression that is NULL in some row.
_VIOLATED = re.compile(
    r"(?P<what>Constraint .*?) is violated(?: at row \d+)?\. "
    r"Expression: \((?P<expression>.*?)\)\.(?: Column values: |Constraint expression returns )",
    re.DOTALL,
)
_SUFFIX = "_rows"
_IDENTITY_TYPES = ("UInt64", "Int32", "Int64")


class _Column(Struct, frozen=True):
    name: str
    type: str
    default_kind: str
    default_expression: str

    @property
    def sql(self) -> str:
        return " ".join(
            [quote_identifier(self.name), self.type, self.default_kind, self.default_expression]
        )


async def violators(
    clickhouse: ClickHouse, insert: Insert, runs: tuple[Run, ...], error: InsertRefusedError
) -> dict[int, str]:
    """The offsets of the rows that break the constraint which an error names, with the reason.

    Empty where the error names none, or the rows cannot be asked for it: then nothing is known.
    For the question the rows are kept in a table beside the one that refused them, which has its
    columns and no constraint.

    Args:
        clickhouse: The engine.
        insert: What was refused, by a table that is there for the search only.
        runs: The offsets of its rows.
        error: The refusal.

    Raises:
        InsertError: Something else failed.
    """
    found = _VIOLATED.match(error.message)
    if found is None:
        return {}
    kept = structs.replace(
        insert,
        table=insert.table + _SUFFIX,
        identity=Identity(stream=0, partition=0, runs=runs),
    )
    assert kept.identity is not None
    *_, offset = kept.identity.columns
    target = quote_table(kept.database, kept.table)
    columns = await _columns(clickhouse, insert)
    names = {column.name for column in columns}
    columns += [
        _Column(name, type_, "", "")
        for name, type_ in zip(kept.identity.columns, _IDENTITY_TYPES, strict=True)
        if name not in names
    ]
    await clickhouse.execute(Statement(sql=f"DROP TABLE IF EXISTS {target}"))
    try:
        await clickhouse.execute(
            Statement(
                sql=f"CREATE TABLE {target} ({', '.join(c.sql for c in columns)})"
                " ENGINE = Memory COMMENT 'a search for refused rows'"
            )
        )
        await clickhouse.insert(kept)
        broken = await clickhouse.fetch(
            Statement(
                sql=f"SELECT {quote_identifier(offset)} FROM {target}"
                f" WHERE NOT ifNull({found['expression']}, 0)",
                format="TSV",
            )
        )
    except (InsertRefusedError, InsertFatalError, QueryError):
        return {}
    finally:
        await clickhouse.execute(Statement(sql=f"DROP TABLE IF EXISTS {target}"))
    reason = f"{found['what']} is violated. Expression: ({found['expression']})."
    return dict.fromkeys(map(int, broken.body.split()), reason)


async def _columns(clickhouse: ClickHouse, insert: Insert) -> list[_Column]:
    found = await clickhouse.fetch(
        Statement(
            sql="SELECT name, type, default_kind, default_expression FROM system.columns"
            " WHERE database = {database:String} AND table = {table:String} ORDER BY position",
            parameters={"database": insert.database, "table": insert.table},
            format="JSONEachRow",
        )
    )
    lines: Iterable[bytes] = found.body.splitlines()
    return [msgspec.json.decode(line, type=_Column) for line in lines]
