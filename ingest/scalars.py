"""The types without parts: one JSON value to the form in which a column stores it.

A ``Codec`` has two routes that agree. The fast one is a type for msgspec (``field_type``) and a
check over a whole list of decoded values (``finish``). The other, ``coerce``, takes the raw text
of one value, accepts everything that the first one accepts, and what only it understands: a number
for a Bool, an object for a String. Both yield JSON that the engine stores unchanged.
"""

from __future__ import annotations

import ipaddress
import re
import uuid
from collections.abc import Callable, Hashable
from decimal import Decimal
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Raw, Struct

from ingest.jsonpath import DECODE_ERRORS
from ingest.timestamps import Refusal, normalise, normalise_all, time_rule
from shared.model.types import ColumnType

Finish = Callable[[list[Any]], list[Any]]
Coerce = Callable[[bytes], bytes | Refusal]

NULL = b"null"
_TEXT_LIMIT = 80
_MAX_FLOATS = {"Float32": 3.4028234663852886e38, "BFloat16": 3.3895313892515355e38}
_NUMBER = re.compile(rb"-?[0-9][0-9.eE+-]{0,99}\Z")
_WHOLE = re.compile(r"-?[0-9]{1,80}\Z")
_DECIMAL = re.compile(r"-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?\Z")
_TIME = re.compile(r"-?[0-9]{1,3}:[0-5][0-9]:[0-5][0-9](\.[0-9]{1,9})?\Z")
_UUID_SHAPE = b"00000000-0000-0000-0000-000000000000\n"
_HEX_TO_ZERO = bytes.maketrans(b"123456789abcdefABCDEF", b"0" * 21)
_BARE_UUID = re.compile(r"[0-9a-fA-F]{32}\Z")
_BITS = (8, 16, 32, 64, 128, 256)
_encode = msgspec.json.encode


class Codec(Struct, frozen=True, kw_only=True):
    """How the values of one type are read.

    ``finish`` takes the decoded values of many rows, without NULLs. It returns the same list where
    all of them can be stored as they are, else a list with what to store instead and a ``Refusal``
    for what cannot be. ``lenient`` says that ``coerce`` understands more than ``field_type``.
    """

    field_type: Any
    coerce: Coerce
    finish: Finish | None = None
    lenient: bool = False

    def loosened(self) -> Codec:
        """The same codec with everything ``coerce`` understands on the fast route, at its price."""
        return raw_codec(self.coerce)


def raw_codec(coerce: Coerce) -> Codec:
    """A codec whose fast route asks ``coerce`` for every value."""

    def finish(values: list[Any]) -> list[Any]:
        results = [coerce(bytes(value)) for value in values]
        return [r if isinstance(r, Refusal) else Raw(r) for r in results]

    return Codec(field_type=Raw, coerce=coerce, finish=finish)


def excerpt(raw: bytes) -> str:
    """The beginning of a raw value, as messages show it."""
    text = raw[:_TEXT_LIMIT].decode(errors="replace")
    return text + "…" if len(raw) > _TEXT_LIMIT else text


def compact(raw: bytes) -> str | None:
    """JSON text without white space, everything else as it was; None where it is no UTF-8."""
    try:
        return msgspec.json.format(raw, indent=-1).decode()
    except DECODE_ERRORS:
        return None


def _scalar(
    field_type: Any,
    expected: str,
    *,
    finish: Finish | None = None,
    rescue: Coerce | None = None,
) -> Codec:
    """A codec that decodes with ``field_type`` and asks ``rescue`` for what that refuses."""
    decode = msgspec.json.Decoder(field_type).decode

    def coerce(raw: bytes) -> bytes | Refusal:
        try:
            value = decode(raw)
        except DECODE_ERRORS:
            rescued = rescue(raw) if rescue is not None else None
            return rescued or Refusal(f"{excerpt(raw)} is not {expected}.")
        if finish is not None:
            value = finish([value])[0]
        return value if isinstance(value, Refusal) else _encode(value)

    return Codec(field_type=field_type, coerce=coerce, finish=finish, lenient=rescue is not None)


def _integer(column_type: ColumnType) -> Codec:
    name = column_type.name
    signed, bits = not name.startswith("U"), int(name.partition("Int")[2])
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    expected = f"a whole number from {low} to {high}"
    if bits > 64:
        return raw_codec(_big_integer(low, high, expected))
    if name == "UInt64":

        def finish(values: list[int]) -> list[Any]:
            if max(values, default=0) <= high:
                return values
            return [v if v <= high else Refusal(f"{v} is not {expected}.") for v in values]

        return _scalar(Annotated[int, Meta(ge=0)], expected, finish=finish)
    rescue = _flag if name == "UInt8" else None
    return _scalar(Annotated[int, Meta(ge=low, le=high)], expected, rescue=rescue)


def _flag(raw: bytes) -> bytes | Refusal:
    """A JSON boolean in a UInt8, the usual type of flags before there was Bool."""
    if raw in (b"true", b"false"):
        return b"1" if raw == b"true" else b"0"
    return Refusal(f"{excerpt(raw)} is not a whole number from 0 to 255.")


def _big_integer(low: int, high: int, expected: str) -> Coerce:
    """Beyond 64 bits few JSON writers have numbers, so digits in a string are taken too."""

    def coerce(raw: bytes) -> bytes | Refusal:
        text = _number_text(raw)
        if text is None or not _WHOLE.match(text) or not low <= int(text) <= high:
            return Refusal(f"{excerpt(raw)} is not {expected}.")
        return str(int(text)).encode()

    return coerce


def _number_text(raw: bytes) -> str | None:
    """The text of a JSON number, or of a string."""
    if raw[:1] != b'"':
        return raw.decode(errors="replace")
    try:
        return msgspec.json.decode(raw, type=str)
    except DECODE_ERRORS:
        return None


def _float(column_type: ColumnType) -> Codec:
    limit = _MAX_FLOATS.get(column_type.name)
    if limit is None:
        return _scalar(float, f"a number that {column_type} can hold")
    meta = Meta(ge=-limit, le=limit)
    return _scalar(Annotated[float, meta], f"a number that {column_type} can hold")


def _decimal(column_type: ColumnType) -> Codec:
    precision, scale = (int(c) for c in column_type.constants)
    expected = f"a number with up to {precision - scale} digits before the point and {scale} behind"

    def coerce(raw: bytes) -> bytes | Refusal:
        text = _number_text(raw)
        if text is None or len(text) > 200 or not _DECIMAL.match(text):
            return Refusal(f"{excerpt(raw)} is not {expected}.")
        value = Decimal(text)
        if value.is_zero():
            return b'"0"'
        if value.adjusted() >= precision - scale or value.adjusted() < -scale:
            return Refusal(f"{excerpt(raw)} is not {expected}.")
        plain = format(value, "f")
        if "." in plain:
            plain = plain.rstrip("0").rstrip(".")
        if len(plain.partition(".")[2]) > scale:
            return Refusal(f"{excerpt(raw)} is not {expected}.")
        return b'"' + plain.encode() + b'"'

    return raw_codec(coerce)


def _bool(_: ColumnType) -> Codec:
    def rescue(raw: bytes) -> bytes | Refusal:
        if raw in (b"0", b"1"):
            return b"true" if raw == b"1" else b"false"
        return Refusal(f"{excerpt(raw)} is not true or false.")

    return _scalar(bool, "true or false", rescue=rescue)


def _string(_: ColumnType) -> Codec:
    decode = msgspec.json.Decoder(str).decode

    def coerce(raw: bytes) -> bytes | Refusal:
        if raw == NULL:
            return Refusal("null is not a String.")
        try:
            text = decode(raw) if raw[:1] == b'"' else compact(raw)
        except DECODE_ERRORS:
            text = None
        return Refusal(f"{excerpt(raw)} is not UTF-8 text.") if text is None else _encode(text)

    return Codec(field_type=str, coerce=coerce, lenient=True)


def _fixed_string(column_type: ColumnType) -> Codec:
    length_bytes = int(column_type.constants[0])
    expected = f"a string of up to {length_bytes} bytes"

    def finish(values: list[str]) -> list[Any]:
        lengths = [len(value.encode()) for value in values]
        if max(lengths, default=0) <= length_bytes:
            return values
        return [
            v if n <= length_bytes else Refusal(f"'{v[:_TEXT_LIMIT]}' is not {expected}.")
            for v, n in zip(values, lengths, strict=True)
        ]

    return _scalar(str, expected, finish=finish)


def _uuid(_: ColumnType) -> Codec:
    def one(text: str) -> str | Refusal:
        if text.encode().translate(_HEX_TO_ZERO) == _UUID_SHAPE[:-1]:
            return text
        if _BARE_UUID.match(text):
            return str(uuid.UUID(text))
        return Refusal(f"'{text[:_TEXT_LIMIT]}' is not a UUID.")

    def finish(values: list[str]) -> list[Any]:
        shapes = ("\n".join(values) + "\n").encode().translate(_HEX_TO_ZERO)
        if shapes == _UUID_SHAPE * len(values):
            return values
        return [one(value) for value in values]

    return _scalar(str, "a UUID", finish=finish)


def _distinct(one: Callable[[Any], Any]) -> Finish:
    """A check that looks at each distinct value once."""

    def finish(values: list[Hashable]) -> list[Any]:
        forms = {value: one(value) for value in set(values)}
        if all(value is form for value, form in forms.items()):
            return values
        return [forms[value] for value in values]

    return finish


def _ip(column_type: ColumnType) -> Codec:
    version = 4 if column_type.name == "IPv4" else 6

    def one(text: str) -> str | Refusal:
        try:
            address = ipaddress.ip_address(text)
        except ValueError:
            return Refusal(f"'{text[:_TEXT_LIMIT]}' is not an {column_type} address.")
        if "%" in text or (version == 4 and address.version == 6):
            return Refusal(f"'{text[:_TEXT_LIMIT]}' is not an {column_type} address.")
        if version == 6 and address.version == 4:
            return f"::ffff:{address}"
        return text

    return _scalar(str, f"an {column_type} address", finish=_distinct(one))


def _time(column_type: ColumnType) -> Codec:
    def one(text: str) -> str | Refusal:
        if _TIME.match(text):
            return text
        return Refusal(f"'{text[:_TEXT_LIMIT]}' is not a time like 23:59:59.")

    return _scalar(str, "a time like 23:59:59", finish=_distinct(one))


def _enum(column_type: ColumnType) -> Codec:
    members = column_type.members
    names = {number: name for name, number in members.items()}

    def one(value: str | int) -> str:
        return value if isinstance(value, str) else names[value]

    field_type = Literal[(*members, *names)]  # type: ignore[valid-type]  # built from the schema
    shown = ", ".join(f"'{name}'" for name in list(members)[:10])
    return _scalar(field_type, f"one of {shown}", finish=_distinct(one))


def _moment(column_type: ColumnType) -> Codec:
    rule = time_rule(column_type)
    is_date = column_type.name.startswith("Date") and "Time" not in column_type.name

    def finish(values: list[Hashable]) -> list[Any]:
        return normalise_all(rule, values)

    def rescue(raw: bytes) -> bytes | Refusal:
        if not _NUMBER.match(raw):
            return Refusal(f"{excerpt(raw)} is not a {column_type}.")
        stored = normalise(rule, Decimal(raw.decode()))
        return stored if isinstance(stored, Refusal) else _encode(stored)

    if is_date:
        return _scalar(str, "a date like 2025-01-31", finish=finish)
    return _scalar(str | int, "a date and time", finish=finish, rescue=rescue)


def _json(_: ColumnType) -> Codec:
    """Decoded and encoded again: the engine refuses an object with a key twice."""
    return _scalar(dict[str, Any], "a JSON object")


def _any(_: ColumnType) -> Codec:
    return _scalar(str | int | float | bool | dict[str, Any] | list[Any], "a JSON value")


BUILDERS: dict[str, Callable[[ColumnType], Codec]] = {
    **dict.fromkeys((f"{u}Int{bits}" for u in ("", "U") for bits in _BITS), _integer),
    **dict.fromkeys(("Float32", "Float64", "BFloat16"), _float),
    **dict.fromkeys(("Date", "Date32", "DateTime", "DateTime64"), _moment),
    **dict.fromkeys(("Enum8", "Enum16"), _enum),
    **dict.fromkeys(("IPv4", "IPv6"), _ip),
    **dict.fromkeys(("Time", "Time64"), _time),
    **dict.fromkeys(("Dynamic", "Variant"), _any),
    "Decimal": _decimal,
    "Bool": _bool,
    "String": _string,
    "FixedString": _fixed_string,
    "UUID": _uuid,
    "JSON": _json,
}
