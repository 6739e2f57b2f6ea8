"""The native form of one insert: its statement and its block; pure."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from msgspec import Struct

from shared.clickhouse.contract import ColumnBlock, Identity, Insert
from shared.clickhouse.insert import OFFSET_COLUMN, input_sql, missing_column, values_sql
from shared.clickhouse.nativeblock import FilledColumn, NativeBlock, WireColumn, fill, native_type
from shared.clickhouse.rowfile import offsets_row_binary
from shared.model.types import parse_type

_STREAM, _PARTITION, _OFFSET = (parse_type(name) for name in ("UInt64", "Int32", "Int64"))
_FLAG = parse_type("UInt8")


class NativeInsert(Struct, frozen=True):
    """What is sent."""

    sql: str
    block: NativeBlock


def is_native(insert: Insert) -> bool:
    """Whether an insert can go over the native protocol as columns."""
    return isinstance(insert.block, ColumnBlock) and all(
        native_type(column_type) is not None for _, column_type in insert.columns
    )


def native_insert(insert: Insert, *, casts: bool, deadline_s: int | None = None) -> NativeInsert:
    """The statement and the block of an insert for which ``is_native`` holds.

    Args:
        insert: What goes where.
        casts: Whether the server has to turn the block's types into the table's.
        deadline_s: See ``input_sql``; a statement without a SELECT has no place for it.
    """
    assert isinstance(insert.block, ColumnBlock)
    filled = [
        (name, native, fill(native, values, has_default=name in insert.defaults))
        for (name, text), values in zip(insert.columns, insert.block.columns(), strict=True)
        if (native := native_type(text)) is not None
    ]
    count = insert.block.row_count
    missing = [name for name, _, column in filled if column.missing is not None]
    if not missing and not casts:
        columns = [WireColumn(name, native.type, column.items) for name, native, column in filled]
        columns += _identity_columns(insert.identity, count)
        return NativeInsert(values_sql(insert), NativeBlock(columns, count))
    columns = []
    for position, (name, native, column) in enumerate(filled):
        columns.append(WireColumn(name, native.type, column.items))
        columns += _flags(position, column)
    runs = insert.identity.runs if insert.identity is not None else ()
    if len(runs) > 1:
        columns.append(WireColumn(OFFSET_COLUMN, _OFFSET, offsets_row_binary(runs)))
    sql = input_sql(
        insert, missing, has_offsets=len(runs) > 1, form="Native", deadline_s=deadline_s
    )
    return NativeInsert(sql, NativeBlock(columns, count))


def _flags(position: int, column: FilledColumn) -> Sequence[WireColumn]:
    if column.missing is None:
        return ()
    return (WireColumn(missing_column(position), _FLAG, bytes(column.missing)),)


def _identity_columns(identity: Identity | None, count: int) -> Sequence[WireColumn]:
    if identity is None:
        return ()
    stream, partition, offset = identity.columns
    return (
        WireColumn(stream, _STREAM, struct.pack("<Q", identity.stream) * count),
        WireColumn(partition, _PARTITION, struct.pack("<i", identity.partition) * count),
        WireColumn(offset, _OFFSET, offsets_row_binary(identity.runs)),
    )
