"""What the arguments of a type must be, and how short forms are written out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from shared.model.type_tree import (
    ColumnType,
    Constant,
    EnumMember,
    NamedType,
    TypeArgument,
    TypeSetting,
    TypeSyntaxError,
)

_DECIMAL_DIGITS = {"Decimal32": 9, "Decimal64": 18, "Decimal128": 38, "Decimal256": 76}
_NEVER_NULLABLE = frozenset(
    {"Array", "Map", "Nullable", "LowCardinality", "Nested", "AggregateFunction"}
    | {"SimpleAggregateFunction", "Variant", "Dynamic"}
)
_LOW_CARDINALITY_PREFIXES = ("Int", "UInt", "Float", "String", "FixedString", "Date", "UUID", "IPv")
_MAX_FIXED_STRING_BYTES = 0xFFFFFF
_JSON_SETTINGS = ("max_dynamic_paths", "max_dynamic_types")

_Arguments = tuple[TypeArgument, ...]


def complete(name: str, args: _Arguments, position: int) -> ColumnType:
    """The finished type, short forms written out.

    Args:
        name: A known name in ClickHouse's spelling.
        args: What stands in its brackets, without brackets nothing.
        position: Where the type begins, for the error.

    Raises:
        TypeSyntaxError: The arguments do not fit the type.
    """
    rule = _RULES.get(name)
    if rule is None:
        return ColumnType(name, args)
    try:
        return rule(name, args)
    except _RuleError as error:
        raise TypeSyntaxError(error.message, position, error.hint) from None


class _RuleError(Exception):
    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


def _integers(name: str, args: _Arguments) -> list[int]:
    values = [a.value for a in args if isinstance(a, Constant) and isinstance(a.value, int)]
    if len(values) != len(args):
        raise _RuleError(f"{name} takes whole numbers.")
    return values


def _check_range(what: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise _RuleError(f"{what} is {value}, it must be between {low} and {high}.")


def _fixed_string(name: str, args: _Arguments) -> ColumnType:
    values = _integers(name, args)
    if len(values) != 1:
        raise _RuleError("FixedString needs its length in bytes.", "Write FixedString(16).")
    _check_range("The length of FixedString", values[0], 1, _MAX_FIXED_STRING_BYTES)
    return ColumnType(name, args)


def _date_time(name: str, args: _Arguments) -> ColumnType:
    if len(args) > 1 or not all(_is_text(a) for a in args):
        raise _RuleError("DateTime takes one quoted time zone.", "Write DateTime('UTC').")
    return ColumnType(name, args)


def _sub_second(name: str, args: _Arguments) -> ColumnType:
    zones = args[1:]
    if not args or _is_text(args[0]):
        raise _RuleError(f"{name} needs a precision.", f"Write {name}(3) for milliseconds.")
    _check_range(f"The precision of {name}", _integers(name, args[:1])[0], 0, 9)
    if len(zones) > (name == "DateTime64") or not all(_is_text(a) for a in zones):
        raise _RuleError(f"{name} takes a precision{' and a quoted time zone' * bool(zones)}.")
    return ColumnType(name, args)


def _is_text(arg: TypeArgument) -> bool:
    return isinstance(arg, Constant) and isinstance(arg.value, str)


def _decimal(name: str, args: _Arguments) -> ColumnType:
    values = _integers(name, args)
    if name in _DECIMAL_DIGITS:
        if len(values) != 1:
            raise _RuleError(f"{name} takes its scale.", f"Write {name}(2).")
        values = [_DECIMAL_DIGITS[name], values[0]]
    if len(values) > 2:
        raise _RuleError("Decimal takes precision and scale.", "Write Decimal(18, 4).")
    # Without arguments ClickHouse stores Decimal(10, 0).
    precision, scale = [*values, *[10, 0][len(values) :]]
    _check_range("The precision of Decimal", precision, 1, 76)
    _check_range("The scale of Decimal", scale, 0, precision)
    return ColumnType("Decimal", (Constant(precision), Constant(scale)))


def _check_unique(name: str, values: Sequence[str | int]) -> None:
    repeated = [value for value, count in Counter(values).items() if count > 1]
    if repeated:
        raise _RuleError(f"{name} has {repeated[0]!r} twice.")


def _enum(name: str, args: _Arguments) -> ColumnType:
    members: list[EnumMember] = []
    for arg in args:
        if isinstance(arg, EnumMember):
            members.append(arg)
        elif isinstance(arg, Constant):
            members.append(EnumMember(str(arg.value), members[-1].value + 1 if members else 1))
    if not members:
        raise _RuleError(f"{name} needs its members.", f"Write {name}('a' = 1, 'b' = 2).")
    _check_unique(name, [m.name for m in members])
    _check_unique(name, [m.value for m in members])
    numbers = [m.value for m in members]
    fits_8 = min(numbers) >= -128 and max(numbers) <= 127
    if name == "Enum8" and not fits_8:
        raise _RuleError("A number of Enum8 is outside -128 … 127.", "Use Enum16.")
    if min(numbers) < -32768 or max(numbers) > 32767:
        raise _RuleError("A number of Enum16 is outside -32768 … 32767.")
    stored = ("Enum8" if fits_8 else "Enum16") if name == "Enum" else name
    members.sort(key=lambda member: member.value)
    return ColumnType(stored, tuple(members))


def _types(args: _Arguments) -> list[ColumnType]:
    return [a for a in args if isinstance(a, ColumnType)]


def _array(name: str, args: _Arguments) -> ColumnType:
    if len(_types(args)) != 1 or len(args) != 1:
        raise _RuleError(f"{name} takes one type.", f"Write {name}(String).")
    return ColumnType(name, args)


def _nullable(name: str, args: _Arguments) -> ColumnType:
    built = _array(name, args)
    inner = built.types[0].name
    if inner in _NEVER_NULLABLE:
        hint = None
        if inner == "LowCardinality":
            hint = "Write LowCardinality(Nullable(…))."
        raise _RuleError(f"{inner} cannot be inside Nullable.", hint)
    return built


def _low_cardinality(name: str, args: _Arguments) -> ColumnType:
    built = _array(name, args)
    inner = built.types[0]
    value = inner.types[0] if inner.name == "Nullable" else inner
    if not value.name.startswith(_LOW_CARDINALITY_PREFIXES) or value.name == "DateTime64":
        raise _RuleError(f"{value.name} cannot be inside LowCardinality.")
    return built


def _map(name: str, args: _Arguments) -> ColumnType:
    if len(_types(args)) != 2 or len(args) != 2:
        raise _RuleError("Map takes a key type and a value type.", "Write Map(String, UInt64).")
    key = args[0]
    if isinstance(key, ColumnType) and (key.is_nullable or key.name in ("Map", "JSON", "Dynamic")):
        raise _RuleError(f"{key} cannot be the key of a Map.")
    return ColumnType(name, args)


def _tuple(name: str, args: _Arguments) -> ColumnType:
    names = [a.name for a in args if isinstance(a, NamedType)]
    if names and len(names) != len(args):
        raise _RuleError(f"Either all elements of {name} have names or none.")
    if len(set(names)) < len(names):
        raise _RuleError(f"{name} has two elements of the same name.")
    if name == "Nested" and not names:
        raise _RuleError("Nested needs named columns.", "Write Nested(a String, b UInt8).")
    return ColumnType(name, args)


def _variant(name: str, args: _Arguments) -> ColumnType:
    types = _types(args)
    if not types:
        raise _RuleError("Variant needs its types.", "Write Variant(String, UInt64).")
    if any(t.is_nullable for t in types):
        raise _RuleError("Variant takes no Nullable types: NULL is always a value of it.")
    # ClickHouse sorts the types of a Variant and stores each once.
    return ColumnType(name, tuple(sorted(set(types), key=str)))


def _settings(name: str, args: _Arguments) -> ColumnType:
    allowed = _JSON_SETTINGS if name == "JSON" else ("max_types",)
    for arg in args:
        if isinstance(arg, TypeSetting) and arg.name not in allowed:
            raise _RuleError(
                f"{name} has no setting '{arg.name}'.", f"Known: {', '.join(allowed)}."
            )
    return ColumnType(name, args)


def _aggregate(name: str, args: _Arguments) -> ColumnType:
    if not args:
        raise _RuleError(f"{name} needs a function and types.", f"Write {name}(sum, UInt64).")
    if name == "SimpleAggregateFunction" and len(_types(args)) != 1:
        raise _RuleError(
            "SimpleAggregateFunction takes a function and one type.",
            "Write SimpleAggregateFunction(sum, UInt64).",
        )
    return ColumnType(name, args)


_RULES: dict[str, Callable[[str, _Arguments], ColumnType]] = {
    "FixedString": _fixed_string,
    "DateTime": _date_time,
    "DateTime64": _sub_second,
    "Time64": _sub_second,
    "Decimal": _decimal,
    **dict.fromkeys(_DECIMAL_DIGITS, _decimal),
    **dict.fromkeys(("Enum", "Enum8", "Enum16"), _enum),
    "Array": _array,
    "Nullable": _nullable,
    "LowCardinality": _low_cardinality,
    "Map": _map,
    "Tuple": _tuple,
    "Nested": _tuple,
    "Variant": _variant,
    "JSON": _settings,
    "Dynamic": _settings,
    "AggregateFunction": _aggregate,
    "SimpleAggregateFunction": _aggregate,
}
