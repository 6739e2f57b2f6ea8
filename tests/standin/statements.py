"""Statements that the stand-in writes itself; pure but for ``write_all``."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence

from msgspec import Struct

from shared.clickhouse.sql import literal
from tests.standin.errors import ServerError
from tests.standin.running import Query
from tests.standin.text import InsertHead


class Column(Struct, frozen=True):
    """A column of a table; ``kind`` is empty, DEFAULT, MATERIALIZED, ALIAS or EPHEMERAL."""

    name: str
    type: str
    kind: str


def insert_columns(
    existing: Sequence[Column], head: InsertHead, target: tuple[str, str], allow_materialized: bool
) -> tuple[tuple[str, str], ...]:
    """Names and types of the columns that an INSERT names, in its order.

    Raises:
        ServerError: One does not exist or cannot be inserted.
    """
    if not head.columns:
        return tuple((c.name, c.type) for c in existing if c.kind in ("", "DEFAULT"))
    by_name = {column.name: column for column in existing}
    chosen = []
    for name in head.columns:
        column = by_name.get(name)
        if column is None:
            raise ServerError(
                16,
                "NO_SUCH_COLUMN_IN_TABLE",
                f"No such column {name} in table {target[0]}.{target[1]}",
            )
        if column.kind == "ALIAS" or (column.kind == "MATERIALIZED" and not allow_materialized):
            raise ServerError(
                44,
                "ILLEGAL_COLUMN",
                f"Cannot insert column {name}, because it is {column.kind} column",
            )
        chosen.append((column.name, column.type))
    return tuple(chosen)


def as_insert_select(settings: Mapping[str, str], bodies: Iterable[bytes]) -> str:
    """What makes INSERT … SELECT treat its block as an INSERT of data treats it."""
    mode = settings.get("deduplicate_insert", "backward_compatible_choice")
    wanted = settings.get("insert_deduplicate", "1") not in ("0", "false")
    if mode == "disable" or (mode != "enable" and not wanted):
        chosen = "deduplicate_insert_select = 'disable'"
    else:
        chosen = "deduplicate_insert_select = 'force_enable'"
        if not settings.get("insert_deduplication_token"):
            # A block of data without a token is known by its content, a query's result is not.
            digest = hashlib.sha256(b"".join(bodies)).hexdigest()
            chosen += f", insert_deduplication_token = 'content:{digest}'"
    # The blocks keep their order, and are put together as those of a connection are.
    return f"{chosen}, max_threads = 1, max_insert_threads = 1"


def kill_answer(found: list[Query], status: str) -> str:
    """A query that answers as KILL QUERY does."""
    rows = ", ".join(
        f"({literal(status)}, {literal(query.query_id)}, {literal(query.user)},"
        f" {literal(query.sql)})"
        for query in found
    )
    columns = "kill_status String, query_id String, user String, query String"
    if not found:
        return f"SELECT * FROM null('{columns}')"
    return f"SELECT * FROM values('{columns}', {rows})"


def write_all(descriptor: int, data: bytes) -> None:
    """Write all of it to an open file."""
    view = memoryview(data)
    with open(descriptor, "wb", closefd=False, buffering=0) as file:
        while view:
            view = view[file.write(view) :]
