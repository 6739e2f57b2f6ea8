"""Sets of offsets as runs of consecutive ones."""

from __future__ import annotations

from collections.abc import Iterable

from shared.clickhouse.contract import Run


def clip_runs(runs: Iterable[Run], first: int, next_: int) -> tuple[Run, ...]:
    """What of the runs lies in ``[first, next_)``."""
    clipped = []
    for run in runs:
        low, high = max(run.first, first), min(run.first + run.count, next_)
        if low < high:
            clipped.append(Run(low, high - low))
    return tuple(clipped)


def merge_runs(runs: Iterable[Run]) -> tuple[Run, ...]:
    """The same offsets as few runs, ascending."""
    merged: list[Run] = []
    for run in sorted(runs, key=lambda r: r.first):
        if merged and run.first <= merged[-1].first + merged[-1].count:
            last = merged[-1]
            end = max(last.first + last.count, run.first + run.count)
            merged[-1] = Run(last.first, end - last.first)
        else:
            merged.append(run)
    return tuple(merged)


def as_runs(offsets: Iterable[int]) -> tuple[Run, ...]:
    """Offsets in any order as runs."""
    return merge_runs(Run(offset, 1) for offset in offsets)


def offsets_of(runs: Iterable[Run]) -> set[int]:
    """Every offset of the runs."""
    return {o for run in runs for o in range(run.first, run.first + run.count)}
