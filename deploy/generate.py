"""Plausible events for a data source, from its columns alone; the same seed gives the same values.

Names decide first (``user_id``, ``country``, ``page_url`` …), types otherwise. Every row passes the
decoder of its data source.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address, IPv6Address
from uuid import UUID

import msgspec

from shared.errors import BadRequestError
from shared.model.resources import Column, Datasource
from shared.model.types import ColumnType, parse_type

Draw = Callable[[random.Random, datetime], object]

_SPREAD = timedelta(hours=24)
_INTEGER = re.compile(r"U?Int[0-9]+\Z")
_MOST_DIGITS = 3
_CHOICES: dict[str, Sequence[str]] = {
    "event_type": ("page_view", "page_view", "page_view", "click", "click", "scroll", "purchase"),
    "message_type": ("text", "text", "text", "image", "video", "audio", "file"),
    "device_type": ("desktop", "mobile", "mobile", "tablet"),
    "browser": ("Chrome", "Chrome", "Firefox", "Safari", "Edge"),
    "country": ("US", "DE", "FR", "ES", "BR", "IN", "JP"),
    "city": ("Berlin", "Madrid", "Paris", "Austin", "Mumbai", "Osaka"),
    "channel": ("email", "search", "social", "display", "direct"),
    "campaign": ("spring_sale", "black_friday", "new_product", "newsletter"),
    "referrer": ("https://google.com", "https://example.org/blog", ""),
    "page_url": tuple(f"https://example.com/{p}" for p in ("", "about", "pricing", "docs", "blog")),
    "page_title": ("Home", "About", "Pricing", "Docs", "Blog"),
    "app_version": ("5.3.0", "5.4.1", "5.4.4", "6.0.0"),
    "os_version": ("14.7", "15.4", "16.2"),
    "properties": ('{"key":"screen","value":"home"}', '{"key":"button","value":"buy"}'),
    "message_content": ("Hello there!", "See you at ten.", "Thanks, that works.", "On my way."),
}
# How many different values an id column takes: few users, more sessions, endless events.
_ID_RANGES = {"user": 500, "sender": 500, "recipient": 500, "session": 5_000, "conversation": 800}


def sample_rows(
    datasource: Datasource, rows: int, *, seed: int | None, until: datetime
) -> Iterator[bytes]:
    """Events as JSON texts, one a row.

    Args:
        datasource: Whose columns to fill.
        rows: How many.
        seed: The same one gives the same values; None gives others each time.
        until: Times lie in the 24 hours before.

    Raises:
        BadRequestError: A column's type has no values that could be made up.
    """
    source = random.Random(seed)
    draws = [(_keys(c), _draw(datasource, c)) for c in datasource.columns if c.jsonpath]
    # What stands further in is put into what was drawn for the outside, never the other way round.
    draws.sort(key=lambda drawn: len(drawn[0]))
    for _ in range(rows):
        row: object = {}
        for keys, draw in draws:
            row = _put(row, keys, draw(source, until))
        yield msgspec.json.encode(row)


def _keys(column: Column) -> tuple[str, ...]:
    """``$.a.b[:].c`` as ``("a", "b", "[]", "c")``; the whole document has no keys."""
    assert column.jsonpath is not None
    path = column.jsonpath.removeprefix("$").strip(".")
    return tuple(path.replace("[:]", ".[]").replace("[*]", ".[]").split(".")) if path else ()


def _put(row: object, keys: tuple[str, ...], value: object) -> object:
    """The row with a value at its place.

    Columns that share an array agree on the shorter length. A column that is the whole document
    takes what the others are made of, so only an object adds to it.
    """
    if not keys:
        return value if row is None or isinstance(value, dict) else row
    if keys[0] == "[]":
        items = value if isinstance(value, list) else [value]
        before = row if isinstance(row, list) else [None] * len(items)
        return [_put(old, keys[1:], item) for old, item in zip(before, items, strict=False)]
    row = row if isinstance(row, dict) else {}
    row[keys[0]] = _put(row.get(keys[0]), keys[1:], value)
    return row


def _draw(datasource: Datasource, column: Column) -> Draw:
    type_ = parse_type(column.type)
    if type_.unwrapped.name == "String":
        for stem, singular in ((column.name, ""), (column.name.removesuffix("_id"), "id")):
            if not singular and stem in _CHOICES:
                values = _CHOICES[stem]
                return lambda source, until: source.choice(values)
            if singular and stem != column.name:
                return _id(stem)
    return _by_type(datasource, column, type_)


def _id(stem: str) -> Draw:
    most = _ID_RANGES.get(stem, 1_000_000)
    return lambda source, until: f"{stem}_{source.randrange(most)}"


def _by_type(datasource: Datasource, column: Column, type_: ColumnType) -> Draw:
    plain = type_.unwrapped
    name = plain.name
    if name == "Array":
        item = _by_type(datasource, column, plain.types[0])
        return lambda source, until: [item(source, until) for _ in range(source.randrange(3))]
    if name == "Map":
        return _map(*(_by_type(datasource, column, t) for t in plain.types))
    if name == "Tuple":
        parts = [_by_type(datasource, column, t) for t in plain.types]
        return lambda source, until: [part(source, until) for part in parts]
    if name.startswith("Enum"):
        members = list(plain.members)
        return lambda source, until: source.choice(members)
    if name == "FixedString":
        length = int(plain.constants[0])
        return lambda source, until: "".join(source.choices("abcdef0123456789", k=length))
    if name.startswith("Decimal"):
        precision, scale = (int(c) for c in plain.constants)
        return _decimal(min(precision - scale, _MOST_DIGITS), min(scale, 2))
    if name in _SIMPLE:
        return _SIMPLE[name]
    if _INTEGER.match(name):
        return lambda source, until: source.randrange(100)
    raise BadRequestError(
        f"Cannot make up values for {datasource.name}.{column.name} of type {column.type}.",
        hint="Write these events yourself.",
    )


def _map(key: Draw, value: Draw) -> Draw:
    def draw(source: random.Random, until: datetime) -> object:
        keys = [key(source, until) for _ in range(2)]
        # A key of JSON is text, and Python spells booleans differently.
        names = [str(k).lower() if isinstance(k, bool) else str(k) for k in keys]
        return {name: value(source, until) for name in names}

    return draw


def _decimal(whole_digits: int, places: int) -> Draw:
    most = 10 ** (whole_digits + places)
    return lambda source, until: source.randrange(most) / 10**places


def _time(source: random.Random, until: datetime) -> datetime:
    return until - source.random() * _SPREAD


_SIMPLE: dict[str, Draw] = {
    "String": lambda source, until: f"value_{source.randrange(100)}",
    "Bool": lambda source, until: source.random() < 0.5,
    "BFloat16": lambda source, until: float(source.randrange(100)),
    "Float32": lambda source, until: round(source.uniform(0, 100), 2),
    "Float64": lambda source, until: round(source.uniform(0, 100), 2),
    "Date": lambda source, until: f"{_time(source, until):%Y-%m-%d}",
    "Date32": lambda source, until: f"{_time(source, until):%Y-%m-%d}",
    "DateTime": lambda source, until: f"{_time(source, until):%Y-%m-%d %H:%M:%S}",
    "DateTime64": lambda source, until: f"{_time(source, until):%Y-%m-%d %H:%M:%S.%f}"[:-3],
    "Time": lambda source, until: f"{_time(source, until):%H:%M:%S}",
    "Time64": lambda source, until: f"{_time(source, until):%H:%M:%S}",
    "UUID": lambda source, until: str(UUID(int=source.getrandbits(128), version=4)),
    "IPv4": lambda source, until: str(IPv4Address(source.getrandbits(32))),
    "IPv6": lambda source, until: str(IPv6Address(source.getrandbits(128))),
    "JSON": lambda source, until: {"key": f"value_{source.randrange(100)}"},
}


def now_utc() -> datetime:
    """The default for ``until``."""
    return datetime.now(UTC)
