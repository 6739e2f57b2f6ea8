"""The codec of a column type: arrays, maps and tuples are put together from those of their parts.

The two routes of a codec are described in scalars.py. A container whose parts need no look after
decoding is read by msgspec in one go; any other is taken apart and checked part by part.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import msgspec
from msgspec import Raw

from ingest.jsonpath import DECODE_ERRORS
from ingest.scalars import BUILDERS, NULL, Codec, excerpt, raw_codec
from ingest.timestamps import Refusal
from shared.errors import DatafileError
from shared.model.types import ColumnType, parse_type

_SHAPES = {
    "Point": "Tuple(Float64, Float64)",
    "Ring": "Array(Point)",
    "LineString": "Array(Point)",
    "MultiLineString": "Array(LineString)",
    "Polygon": "Array(Ring)",
    "MultiPolygon": "Array(Polygon)",
}
_encode = msgspec.json.encode


def codec(column_type: ColumnType) -> Codec:
    """The codec of a type.

    Raises:
        DatafileError: Values of the type cannot come from JSON, or its time zone does not exist.
    """
    name = column_type.name
    if name in ("LowCardinality", "SimpleAggregateFunction"):
        return codec(column_type.types[0])
    if name in _SHAPES:
        return codec(parse_type(_SHAPES[name]))
    build = _CONTAINERS.get(name) or BUILDERS.get(name)
    if build is None:
        raise DatafileError(
            f"A column of type {column_type} cannot be read from JSON.",
            hint="Leave the JSON path away, or use another type.",
        )
    return build(column_type)


def _nullable(column_type: ColumnType) -> Codec:
    """Only inside arrays, tuples and maps: the NULLs of a column never reach its codec."""
    inner = codec(column_type.types[0])

    def coerce(raw: bytes) -> bytes | Refusal:
        return NULL if raw == NULL else inner.coerce(raw)

    if inner.finish is not None:
        return raw_codec(coerce)
    return Codec(field_type=inner.field_type | None, coerce=coerce, lenient=inner.lenient)


def _array(column_type: ColumnType) -> Codec:
    inner = codec(column_type.types[0])
    decode = msgspec.json.Decoder(list[Raw]).decode

    def coerce(raw: bytes) -> bytes | Refusal:
        try:
            elements = decode(raw)
        except DECODE_ERRORS:
            return Refusal(f"{excerpt(raw)} is not an array.")
        stored = []
        for element in elements:
            form = inner.coerce(bytes(element))
            if isinstance(form, Refusal):
                return Refusal(f"In the array: {form.message}")
            stored.append(form)
        return b"[" + b",".join(stored) + b"]"

    if inner.finish is not None:
        return raw_codec(coerce)
    return Codec(field_type=list[inner.field_type], coerce=coerce, lenient=inner.lenient)  # type: ignore[name-defined]  # built from the schema


def _map(column_type: ColumnType) -> Codec:
    key_type, value_type = column_type.types
    keys, values = codec(key_type), codec(value_type)
    quoted = not re.match(r"U?Int|Float|Decimal|Bool", key_type.unwrapped.name)
    decode = msgspec.json.Decoder(dict[str, Raw]).decode

    def coerce(raw: bytes) -> bytes | Refusal:
        try:
            members = decode(raw)
        except DECODE_ERRORS:
            return Refusal(f"{excerpt(raw)} is not an object.")
        stored = []
        for key, value in members.items():
            name = keys.coerce(_encode(key) if quoted else key.encode())
            form = values.coerce(bytes(value))
            for result in (name, form):
                if isinstance(result, Refusal):
                    return Refusal(f"In the map: {result.message}")
            stored.append(_member(name, form))
        return b"{" + b",".join(stored) + b"}"

    if key_type.unwrapped.name != "String" or values.finish is not None:
        return raw_codec(coerce)
    field_type = dict[str, values.field_type]  # type: ignore[name-defined]  # built from the schema
    return Codec(field_type=field_type, coerce=coerce, lenient=values.lenient)


def _member(name: Any, form: Any) -> bytes:
    key: bytes = name if name[:1] == b'"' else b'"' + name + b'"'
    return key + b":" + bytes(form)


def _tuple(column_type: ColumnType) -> Codec:
    names = column_type.element_names
    inner = [(codec(t), t.is_nullable) for t in column_type.types]
    decode_list = msgspec.json.Decoder(list[Raw]).decode
    decode_dict = msgspec.json.Decoder(dict[str, Raw]).decode

    def elements(raw: bytes) -> list[bytes | None] | None:
        try:
            if names and raw[:1] == b"{":
                found = decode_dict(raw)
                return [bytes(found[n]) if n in found else None for n in names]
            return [bytes(e) for e in decode_list(raw)]
        except DECODE_ERRORS:
            return None

    def coerce(raw: bytes) -> bytes | Refusal:
        found = elements(raw)
        if found is None or len(found) != len(inner):
            return Refusal(f"{excerpt(raw)} is not {column_type}.")
        stored = []
        for element, (element_codec, is_nullable) in zip(found, inner, strict=True):
            if element is None and not is_nullable:
                return Refusal(f"{excerpt(raw)} lacks an element of {column_type}.")
            form = NULL if element is None else element_codec.coerce(element)
            if isinstance(form, Refusal):
                return Refusal(f"In the tuple: {form.message}")
            stored.append(form)
        if names:
            pairs = zip(names, stored, strict=True)
            return b"{" + b",".join(_member(_encode(n), form) for n, form in pairs) + b"}"
        return b"[" + b",".join(stored) + b"]"

    return raw_codec(coerce)


_CONTAINERS: dict[str, Callable[[ColumnType], Codec]] = {
    "Nullable": _nullable,
    "Array": _array,
    "Map": _map,
    "Tuple": _tuple,
}
