"""One block of a native INSERT: which types it can hold, and how its columns are written.

The driver's column classes do the writing. They are put together here from our own type tree, and
without the driver's conversions of Python values, which ``wireforms.py`` has made unnecessary.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import log2
from typing import Any

from clickhouse_driver.block import BlockInfo
from clickhouse_driver.columns.arraycolumn import ArrayColumn
from clickhouse_driver.columns.base import Column, FormatColumn
from clickhouse_driver.columns.intcolumn import (
    Int128Column,
    Int256Column,
    UInt128Column,
    UInt256Column,
)
from clickhouse_driver.columns.lowcardinalitycolumn import LowCardinalityColumn
from clickhouse_driver.columns.mapcolumn import MapColumn
from clickhouse_driver.columns.stringcolumn import ByteFixedString, FixedString, String
from clickhouse_driver.columns.uuidcolumn import UUIDColumn
from clickhouse_driver.streams.compressed import CompressedBlockOutputStream
from clickhouse_driver.streams.native import BlockOutputStream
from clickhouse_driver.varint import write_varint
from clickhouse_driver.writer import write_binary_int64, write_binary_str
from msgspec import UNSET, Struct

from shared.clickhouse.wireforms import Convert, converter
from shared.errors import DatafileError
from shared.model.types import ColumnType, parse_type

_FORMATS = {
    "Int8": "b",
    "Int16": "h",
    "Int32": "i",
    "Int64": "q",
    "UInt8": "B",
    "UInt16": "H",
    "UInt32": "I",
    "UInt64": "Q",
    "Float32": "f",
    "Float64": "d",
    "Bool": "?",
    "Date": "H",
    "Date32": "i",
    "DateTime": "I",
    "DateTime64": "q",
    "Enum8": "b",
    "Enum16": "h",
    "IPv4": "I",
}
_LARGE = {
    "Int128": Int128Column,
    "Int256": Int256Column,
    "UInt128": UInt128Column,
    "UInt256": UInt256Column,
}
# Equal keys of a dictionary have to be equal bytes: not so for floats.
_LOW_CARDINALITY = frozenset(
    ["String", "FixedString", "Date", "DateTime", "UUID", "IPv4", "IPv6"]
    + [f"{u}Int{bits}" for u in ("", "U") for bits in (8, 16, 32, 64)]
)
_IPV6_BYTES = 16


class NativeType(Struct, frozen=True):
    """A column type that the native route can write."""

    type: ColumnType
    convert: Convert | None

    @property
    def blank(self) -> Any:
        """What stands where the default is taken."""
        if self.type.is_nullable:
            return None
        return _BLANKS.get(self.type.unwrapped.name, 0)


_BLANKS: dict[str, Any] = {
    "String": "",
    "FixedString": "",
    "Array": (),
    "Map": {},
    "IPv6": bytes(_IPV6_BYTES),
}


@lru_cache(maxsize=4096)
def native_type(type_text: str) -> NativeType | None:
    """How a type is written; None where only lines can bring its values to a server."""
    try:
        column_type = parse_type(type_text)
        _require_native(column_type)
        return NativeType(column_type, converter(column_type))
    except (KeyError, DatafileError):
        return None


def _require_native(column_type: ColumnType) -> None:
    """Raise KeyError for what the columns below cannot write."""
    name = column_type.name
    inner = column_type.types
    if name == "LowCardinality":
        if inner[0].unwrapped.name not in _LOW_CARDINALITY:
            raise KeyError(name)
    elif name == "Nullable":
        if inner[0].name in ("Array", "Map", "LowCardinality"):
            raise KeyError(name)
    elif name in _CONTAINERS or name in _FORMATS or name in _LARGE or name in _TEXTS:
        pass
    else:
        raise KeyError(name)
    for part in inner:
        _require_native(part)


_CONTAINERS = ("Array", "Map", "SimpleAggregateFunction")
_TEXTS = ("String", "FixedString", "UUID", "IPv6", "Decimal")


class WireColumn(Struct, frozen=True):
    """A column ready to be written: ``items`` are wire values, or all of them as bytes."""

    name: str
    type: ColumnType
    items: Sequence[Any] | bytes


class FilledColumn(Struct, frozen=True):
    """Wire values, and for each row whether the default is to be taken instead."""

    items: Sequence[Any]
    missing: Sequence[bool] | None


def fill(native: NativeType, values: Sequence[Any], *, has_default: bool) -> FilledColumn:
    """Values as JSON has them, as they are written."""
    convert = native.convert
    if not has_default:
        return FilledColumn(values if convert is None else convert(values), None)
    if native.type.is_nullable:
        missing = [value is UNSET for value in values]
    else:
        missing = [value is UNSET or value is None for value in values]
    if True not in missing:
        return FilledColumn(values if convert is None else convert(values), None)
    given = [value for value, is_missing in zip(values, missing, strict=True) if not is_missing]
    forms = iter(given if convert is None else convert(given))
    blank = native.blank
    return FilledColumn([blank if m else next(forms) for m in missing], missing)


class NativeBlock:
    """A block for ``Connection.send_data``."""

    def __init__(self, columns: Sequence[WireColumn], row_count: int) -> None:
        self.columns = columns
        self.num_columns = len(columns)
        self.num_rows = row_count
        self.info = BlockInfo()

    def write(self, buffer: Any, context: Any) -> None:
        """Write it in the Native format, as revisions up to 54453 have it."""
        self.info.write(buffer)
        write_varint(self.num_columns, buffer)
        write_varint(self.num_rows, buffer)
        for column in self.columns:
            write_binary_str(column.name, buffer)
            write_binary_str(str(column.type), buffer)
            _write(column, buffer, context)


class PlainStream(BlockOutputStream):  # type: ignore[misc]  # the driver has no types
    """The driver's stream of blocks, which takes ours too."""

    def write(self, block: Any) -> None:
        """Write one block."""
        if isinstance(block, NativeBlock):
            block.write(self.fout, self.context)
            self.finalize()
        else:
            super().write(block)


class CompressedStream(CompressedBlockOutputStream):  # type: ignore[misc]  # as above
    """The same, compressed."""

    def write(self, block: Any) -> None:
        """Write one block."""
        if isinstance(block, NativeBlock):
            block.write(self.fout, self.context)
            self.finalize()
        else:
            super().write(block)


def _write(column: WireColumn, buffer: Any, context: Any) -> None:
    items, column_type = column.items, column.type
    if isinstance(items, bytes):
        buffer.write(items)
        return
    if column_type.name == "Nullable":
        # The driver would look at every value twice, in Python.
        nulls = bytes([item is None for item in items])
        buffer.write(nulls)
        column_type = column_type.types[0]
        if 1 in nulls:
            blank = _BLANKS.get(column_type.unwrapped.name, 0)
            items = [blank if item is None else item for item in items]
    writer = _column(column_type, {"context": context})
    writer.write_state_prefix(buffer)
    if items:
        writer.write_data(items, buffer)


class _Packed(FormatColumn):  # type: ignore[misc]  # the driver has no types
    """Numbers of one width."""

    def __init__(self, code: str, **options: Any) -> None:
        self.format = code
        super().__init__(**options)


class _Uuid(UUIDColumn):  # type: ignore[misc]  # as above
    """UUIDs as numbers."""

    before_write_items = None


class _Dictionary(LowCardinalityColumn):  # type: ignore[misc]  # as above
    """LowCardinality without a Python loop over the rows."""

    def _write_data(self, items: Sequence[Any], buffer: Any) -> None:
        nested = self.nested_column
        index = dict.fromkeys(items)
        positions: dict[Any, int] = {}
        if nested.nullable:
            index.pop(None, None)
            positions[None] = 0
        first = len(positions)
        positions.update(zip(index, range(first, first + len(index)), strict=True))
        if not positions:
            return
        nested.nullable = False
        keys = [nested.null_value] * first + list(index)
        width = int(log2(len(keys)) / 8)
        write_binary_int64(self.serialization_type | width, buffer)
        write_binary_int64(len(keys), buffer)
        nested.write_data(keys, buffer)
        write_binary_int64(len(items), buffer)
        self.int_types[width](**self.init_kwargs).write_items(
            list(map(positions.__getitem__, items)), buffer
        )


def _column(column_type: ColumnType, options: dict[str, Any]) -> Column:
    """The driver's column for a type; one is used once."""
    name, inner = column_type.name, column_type.types
    if name == "Nullable":
        nested = _column(inner[0], options)
        nested.nullable = True
        return nested
    if name == "SimpleAggregateFunction":
        return _column(inner[0], options)
    if name == "LowCardinality":
        return _Dictionary(_column(inner[0], options), **options)
    if name == "Array":
        return ArrayColumn(_column(inner[0], options), **options)
    if name == "Map":
        return MapColumn(_column(inner[0], options), _column(inner[1], options), **options)
    if name in _FORMATS:
        return _Packed(_FORMATS[name], **options)
    return _scalar(column_type, options)


def _scalar(column_type: ColumnType, options: dict[str, Any]) -> Column:
    match column_type.name:
        case "String":
            return String(**options)
        case "FixedString":
            return FixedString(int(column_type.constants[0]), **options)
        case "UUID":
            return _Uuid(**options)
        case "IPv6":
            return ByteFixedString(_IPV6_BYTES, **options)
        case "Decimal":
            return _decimal(int(column_type.constants[0]), options)
        case name:
            return _LARGE[name](**options)


def _decimal(precision: int, options: dict[str, Any]) -> Column:
    if precision <= 9:
        return _Packed("i", **options)
    if precision <= 18:
        return _Packed("q", **options)
    return (Int128Column if precision <= 38 else Int256Column)(**options)
