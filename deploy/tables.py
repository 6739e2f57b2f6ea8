"""Rows as a table of text: aligned, one line a row, no wider than the terminal; pure."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Iterator, Sequence

import msgspec

GAP = "  "
MIN_WIDTH = 4


def render_table(
    heads: Sequence[str],
    rows: Sequence[Sequence[object]],
    *,
    width: int | None = None,
    numeric: Collection[int] = (),
) -> Iterator[str]:
    """The lines of a table: heads, a rule, the rows.

    Args:
        heads: What stands above each column.
        rows: The values; what is no text is written as JSON, None as ``NULL``.
        width: Characters of the terminal; the widest columns are cut to fit. None cuts nothing.
        numeric: Columns, from 0, that are aligned at the right.
    """
    texts = [[cell_text(value) for value in row] for row in rows]
    titles = [cell_text(head) for head in heads]
    wanted = [max(map(text_width, column)) for column in zip(titles, *texts, strict=True) if column]
    widths = _fitted(wanted, width)
    for line in (titles, ["─" * w for w in widths], *texts):
        cells = (
            _padded(text, columns, right=at in numeric)
            for at, (text, columns) in enumerate(zip(line, widths, strict=True))
        )
        yield _cut(GAP.join(cells).rstrip(), width or 0)


def cell_text(value: object) -> str:
    """A value on one line; control characters are written out, so that none reaches a terminal."""
    if value is None:
        return "NULL"
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else _escaped(c) for c in text)


def _escaped(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")


def text_width(text: str) -> int:
    """How many columns of a terminal the text takes."""
    if text.isascii():
        return len(text)
    return sum(_char_width(char) for char in text)


def _char_width(char: str) -> int:
    if unicodedata.combining(char):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def _fitted(wanted: Sequence[int], width: int | None) -> list[int]:
    """The widths that fit: columns wider than a common limit are cut to it.

    The first column is what people copy names from, so it may take up to half the width first.
    """
    if width is None or not wanted:
        return list(wanted)
    room = width - len(GAP) * (len(wanted) - 1)
    first = min(wanted[0], max(MIN_WIDTH, room // 2))
    rest = wanted[1:]
    limit = max(rest, default=MIN_WIDTH)
    while limit > MIN_WIDTH and first + sum(min(w, limit) for w in rest) > room:
        limit -= 1
    others = [min(w, limit) for w in rest]
    return [max(first, min(wanted[0], room - sum(others))), *others]


def _padded(text: str, columns: int, *, right: bool) -> str:
    text = _cut(text, columns)
    space = " " * (columns - text_width(text))
    return space + text if right else text + space


def _cut(text: str, columns: int) -> str:
    """The text, ended with an ellipsis where it is wider; 0 means any width."""
    if not columns or text_width(text) <= columns:
        return text
    kept, taken = [], 0
    for char in text:
        taken += _char_width(char)
        if taken > columns - 1:
            break
        kept.append(char)
    return "".join(kept) + "…"
