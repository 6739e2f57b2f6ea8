"""The INSERT of one block as SQL text; pure.

The block is one part for every ClickHouse partition, in the table and in every view: the engine is
told never to close a block before its end, and reads with one thread so that rows keep their order.
"""

from __future__ import annotations

from collections.abc import Collection

from shared.clickhouse.contract import Identity, Insert, SettingValue
from shared.clickhouse.profile import INSERT_SETTINGS
from shared.clickhouse.session import settings_clause
from shared.clickhouse.sql import literal, quote_identifier, quote_table

OFFSET_COLUMN = "__offset_of_row"
_MISSING_PREFIX = "__missing_"
# What a server says of an insert whose time was over before its rows came.
LATE = "The insert came after its deadline"

_SELECT_SETTINGS: dict[str, SettingValue] = {
    # Not force_enable: until 26.3 that refuses every SELECT without ORDER BY ALL, token or not.
    "deduplicate_insert_select": "enable_even_for_bad_queries",
}

# How rows are read from NDJSON.
LINE_SETTINGS: dict[str, SettingValue] = {
    "input_format_parallel_parsing": 0,
    "input_format_skip_unknown_fields": 1,
    "input_format_null_as_default": 1,
    "input_format_defaults_for_omitted_fields": 1,
    "date_time_input_format": "best_effort",
}

_FILE_SETTINGS: dict[str, SettingValue] = {
    **LINE_SETTINGS,
    # Rows are squashed into the one block afterwards: reading in small blocks costs nothing.
    "max_block_size": 65_409,
    "log_queries": 0,
}

_WITHOUT_DEDUPLICATION: dict[str, SettingValue] = {
    "insert_deduplicate": 0,
    "deduplicate_insert": "disable",
    "deduplicate_insert_select": "disable",
    "deduplicate_blocks_in_dependent_materialized_views": 0,
}


def insert_sql(insert: Insert, rows_path: str, offsets_path: str | None, comment: str) -> str:
    """The statement that reads a block from files.

    Args:
        insert: What goes where.
        rows_path: NDJSON of the rows.
        offsets_path: RowBinary Int64, one a row, where the offsets have holes.
        comment: Names the statement in the engine's lists.
    """
    values = [f"r.{quote_identifier(name)}" for name, _ in insert.columns]
    if insert.identity is not None:
        offset = f"o.{OFFSET_COLUMN}" if offsets_path is not None else _counted(insert.identity)
        values += _identity_values(insert.identity, offset)
    source = f"file({literal(rows_path)}, 'JSONEachRow', {literal(_structure(insert))}) AS r"
    if offsets_path is not None:
        structure = literal(f"{OFFSET_COLUMN} Int64")
        source += f" PASTE JOIN file({literal(offsets_path)}, 'RowBinary', {structure}) AS o"
    return (
        f"{_into(insert)}"
        f" SELECT {', '.join(values)} FROM {source}"
        f" SETTINGS {settings_clause({**_FILE_SETTINGS, **insert_settings(insert, comment)})}"
    )


def values_sql(insert: Insert) -> str:
    """The statement before a native block that has every column, those of the identity included."""
    return f"{_into(insert)} VALUES"


def input_sql(
    insert: Insert,
    missing: Collection[str],
    *,
    has_offsets: bool,
    form: str,
    deadline_s: int | None = None,
) -> str:
    """The statement before rows in which defaults are still to be taken.

    The rows have the columns of the insert, for each in ``missing`` a flag (``missing_column``),
    and with ``has_offsets`` the offsets (``OFFSET_COLUMN``). The other identity columns are added
    here.

    Args:
        insert: What goes where.
        missing: The columns that have a flag.
        has_offsets: Whether each row brings its offset; else they are counted from the first run.
        form: The format of the rows.
        deadline_s: On the server's clock, in Unix seconds: rows that it reads later are refused,
            with ``LATE``. Whoever sends them may have been suspended on the way.
    """
    structure, values = [], []
    for position, (name, column_type) in enumerate(insert.columns):
        quoted = quote_identifier(name)
        structure.append(f"{quoted} {column_type}")
        value = f"r.{quoted}"
        if name in missing:
            flag = missing_column(position)
            structure.append(f"{flag} UInt8")
            default = f"CAST({insert.defaults[name]} AS {column_type})"
            value = f"if(r.{flag}, {default}, {value})"
        # Under its own name: a default may speak of other columns, defaults of theirs included.
        values.append(f"{value} AS {quoted}")
    if has_offsets:
        structure.append(f"{OFFSET_COLUMN} Int64")
    if insert.identity is not None:
        offset = f"r.{OFFSET_COLUMN}" if has_offsets else _counted(insert.identity)
        values += _identity_values(insert.identity, offset)
    in_time = ""
    if deadline_s is not None:
        # Asked when the rows are there: now() would be the time when the statement came.
        late = f"nowInBlock() > fromUnixTimestamp({deadline_s})"
        in_time = f" WHERE throwIf({late}, {literal(LATE)}) = 0"
    return (
        f"{_into(insert)} SELECT {', '.join(values)}"
        f" FROM input({literal(', '.join(structure))}) AS r{in_time} FORMAT {form}"
    )


def missing_column(position: int) -> str:
    """The flag of the column at a position: 1 where its default is to be taken."""
    return f"{_MISSING_PREFIX}{position}"


def _into(insert: Insert) -> str:
    names = [name for name, _ in insert.columns]
    if insert.identity is not None:
        names += insert.identity.columns
    targets = ", ".join(map(quote_identifier, names))
    return f"INSERT INTO {quote_table(insert.database, insert.table)} ({targets})"


def _structure(insert: Insert) -> str:
    defaults = insert.defaults
    return ", ".join(
        f"{quote_identifier(name)} {column_type}"
        + (f" DEFAULT {defaults[name]}" if name in defaults else "")
        for name, column_type in insert.columns
    )


def _counted(identity: Identity) -> str:
    first = identity.runs[0].first if identity.runs else 0
    return f"toInt64({first} + rowNumberInAllBlocks())"


def _identity_values(identity: Identity, offset: str) -> list[str]:
    return [literal(identity.stream), literal(identity.partition), offset]


def insert_settings(insert: Insert, comment: str) -> dict[str, SettingValue]:
    """What is set for an insert of any form."""
    settings = {**INSERT_SETTINGS, **_SELECT_SETTINGS, "log_comment": comment}
    if insert.token:
        settings["insert_deduplication_token"] = insert.token
    else:
        settings.update(_WITHOUT_DEDUPLICATION)
    if insert.max_time_s is not None:
        settings["max_execution_time"] = insert.max_time_s
    return settings


# Every setting that some insert sends; a server may not know the newest.
KNOWN_INSERT_SETTINGS: dict[str, SettingValue] = {
    **INSERT_SETTINGS,
    **_SELECT_SETTINGS,
    **_WITHOUT_DEDUPLICATION,
    **LINE_SETTINGS,
}
