"""``pipehouse.tokens``: how tokens lie in ClickHouse, for all processes of a workspace.

One row a change; the newest of a name counts, a deletion is a row too. A row with an empty name
says which secret the workspace's tokens are encrypted with, so that a process with another one is
told so at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Struct

from shared.auth.records import Details, TokenRecord
from shared.clickhouse.contract import ClickHouse, Statement
from shared.clickhouse.define import define
from shared.clickhouse.rows import insert_rows
from shared.errors import QueryError

DATABASE = "pipehouse"
TABLE = "tokens"

_CREATE = (
    f"CREATE DATABASE IF NOT EXISTS {DATABASE}",
    f"CREATE TABLE IF NOT EXISTS {DATABASE}.{TABLE} ("
    "database String, name String, version UInt64, is_gone UInt8, key_id String, id String,"
    " digest String, sealed String, details String"
    ") ENGINE = ReplacingMergeTree(version) ORDER BY (database, name)",
)
_COLUMNS = (
    ("database", "String"),
    ("name", "String"),
    ("version", "UInt64"),
    ("is_gone", "UInt8"),
    ("key_id", "String"),
    ("id", "String"),
    ("digest", "String"),
    ("sealed", "String"),
    ("details", "String"),
)
_MARKER = ""
_MISSING = frozenset({60, 81})  # unknown table, unknown database


class Loaded(Struct, frozen=True, kw_only=True):
    """All tokens of the workspace as they were at one moment.

    ``key_id`` is that of the workspace, None where nobody has set it yet. ``foreign`` are names of
    tokens that were encrypted with another secret.
    """

    stamp: str = ""
    version: int = 0
    key_id: str | None = None
    records: tuple[TokenRecord, ...] = ()
    foreign: tuple[str, ...] = ()


class _Row(Struct, frozen=True, kw_only=True):
    name: str
    version: int
    is_gone: int
    key_id: str
    id: str
    digest: str
    sealed: str
    details: str


class TokenTable:
    """The table, for the tokens of one database.

    Args:
        clickhouse: Where the table is.
        key_id: Names the secret that this process encrypts with.
    """

    def __init__(self, clickhouse: ClickHouse, key_id: str) -> None:
        self._clickhouse = clickhouse
        self.key_id = key_id

    async def prepare(self) -> None:
        """Make the table; needs the rights of a deployer."""
        await define(self._clickhouse, _CREATE)

    async def exists(self) -> bool:
        """Whether the table is there."""
        try:
            await self.stamp()
        except QueryError as error:
            if error.clickhouse_code in _MISSING:
                return False
            raise
        return True

    async def stamp(self) -> str:
        """Changes whenever the table does; cheap."""
        rows = await self._ask(
            "SELECT toString((count(), max(version), sum(cityHash64(name, version)))) AS stamp"
            f" FROM {DATABASE}.{TABLE} WHERE database = {{database:String}}"
        )
        return str(rows[0]["stamp"])

    async def load(self) -> Loaded:
        """Everything."""
        # The stamp first: what changes in between is read twice rather than never.
        stamp = await self.stamp()
        found = await self._ask(
            "SELECT name, version, is_gone, key_id, id, digest, sealed, details"
            f" FROM {DATABASE}.{TABLE} FINAL WHERE database = {{database:String}} ORDER BY name"
        )
        rows = msgspec.convert(found, list[_Row])
        marker = next((row for row in rows if row.name == _MARKER), None)
        live = [row for row in rows if row.name != _MARKER and not row.is_gone]
        own = [row for row in live if row.key_id == self.key_id]
        return Loaded(
            stamp=stamp,
            version=max((row.version for row in rows), default=0),
            key_id=marker.key_id if marker is not None else None,
            records=tuple(_record(row) for row in own),
            foreign=tuple(row.name for row in live if row.key_id != self.key_id),
        )

    async def mark(self, version: int) -> None:
        """Say that the workspace's tokens are encrypted with the secret of this process."""
        await self._insert([self._row(_MARKER, version)])

    async def write(
        self, records: Sequence[TokenRecord], gone: Sequence[str], version: int
    ) -> None:
        """Keep these tokens and forget those names, all or nothing."""
        rows = [self._row(name, version, is_gone=1) for name in gone]
        rows += [
            self._row(
                record.name,
                version,
                id=record.id,
                digest=record.digest,
                sealed=record.sealed,
                details=msgspec.json.encode(record.details).decode(),
            )
            for record in records
        ]
        await self._insert(rows)

    def _row(self, name: str, version: int, **values: str | int) -> dict[str, object]:
        empty = {"is_gone": 0, "id": "", "digest": "", "sealed": "", "details": ""}
        own = {"database": self._clickhouse.database, "name": name, "version": version}
        return {**empty, **own, "key_id": self.key_id, **values}

    async def _insert(self, rows: Sequence[dict[str, object]]) -> None:
        await insert_rows(self._clickhouse, DATABASE, TABLE, _COLUMNS, rows)

    async def _ask(self, sql: str) -> list[dict[str, Any]]:
        result = await self._clickhouse.fetch(
            Statement(
                sql=sql,
                parameters={"database": self._clickhouse.database},
                format="JSONEachRow",
                settings={"output_format_json_quote_64bit_integers": 0},
            )
        )
        return [msgspec.json.decode(line) for line in result.body.splitlines()]


def _record(row: _Row) -> TokenRecord:
    return TokenRecord(
        id=row.id,
        name=row.name,
        digest=row.digest,
        sealed=row.sealed,
        details=msgspec.json.decode(row.details, type=Details),
    )
