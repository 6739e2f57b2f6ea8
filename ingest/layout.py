"""How records of one schema are laid out in memory: the Structs that msgspec fills.

Columns at ``$.a`` are fields of the row Struct, columns at ``$.a.b`` fields of a nested one. Where
paths enter arrays or cross each other the field keeps the raw text and each column is cut out of
it. Columns at ``$`` take the record itself.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any

import msgspec
from msgspec import NODEFAULT, UNSET, Raw, Struct, UnsetType

from ingest.jsonpath import EACH, Path, extract
from ingest.scalars import NULL, Codec

Values = list[Any]
Fetch = Callable[[Sequence[Any], Sequence[bytes]], Values]


class Feed(Struct, frozen=True, kw_only=True):
    """One column fed from records.

    ``blank`` stands for a missing or null value: None is stored as NULL, UNSET leaves the key out
    so that the engine takes the default, NODEFAULT means that the record is refused.
    """

    name: str
    path: Path
    codec: Codec
    blank: Any = NODEFAULT

    @property
    def is_raw(self) -> bool:
        """Whether the fast route sees the raw text."""
        return self.codec.field_type is Raw

    @property
    def needs_settling(self) -> bool:
        """Whether decoded values have to be looked at before they are stored."""
        return self.codec.finish is not None or self.blank is UNSET

    def settle(self, values: Values) -> Values:
        """What to store, a ``Refusal`` where nothing can be; the same list if nothing changes."""
        if self.blank is NODEFAULT:
            return values if self.codec.finish is None else self.codec.finish(values)
        blank = self.blank
        if self.is_raw:
            blanks = [v is None or v is UNSET or bytes(v) == NULL for v in values]
        else:
            blanks = [v is None or v is UNSET for v in values]
        filled = [v for v, is_blank in zip(values, blanks, strict=True) if not is_blank]
        stored = iter(filled if self.codec.finish is None else self.codec.finish(filled))
        return [blank if is_blank else next(stored) for is_blank in blanks]


class Layout(Struct, frozen=True, kw_only=True):
    """The compiled form: how to read a record and where each column's values are.

    With ``is_direct`` a decoded row is encoded as it is; its attribute for a column is in
    ``attributes``. Otherwise the columns are fetched and ``row_out`` puts a row together.
    ``feeds`` are those that were asked for, with raw codecs where text has to be cut out.
    """

    feeds: tuple[Feed, ...]
    decode: Callable[[bytes], Any]
    fetches: tuple[Fetch, ...]
    attributes: tuple[str, ...]
    is_direct: bool
    row_out: Callable[..., Any]
    transposed: Callable[[Sequence[Any]], Sequence[Values]]

    def transpose(self, lines: Sequence[Any], *, has_raw: bool) -> Sequence[Values]:
        """Decoded and settled rows as one list a column: what their lines would say.

        ``lines`` are rows of this layout and, with ``has_raw``, ``Raw`` lines of records that took
        the long way.
        """
        places: list[int] = []
        if has_raw:
            places = [place for place, line in enumerate(lines) if type(line) is Raw]
        rows = lines if not places else [line for line in lines if type(line) is not Raw]
        columns = list(self.transposed(rows))
        for position, feed in enumerate(self.feeds):
            if feed.is_raw:
                columns[position] = _plain(columns[position])
        for place in places:
            line = msgspec.json.decode(bytes(lines[place]))
            for feed, column in zip(self.feeds, columns, strict=True):
                column.insert(place, line.get(feed.name, UNSET))
        return columns


def compile_layout(feeds: Sequence[Feed]) -> Layout:
    """The layout for these columns."""
    groups: dict[str, list[Feed]] = {}
    for feed in feeds:
        if feed.path:
            groups.setdefault(feed.path[0], []).append(feed)
    row_type = _struct([(feed.path, feed) for feed in feeds if feed.path])
    attributes = {key: f"f{index}" for index, key in enumerate(groups)}
    placed = [
        _place(feed, attributes[feed.path[0]], [other.path for other in groups[feed.path[0]]])
        if feed.path
        else (_loosened(feed), _whole)
        for feed in feeds
    ]
    is_direct = all(f.path == (f.name,) and len(groups[f.name]) == 1 for f in feeds)
    placed_at = tuple(attributes[feed.path[0]] if feed.path else "" for feed in feeds)
    return Layout(
        feeds=tuple(feed for feed, _ in placed),
        decode=msgspec.json.Decoder(row_type).decode,
        fetches=tuple(fetch for _, fetch in placed),
        attributes=placed_at,
        is_direct=is_direct,
        row_out=_row_out(feeds),
        transposed=_transposed(placed_at if is_direct else [f"f{i}" for i in range(len(feeds))]),
    )


def _plain(values: Values) -> Values:
    """Values of a column without raw text among them."""
    return [msgspec.json.decode(bytes(v)) if type(v) is Raw else v for v in values]


def _transposed(attributes: Sequence[str]) -> Callable[[Sequence[Any]], Sequence[Values]]:
    """A function of literal comprehensions: a third of what attrgetter and zip take.

    The attributes are our own names for fields, never text of a schema.
    """
    lists = ", ".join(f"[row.{name} for row in rows]" for name in attributes)
    found: Callable[[Sequence[Any]], Sequence[Values]] = eval(f"lambda rows: [{lists}]")
    return found


def _place(feed: Feed, attribute: str, paths: Sequence[Path]) -> tuple[Feed, Fetch]:
    """The column as the fast route sees it, and how its values are fetched."""
    if _is_nested(paths):
        return feed, _follow(_steps(feed.path, paths, attribute))
    get, rest = attrgetter(attribute), feed.path[1:]

    def cut(rows: Sequence[Any], values: Sequence[bytes]) -> Values:
        found = (get(row) for row in rows)
        return [NULL if f is UNSET else extract(bytes(f), rest) or NULL for f in found]

    return _loosened(feed), cut


def _whole(rows: Sequence[Any], values: Sequence[bytes]) -> Values:
    return list(values)


def _loosened(feed: Feed) -> Feed:
    return msgspec.structs.replace(feed, codec=feed.codec.loosened())


def _row_out(feeds: Sequence[Feed]) -> Callable[..., Any]:
    names = {f"f{index}": feed.name for index, feed in enumerate(feeds)}
    fields: list[tuple[str, Any]] = [(name, Any) for name in names]
    return msgspec.defstruct("RowOut", fields, rename=names, gc=False)


def _is_nested(paths: Sequence[Path]) -> bool:
    """Whether the paths lead through objects only, and none through or to another's end."""
    pairs = itertools.pairwise(sorted(paths))
    return not any(EACH in path for path in paths) and not any(
        later[: len(earlier)] == earlier for earlier, later in pairs
    )


def _struct(members: Sequence[tuple[Path, Feed]]) -> type[Struct]:
    """The Struct of one object; ``members`` are the paths that lead through it."""
    groups: dict[str, list[tuple[Path, Feed]]] = {}
    for path, feed in members:
        groups.setdefault(path[0], []).append((path[1:], feed))
    names = {f"f{index}": key for index, key in enumerate(groups)}
    fields = [(name, *_field(groups[key])) for name, key in names.items()]
    return msgspec.defstruct("Row", fields, rename=names, gc=False, kw_only=True)


def _field(members: Sequence[tuple[Path, Feed]]) -> tuple[Any, Any]:
    """Type and default of the field that these columns share."""
    if not _is_nested([path for path, _ in members]):
        return Raw | UnsetType, UNSET
    rest, feed = members[0]
    if not rest:
        return _leaf_field(feed)
    if any(feed.blank is NODEFAULT for _, feed in members):
        return _struct(members), NODEFAULT
    return _struct(members) | None, None


def _leaf_field(feed: Feed) -> tuple[Any, Any]:
    field_type = feed.codec.field_type
    if feed.blank is NODEFAULT:
        return field_type, NODEFAULT
    if feed.is_raw:
        return field_type | UnsetType, UNSET
    if feed.blank is None:
        return field_type | None, None
    return field_type | None | UnsetType, UNSET


def _steps(path: Path, paths: Sequence[Path], attribute: str) -> list[str]:
    """The attributes from the row to the value, numbered as in ``_struct``."""
    steps = [attribute]
    for depth in range(1, len(path)):
        siblings = dict.fromkeys(p[depth] for p in paths if p[:depth] == path[:depth])
        steps.append(f"f{list(siblings).index(path[depth])}")
    return steps


def _follow(steps: Sequence[str]) -> Fetch:
    get = attrgetter(".".join(steps))

    def walk(row: Any) -> Any:
        for step in steps:
            row = getattr(row, step)
            if row is None:
                return None
        return row

    def fetch(rows: Sequence[Any], values: Sequence[bytes]) -> Values:
        try:
            return list(map(get, rows))
        except AttributeError:
            # An optional object on the way is null or missing somewhere.
            return list(map(walk, rows))

    return fetch
