"""The values of the template language, and the texts they are read from; pure.

A value is a plain Python value. Where plain Python cannot say which ClickHouse type it is bound
as, a subclass does: ``Int32`` is an ``int``, so conditions and arithmetic need no unwrapping, and
its result is a plain ``int`` again, bound as Int64.

Dates and times are bound as **String** in ClickHouse's own spelling. Measured on engine 26.9 over
46 expressions with three values each (comparison with String, Date, Date32, DateTime, DateTime64
and Nullable columns, BETWEEN, IN, tuples, casts, ``toStartOfDay``, ``+ INTERVAL``, ``dateDiff``,
sub-selects): a ``{p:String}`` parameter gave the answer or the error of a quoted literal every
time, ``{p:DateTime}`` and its sisters did not in 55 of 138 (LowCardinality, Enum and UUID columns,
``parseDateTimeBestEffort``, fractions). The same holds for lists: ``Array(String)`` beside IN.
``Array(p, 'Float32')`` is bound as Array(Float64), because a list literal of fractions is one and
``2.1`` as Float32 is not equal to a Float64 ``2.1``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import date, datetime, timedelta
from math import isinf

from msgspec import Struct

MAX_DIGITS = 80
"""Digits of an integer that is still read; the widest type has 78."""


class BadValueError(ValueError):
    """The value is not one of the type; the type says what it expects."""


class Secret(str):
    """Text from the secret store; never shown in an error."""

    __slots__ = ()


class Pattern(str):
    """Text that keeps its ``%`` as a wildcard beside LIKE."""

    __slots__ = ()


class Float32(float):
    """A number bound as Float32."""

    __slots__ = ()


class SqlArray(list[object]):
    """A list whose item type is known even when it is empty."""

    __slots__ = ("item_type",)

    def __init__(self, items: Sequence[object], item_type: str) -> None:
        super().__init__(items)
        self.item_type = item_type


class Identifier(str):
    """A checked name, already in backticks: text by nature."""

    __slots__ = ()


class Fragment(Struct, frozen=True):
    """A piece of SQL: ``Identifier`` parts are text, every other part becomes a binding."""

    parts: tuple[object, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.parts)


NOTHING = Fragment()
"""What a function returns that only has an effect."""


class ScalarType(Struct, frozen=True, kw_only=True):
    """One type a parameter can be declared with.

    ``read`` turns a given value into a value of the type or raises ``BadValueError``;
    ``stand_in`` is used where a project is validated without values. ``item_type`` is the
    ClickHouse type of the items of ``Array(p, '<name>')``.
    """

    name: str
    read: Callable[[object], object]
    expected: str
    example: str
    stand_in: object
    item_type: str


def _integer_class(name: str) -> type[int]:
    return type(name, (int,), {"__slots__": (), "__doc__": f"A number bound as {name}."})


_BITS = (8, 16, 32, 64, 128, 256)
INTEGER_RANGES: dict[str, tuple[int, int]] = {
    **{f"Int{n}": (-(2 ** (n - 1)), 2 ** (n - 1) - 1) for n in _BITS},
    **{f"UInt{n}": (0, 2**n - 1) for n in _BITS},
}
# Plain int stands for Int64, the type that arithmetic yields as well.
INTEGER_CLASSES: dict[str, type[int]] = {
    name: int if name == "Int64" else _integer_class(name) for name in INTEGER_RANGES
}
UInt8 = INTEGER_CLASSES["UInt8"]

BINDING_TYPES: dict[type, str] = {
    str: "String",
    Secret: "String",
    Pattern: "String",
    bool: "Bool",
    float: "Float64",
    Float32: "Float32",
    **{class_: name for name, class_ in INTEGER_CLASSES.items()},
}
"""The ClickHouse type of every scalar; exact classes, closed on purpose."""

_INTEGER = re.compile(r"[+-]?[0-9]+")
_FLOAT = re.compile(
    r"[+-]?(?:(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:e[+-]?[0-9]+)?|nan|inf|infinity)", re.IGNORECASE
)
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_DATETIME = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})[ T]([0-9]{2}:[0-9]{2}:[0-9]{2})(\.[0-9]{1,9})?"
    r"(?:(Z)|([+-])([0-9]{2}):?([0-9]{2}))?",
    re.IGNORECASE,
)
_FLOAT32_MAX = 3.4028235677973366e38
_YEARS = range(1900, 2300)


def text_of(value: object) -> str:
    """A given value as text; secrets stay secrets."""
    return value if isinstance(value, str) else str(value)


def _scalar_text(value: object) -> str:
    """As ``text_of``, for what is no list or object."""
    if isinstance(value, str | int | float):
        return text_of(value)
    raise BadValueError


def read_integer(value: object) -> int:
    """An integer without bounds, from an int or from digits with an optional sign.

    Raises:
        BadValueError: It is anything else, a bool included.
    """
    if isinstance(value, str):
        if len(value) > MAX_DIGITS or _INTEGER.fullmatch(value) is None:
            raise BadValueError
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return int(value)
    raise BadValueError


def read_float(value: object) -> float:
    """A Float64; infinite only where the text says so.

    Raises:
        BadValueError: It is no number, or one that does not fit.
    """
    if isinstance(value, str):
        if len(value) > 400 or _FLOAT.fullmatch(value) is None:
            raise BadValueError
        number = float(value)
        if isinf(number) and "n" not in value.lower():
            raise BadValueError
        return number
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            raise BadValueError from None
    raise BadValueError


def read_float32(value: object) -> Float32:
    """A Float32; as ``read_float``, with the smaller range."""
    number = read_float(value)
    if abs(number) >= _FLOAT32_MAX and not isinf(number):
        raise BadValueError
    return Float32(number)


def read_boolean(value: object) -> int:
    """1 or 0; every value but '', '0' and 'false' is 1."""
    is_short = isinstance(value, str | int | float) and len(text := text_of(value)) <= 5
    return UInt8(not is_short or text.lower() not in ("", "0", "false"))


def read_date(value: object) -> str:
    """A day as ``YYYY-MM-DD``, 1900 to 2299.

    Raises:
        BadValueError: It has another shape, or there is no such day.
    """
    text = _scalar_text(value)
    if (len(text) != 10 or text[4:8:3] != "--") and _DATE.fullmatch(text) is None:
        raise BadValueError
    return _checked_day(text)


def _checked_day(text: str) -> str:
    try:
        day = date.fromisoformat(text)
    except ValueError:
        raise BadValueError from None
    if day.year not in _YEARS:
        raise BadValueError
    return text


def read_datetime(value: object) -> str:
    """A time as ``YYYY-MM-DD HH:MM:SS[.fraction]`` in UTC; ISO ``T``, ``Z`` and offsets are read.

    A fraction of nothing but zeros, as programs write it that know milliseconds only, is left out:
    beside a DateTime ClickHouse takes none.

    Raises:
        BadValueError: It has another shape, or there is no such time.
    """
    return _normalised_time(value, fraction_needed=False)


def read_datetime64(value: object) -> str:
    """As ``read_datetime``, with a fraction of 1 to 9 digits that must be there."""
    return _normalised_time(value, fraction_needed=True)


def _normalised_time(value: object, *, fraction_needed: bool) -> str:
    if type(value) is str and not fraction_needed and _is_plain_time(value):
        return value
    found = _DATETIME.fullmatch(_scalar_text(value))
    if found is None:
        raise BadValueError
    day, clock, fraction, _, sign, hours, minutes = found.groups()
    if fraction is None and fraction_needed:
        raise BadValueError
    try:
        moment = datetime.fromisoformat(f"{day} {clock}")
        if sign is not None:
            if int(hours) > 14 or int(minutes) > 59:
                raise BadValueError
            offset = timedelta(hours=int(hours), minutes=int(minutes))
            moment = moment - offset if sign == "+" else moment + offset
    except (ValueError, OverflowError):
        raise BadValueError from None
    if moment.year not in _YEARS:
        raise BadValueError
    if fraction is not None and not fraction_needed and not fraction.strip(".0"):
        fraction = None
    if sign is not None:
        return moment.isoformat(sep=" ") + (fraction or "")
    return f"{day} {clock}{fraction or ''}"


def _is_plain_time(text: str) -> bool:
    """Whether it is a time in the very form that is returned: the common case, decided quickly."""
    # Every third character from the fifth on separates.
    if len(text) != 19 or text[4:17:3] != "-- ::":
        return False
    try:
        return datetime.fromisoformat(text).year in _YEARS
    except ValueError:
        return False


def _integer_type(name: str, range_name: str) -> ScalarType:
    low, high = INTEGER_RANGES[range_name]
    class_ = INTEGER_CLASSES[range_name]

    def read(value: object) -> int:
        # Digits alone are the common case.
        is_plain = type(value) is str and value.isdecimal() and value.isascii()
        number = int(value) if is_plain and len(value) <= 20 else read_integer(value)  # type: ignore[call-overload, arg-type]
        if not low <= number <= high:
            raise BadValueError
        return number if class_ is int else class_(number)

    return ScalarType(
        name=name,
        read=read,
        expected=f"a whole number from {low} to {high}",
        example="10",
        stand_in=class_(0),
        item_type=range_name,
    )


def _of(
    name: str,
    read: Callable[[object], object],
    expected: str,
    example: str,
    stand_in: object,
    item_type: str = "String",
) -> ScalarType:
    return ScalarType(
        name=name,
        read=read,
        expected=expected,
        example=example,
        stand_in=stand_in,
        item_type=item_type,
    )


_DATETIME_EXAMPLE = "2024-01-31 10:00:00"
SCALARS: dict[str, ScalarType] = {
    scalar.name: scalar
    for scalar in (
        _of("String", text_of, "text", "abc", "__no_value__"),
        *(_integer_type(name, name) for name in INTEGER_RANGES),
        _integer_type("Int", "Int64"),
        _integer_type("Integer", "Int64"),
        _of("Float32", read_float32, "a number", "1.5", Float32(0), "Float64"),
        _of("Float64", read_float, "a number", "1.5", 0.0, "Float64"),
        _of("Boolean", read_boolean, "1, 0, true or false", "1", UInt8(0), "UInt8"),
        _of("Date", read_date, "a day as YYYY-MM-DD", "2024-01-31", "2019-01-01"),
        _of(
            "DateTime",
            read_datetime,
            "a time as YYYY-MM-DD HH:MM:SS",
            _DATETIME_EXAMPLE,
            "2019-01-01 00:00:00",
        ),
        _of(
            "DateTime64",
            read_datetime64,
            "a time as YYYY-MM-DD HH:MM:SS.sss",
            f"{_DATETIME_EXAMPLE}.000",
            "2019-01-01 00:00:00.000",
        ),
    )
}
"""Every type of ``T(p)`` and of ``Array(p, 'T')``, by name."""
