"""Values as JSON has them to values as the native protocol writes them; pure.

Everything becomes a number or text: dates count days, times ticks, decimals their last digit, enums
their number. What a column of numbers costs to write is then one ``struct.pack``.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, tzinfo
from functools import lru_cache
from typing import Any
from zoneinfo import ZoneInfo

from shared.model.types import ColumnType

Convert = Callable[[Sequence[Any]], list[Any]]

_EPOCH_ORDINAL = date(1970, 1, 1).toordinal()
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# Real batches repeat their minutes and days; what a flood of others leaves behind is dropped.
_REMEMBERED = 200_000
_MAP_KEYS = ("String", "FixedString", "Date", "Date32", "UUID", "Enum8", "Enum16", "IPv4", "IPv6")


def converter(column_type: ColumnType) -> Convert | None:
    """What makes wire values of a type without NULLs; None where they are the same.

    Raises:
        KeyError: The type has no native form here.
    """
    name = column_type.name
    if name in ("LowCardinality", "SimpleAggregateFunction"):
        return converter(column_type.types[0])
    if name in _UNCHANGED:
        return None
    return _BUILDERS[name](column_type)


def _nullable(column_type: ColumnType) -> Convert | None:
    convert = converter(column_type.types[0])
    if convert is None:
        return None

    def nullable(values: Sequence[Any]) -> list[Any]:
        if None not in values:
            return convert(values)
        filled = iter(convert([v for v in values if v is not None]))
        return [None if v is None else next(filled) for v in values]

    return nullable


def _array(column_type: ColumnType) -> Convert | None:
    convert = converter(column_type.types[0])
    if convert is None:
        return None

    def array(values: Sequence[Any]) -> list[Any]:
        flat = iter(convert([item for value in values for item in value]))
        return [[next(flat) for _ in value] for value in values]

    return array


def _map(column_type: ColumnType) -> Convert | None:
    key_type, value_type = column_type.types
    convert_value = converter(value_type)
    key = key_type.unwrapped.name
    if "Int" in key:
        convert_key: Convert | None = _integers
    elif key in _MAP_KEYS:
        convert_key = converter(key_type)
    else:
        raise KeyError(key)
    if convert_key is None and convert_value is None:
        return None

    def mapping(values: Sequence[Any]) -> list[Any]:
        keys: Sequence[Any] = [k for value in values for k in value]
        items: Sequence[Any] = [v for value in values for v in value.values()]
        pairs = zip(
            convert_key(keys) if convert_key else keys,
            convert_value(items) if convert_value else items,
            strict=True,
        )
        return [dict(next(pairs) for _ in value) for value in values]

    return mapping


def _integers(values: Sequence[Any]) -> list[Any]:
    return list(map(int, values))


def _decimal(column_type: ColumnType) -> Convert:
    scale = int(column_type.constants[1])

    def one(value: Any) -> int:
        whole, _, fraction = str(value).partition(".")
        return int(whole + fraction.ljust(scale, "0"))

    return lambda values: list(map(one, values))


def _uuid(_: ColumnType) -> Convert:
    return lambda values: [int(value.replace("-", ""), 16) for value in values]


def _enum(column_type: ColumnType) -> Convert:
    number = column_type.members.__getitem__
    return lambda values: list(map(number, values))


def _ipv4(_: ColumnType) -> Convert:
    def one(value: str) -> int:
        return int.from_bytes(socket.inet_pton(socket.AF_INET, value), "big")

    return lambda values: list(map(one, values))


def _ipv6(_: ColumnType) -> Convert:
    return lambda values: [socket.inet_pton(socket.AF_INET6, value) for value in values]


def _day(_: ColumnType) -> Convert:
    days = _Days()
    return lambda values: list(map(days.__getitem__, values))


def _moment(column_type: ColumnType) -> Convert:
    constants = column_type.constants
    precision = next((c for c in constants if isinstance(c, int)), 0)
    zone = next((c for c in constants if isinstance(c, str)), "UTC")
    # Without fractions an hour has few distinct ends. Where clocks are turned it may be in one.
    split = 13 if column_type.name == "DateTime" and zone == "UTC" else 16
    behind = split + 1
    starts, ends = _clocks(zone, precision)

    def one(value: Any) -> int:
        if isinstance(value, int):
            return int(value * 10**precision)
        if value[4:5] == "-":
            return starts[value[:split]] + ends[value[behind:]]
        whole, _, fraction = value.partition(".")
        return int(whole + fraction[:precision].ljust(precision, "0"))

    def moments(values: Sequence[Any]) -> list[Any]:
        try:
            return [starts[text[:split]] + ends[text[behind:]] for text in values]
        except (TypeError, ValueError):
            # Numbers, or numbers as text.
            return [one(value) for value in values]

    return moments


@lru_cache(maxsize=64)
def _clocks(zone: str, precision: int) -> tuple[_Starts, _Ends]:
    return _Starts(UTC if zone == "UTC" else ZoneInfo(zone), precision), _Ends(precision)


class _Bounded(dict[str, int]):
    def keep(self, text: str, value: int) -> int:
        if len(self) >= _REMEMBERED:
            self.clear()
        self[text] = value
        return value


class _Days(_Bounded):
    """``2025-01-31`` to days since 1970."""

    def __missing__(self, text: str) -> int:
        return self.keep(text, date.fromisoformat(text[:10]).toordinal() - _EPOCH_ORDINAL)


class _Starts(_Bounded):
    """``2025-01-31 23:59``, or an hour, or a day, to ticks since 1970."""

    def __init__(self, zone: tzinfo, precision: int) -> None:
        super().__init__()
        self._zone = zone
        self._per_second = 10**precision

    def __missing__(self, text: str) -> int:
        if text[4:5] != "-":
            raise ValueError(text)
        moment = datetime.fromisoformat(text).replace(tzinfo=self._zone)
        if moment.astimezone(UTC).astimezone(self._zone).replace(fold=0) != moment:
            # The clock skipped this minute: ClickHouse counts it back from the hour after.
            moment = moment.replace(fold=1)
        since = moment.astimezone(UTC) - _EPOCH
        return self.keep(text, (since.days * 86_400 + since.seconds) * self._per_second)


class _Ends(_Bounded):
    """``59.123`` or ``59:59`` to ticks; digits beyond the precision are cut."""

    def __init__(self, precision: int) -> None:
        super().__init__()
        self._precision = precision

    def __missing__(self, text: str) -> int:
        whole, _, fraction = text.partition(".")
        digits = fraction[: self._precision].ljust(self._precision, "0")
        minutes, _, seconds = whole.rpartition(":")
        ticks = int((seconds or "0") + digits)
        return self.keep(text, ticks + int(minutes or "0") * 60 * 10**self._precision)


_UNCHANGED = frozenset(
    [f"{u}Int{bits}" for u in ("", "U") for bits in (8, 16, 32, 64, 128, 256)]
    + ["Float32", "Float64", "Bool", "String", "FixedString"]
)
_BUILDERS: dict[str, Callable[[ColumnType], Convert | None]] = {
    "Nullable": _nullable,
    "Array": _array,
    "Map": _map,
    "Decimal": _decimal,
    "UUID": _uuid,
    "Enum8": _enum,
    "Enum16": _enum,
    "IPv4": _ipv4,
    "IPv6": _ipv6,
    "Date": _day,
    "Date32": _day,
    "DateTime": _moment,
    "DateTime64": _moment,
}
