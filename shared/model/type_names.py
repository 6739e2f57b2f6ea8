"""The names of ClickHouse types: what exists, other spellings, and what to write instead."""

from __future__ import annotations

import re

SIMPLE_TYPES = frozenset(
    [f"{sign}Int{bits}" for sign in ("", "U") for bits in (8, 16, 32, 64, 128, 256)]
    + ["Float32", "Float64", "BFloat16", "Bool", "String", "UUID", "IPv4", "IPv6"]
    + ["Date", "Date32", "Time", "Nothing"]
    + ["Point", "Ring", "LineString", "MultiLineString", "Polygon", "MultiPolygon", "Geometry"]
    + [
        f"Interval{unit}"
        for unit in (
            *("Nanosecond", "Microsecond", "Millisecond", "Second", "Minute", "Hour"),
            *("Day", "Week", "Month", "Quarter", "Year"),
        )
    ]
)

PARAMETRIC_TYPES = frozenset(
    {
        *("FixedString", "DateTime", "DateTime64", "Time64"),
        *("Decimal", "Decimal32", "Decimal64", "Decimal128", "Decimal256"),
        *("Enum", "Enum8", "Enum16"),
        *("Array", "Tuple", "Map", "Nullable", "LowCardinality", "Nested", "Variant"),
        *("JSON", "Dynamic", "AggregateFunction", "SimpleAggregateFunction"),
    }
)

KNOWN_TYPES = SIMPLE_TYPES | PARAMETRIC_TYPES

_ALIASES = {
    **{
        name.lower(): name
        for name in ("Bool", "Date", "Date32", "DateTime", "DateTime64", "Time", "Time64", "JSON")
    },
    **{name.lower(): name for name in PARAMETRIC_TYPES if name.startswith(("Decimal", "Enum"))},
    "dec": "Decimal",
    "numeric": "Decimal",
    **dict.fromkeys(("char", "varchar", "text", "blob", "bytea"), "String"),
    "tinyint": "Int8",
    "smallint": "Int16",
    "integer": "Int32",
    "bigint": "Int64",
    **dict.fromkeys(("float", "real", "single"), "Float32"),
    "double": "Float64",
    "timestamp": "DateTime",
    "inet4": "IPv4",
    "inet6": "IPv6",
}

_UNSIZED_INTEGER = re.compile(r"u?int\Z", re.IGNORECASE)


def canonical_name(name: str) -> str:
    """The name as ClickHouse prints it; an unknown one comes back unchanged."""
    return name if name in KNOWN_TYPES else _ALIASES.get(name.lower(), name)


def rejection(name: str) -> tuple[str, str] | None:
    """Message and hint for a spelling that is refused with more than a near miss."""
    if name.lower() == "boolean":
        return "Boolean is not a type.", "Use Bool, or UInt8 for 0 and 1."
    if _UNSIZED_INTEGER.match(name):
        sized = "UInt" if name.lower().startswith("u") else "Int"
        return f"{name} has no size.", f"Write the number of bits: {sized}32, {sized}64 …"
    if name.lower() == "object":
        return "Object('json') was replaced by JSON.", "Use JSON."
    return None
