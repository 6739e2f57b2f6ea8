"""The INSERT of one block as SQL text; pure.

The block is one part for every ClickHouse partition, in the table and in every view: the engine is
told never to close a block before its end, and reads with one thread so that rows keep their order.
"""

from __future__ import annotations

from shared.clickhouse.contract import Identity, Insert, SettingValue
from shared.clickhouse.profile import INSERT_SETTINGS
from shared.clickhouse.session import settings_clause
from shared.clickhouse.sql import literal, quote_identifier, quote_table

_OFFSET_ALIAS = "__offset_of_row"

_FILE_SETTINGS: dict[str, SettingValue] = {
    "insert_select_deduplicate": 1,
    "deduplicate_insert_select": "force_enable",
    # Rows are squashed into the one block afterwards: reading in small blocks costs nothing.
    "max_block_size": 65_409,
    "input_format_parallel_parsing": 0,
    "input_format_skip_unknown_fields": 1,
    "input_format_null_as_default": 1,
    "input_format_defaults_for_omitted_fields": 1,
    "date_time_input_format": "best_effort",
    "log_queries": 0,
}

_WITHOUT_DEDUPLICATION: dict[str, SettingValue] = {
    "insert_deduplicate": 0,
    "deduplicate_insert": "disable",
    "insert_select_deduplicate": 0,
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
    names = [quote_identifier(name) for name, _ in insert.columns]
    targets, values = list(names), [f"r.{name}" for name in names]
    if insert.identity is not None:
        targets += [quote_identifier(name) for name in insert.identity.columns]
        values += _identity_values(insert.identity, pasted=offsets_path is not None)
    source = f"file({literal(rows_path)}, 'JSONEachRow', {literal(_structure(insert))}) AS r"
    if offsets_path is not None:
        structure = literal(f"{_OFFSET_ALIAS} Int64")
        source += f" PASTE JOIN file({literal(offsets_path)}, 'RowBinary', {structure}) AS o"
    return (
        f"INSERT INTO {quote_table(insert.database, insert.table)} ({', '.join(targets)})"
        f" SELECT {', '.join(values)} FROM {source}"
        f" SETTINGS {settings_clause(_settings(insert, comment))}"
    )


def _structure(insert: Insert) -> str:
    defaults = insert.defaults
    return ", ".join(
        f"{quote_identifier(name)} {column_type}"
        + (f" DEFAULT {defaults[name]}" if name in defaults else "")
        for name, column_type in insert.columns
    )


def _identity_values(identity: Identity, *, pasted: bool) -> list[str]:
    if pasted:
        offset = f"o.{_OFFSET_ALIAS}"
    else:
        first = identity.runs[0].first if identity.runs else 0
        offset = f"toInt64({first} + rowNumberInAllBlocks())"
    return [literal(identity.stream), literal(identity.partition), offset]


def _settings(insert: Insert, comment: str) -> dict[str, SettingValue]:
    settings = {**INSERT_SETTINGS, **_FILE_SETTINGS, "log_comment": comment}
    if insert.token:
        settings["insert_deduplication_token"] = insert.token
    else:
        settings.update(_WITHOUT_DEDUPLICATION)
    if insert.max_time_s is not None:
        settings["max_execution_time"] = insert.max_time_s
    return settings
