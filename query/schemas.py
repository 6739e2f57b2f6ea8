"""JSON Schemas of what goes in and what comes out: declared parameters, ClickHouse's types; pure.

What comes out is what the engine writes in its JSON formats under our profile: 64-bit integers
unquoted, a number that is not finite as null, named tuples as objects.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from query.template.describe import Parameter
from query.template.values import INTEGER_RANGES, SCALARS, BadValueError
from shared.model.types import ColumnType, TypeSyntaxError, parse_type

Schema = dict[str, object]

# The widest numbers that JSON readers agree on; bounds beyond them would be rounded.
_MAX_EXACT = 2**53
_DAY = r"(19|2[0-2])[0-9]{2}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])"
_CLOCK = r"([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]"
_ZONE = r"(Z|[+-](0[0-9]|1[0-4]):?[0-5][0-9])?"


# Parameters ---------------------------------------------------------------------------------------


def parameter_schema(parameter: Parameter) -> Schema:
    """The schema of a parameter's value, with default, enum and examples where they fit its type.

    A default that is not among the listed values is listed too: a request without the parameter
    shows that it is accepted.
    """
    item = _item_type(parameter.type)
    schema = _scalar_schema(item or parameter.type)
    members = [v for v in (_value(item or parameter.type, e) for e in parameter.enum) if v != ""]
    default = parameter_value(parameter, parameter.default)
    if members:
        known = default if isinstance(default, list) else [default]
        schema["enum"] = _distinct([*members, *(v for v in known if v is not None and v != "")])
    if item is not None:
        schema = {"type": "array", "items": schema}
    # A text with nothing in it stands for "not given" in published templates.
    if default is not None and (default != "" or not members):
        schema["default"] = default
    example = parameter_value(parameter, parameter.example)
    if example is not None:
        schema["examples"] = [example]
    if parameter.format and "format" not in schema:
        schema["format"] = parameter.format
    return schema


def parameter_value(parameter: Parameter, given: object) -> object:
    """A default or example as JSON, None where there is none or it is not of the type."""
    if given is None:
        return None
    item = _item_type(parameter.type)
    if item is None:
        return _value(parameter.type, given)
    parts = given.split(",") if isinstance(given, str) and given else given or []
    if not isinstance(parts, list | tuple):
        parts = [parts]
    values = [_value(item, part) for part in parts]
    return None if None in values else values


def _item_type(type_: str) -> str | None:
    return type_[len("Array(") : -1] if type_.startswith("Array(") else None


def _value(type_: str, given: object) -> object:
    """One value as JSON, None where it is not of the type."""
    scalar = SCALARS.get(type_)
    if scalar is None:
        return given if isinstance(given, str) else None
    try:
        value = scalar.read(given)
    except BadValueError:
        return None
    if type_ == "Boolean":
        return bool(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        # Not finite: JSON has no such number.
        return float(value) if abs(value) < float("inf") else None
    return value


def _distinct(values: list[object]) -> list[object]:
    # Compared as text, because 1 and True are equal.
    return list({repr(value): value for value in values if value is not None}.values())


def _scalar_schema(type_: str) -> Schema:
    integer = {"Int": "Int64", "Integer": "Int64"}.get(type_, type_)
    if integer in INTEGER_RANGES:
        return _integer_schema(integer)
    match type_:
        case "Float32" | "Float64":
            return {"type": "number", "format": "float" if type_ == "Float32" else "double"}
        case "Boolean":
            return {"type": "boolean"}
        case "Date":
            return {"type": "string", "format": "date", "pattern": f"^{_DAY}$"}
        case "DateTime":
            return {"type": "string", "pattern": rf"^{_DAY}[ T]{_CLOCK}(\.[0-9]{{1,9}})?{_ZONE}$"}
        case "DateTime64":
            return {"type": "string", "pattern": rf"^{_DAY}[ T]{_CLOCK}\.[0-9]{{1,9}}{_ZONE}$"}
        case "JSON":
            return {"type": "string", "contentMediaType": "application/json"}
        case _:
            return {"type": "string"}


def _integer_schema(type_: str) -> Schema:
    low, high = INTEGER_RANGES[type_]
    schema: Schema = {"type": "integer"}
    if type_ in ("Int32", "Int64"):
        schema["format"] = type_.lower()
    if low >= -_MAX_EXACT:
        schema["minimum"] = low
    if high <= _MAX_EXACT:
        schema["maximum"] = high
    return schema


# Columns ------------------------------------------------------------------------------------------


def column_schema(type_: str) -> Schema:
    """The schema of a column's values; the empty schema, which accepts all, where none is known.

    Args:
        type_: ClickHouse's spelling, for instance ``Nullable(DateTime64(3))``.
    """
    try:
        return _column(parse_type(type_))
    except TypeSyntaxError:
        return {}


def _column(type_: ColumnType) -> Schema:
    name = type_.name
    if name in _FIXED:
        return dict(_FIXED[name])
    if name in INTEGER_RANGES:
        return _integer_schema(name)
    if name.startswith("Interval"):
        return {"type": "integer"}
    if name.startswith("Enum"):
        return {"type": "string", "enum": list(type_.members)}
    composed = _COMPOSED.get(name)
    return composed(type_) if composed else {}


_TEXT: Schema = {"type": "string"}
_FLOAT: Schema = {"type": ["number", "null"]}
_TIME: Schema = {"type": "string", "examples": ["2024-01-31 10:00:00"]}
_POINT: Schema = {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2}
_RING: Schema = {"type": "array", "items": _POINT}
_POLYGON: Schema = {"type": "array", "items": _RING}
_FIXED: Mapping[str, Schema] = {
    **dict.fromkeys(("String", "FixedString", "AggregateFunction", "Time", "Time64"), _TEXT),
    # NaN and the infinities are written as null.
    **dict.fromkeys(("Float32", "Float64", "BFloat16"), _FLOAT),
    "Bool": {"type": "boolean"},
    "UUID": {"type": "string", "format": "uuid"},
    "IPv4": {"type": "string", "format": "ipv4"},
    "IPv6": {"type": "string", "format": "ipv6"},
    "Date": {"type": "string", "format": "date"},
    "Date32": {"type": "string", "format": "date"},
    "DateTime": _TIME,
    "DateTime64": _TIME,
    "Decimal": {"type": "number"},
    "JSON": {"type": "object"},
    "Nothing": {"type": "null"},
    "Point": _POINT,
    "Ring": _RING,
    "LineString": _RING,
    "Polygon": _POLYGON,
    "MultiLineString": _POLYGON,
    "MultiPolygon": {"type": "array", "items": _POLYGON},
}


def _nullable(type_: ColumnType) -> Schema:
    schema = _column(type_.types[0])
    if not schema:
        return schema
    if "enum" in schema:
        schema["enum"] = [*_listed(schema["enum"]), None]
    kinds = _listed(schema["type"])
    schema["type"] = [*kinds, *([] if "null" in kinds else ["null"])]
    return schema


def _listed(value: object) -> list[object]:
    return list(value) if isinstance(value, list) else [value]


def _tuple(type_: ColumnType) -> Schema:
    parts = [_column(part) for part in type_.types]
    names = type_.element_names
    if names:
        return {
            "type": "object",
            "properties": dict(zip(names, parts, strict=True)),
            "required": list(names),
        }
    return {"type": "array", "prefixItems": parts, "minItems": len(parts), "maxItems": len(parts)}


def _array(type_: ColumnType) -> Schema:
    return {"type": "array", "items": _column(type_.types[0])}


def _nested(type_: ColumnType) -> Schema:
    return {"type": "array", "items": _tuple(type_)}


def _map(type_: ColumnType) -> Schema:
    return {"type": "object", "additionalProperties": _column(type_.types[1])}


def _wrapped(type_: ColumnType) -> Schema:
    return _column(type_.types[0])


_COMPOSED: Mapping[str, Callable[[ColumnType], Schema]] = {
    "Nullable": _nullable,
    "LowCardinality": _wrapped,
    "SimpleAggregateFunction": _wrapped,
    "Array": _array,
    "Nested": _nested,
    "Tuple": _tuple,
    "Map": _map,
}
