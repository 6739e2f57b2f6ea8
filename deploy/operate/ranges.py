"""Sets of offsets as ascending ranges that do not touch; plain values."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct

from shared.clickhouse.contract import Run


class Range(Struct, frozen=True, order=True):
    """The offsets ``[first, next)``."""

    first: int
    next: int

    def __str__(self) -> str:
        last = self.next - 1
        return str(self.first) if last == self.first else f"{self.first}..{last}"


Ranges = tuple[Range, ...]


def union(*parts: Iterable[Range]) -> Ranges:
    """Every offset of any of them."""
    joined: list[Range] = []
    for item in sorted(r for part in parts for r in part if r.first < r.next):
        if joined and item.first <= joined[-1].next:
            joined[-1] = Range(joined[-1].first, max(joined[-1].next, item.next))
        else:
            joined.append(item)
    return tuple(joined)


def subtract(whole: Iterable[Range], gone: Iterable[Range]) -> Ranges:
    """The offsets of ``whole`` that are not in ``gone``."""
    kept: list[Range] = []
    holes = union(gone)
    at = 0
    for item in union(whole):
        first = item.first
        while at < len(holes) and holes[at].next <= first:
            at += 1
        look = at
        while look < len(holes) and holes[look].first < item.next:
            if holes[look].first > first:
                kept.append(Range(first, holes[look].first))
            first = max(first, holes[look].next)
            look += 1
        if first < item.next:
            kept.append(Range(first, item.next))
    return tuple(kept)


def intersect(one: Iterable[Range], other: Iterable[Range]) -> Ranges:
    """The offsets that are in both."""
    one = union(one)
    return subtract(one, subtract(one, other))


def clip(ranges: Iterable[Range], first: int, next_: int) -> Ranges:
    """The offsets that lie in ``[first, next_)``."""
    return intersect(ranges, (Range(first, next_),))


def size(ranges: Iterable[Range]) -> int:
    """How many offsets."""
    return sum(r.next - r.first for r in ranges)


def of_offsets(offsets: Iterable[int]) -> Ranges:
    """The ranges of single offsets, in any order."""
    return union(Range(offset, offset + 1) for offset in sorted(offsets))


def of_runs(runs: Iterable[Run]) -> Ranges:
    """The ranges of runs."""
    return union(Range(run.first, run.first + run.count) for run in runs)


def shown(ranges: Iterable[Range], limit: int = 8) -> str:
    """The ranges as people read them: ``3, 7..9 and 2 more ranges``."""
    items = list(ranges)
    text = ", ".join(map(str, items[:limit]))
    left = len(items) - limit
    return text if left <= 0 else f"{text} and {left} more ranges"
