"""Runs of offsets say the same as the offsets."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from ingest.runs import as_runs, clip_runs, merge_runs, offsets_of
from shared.clickhouse.contract import Run

OFFSETS = st.sets(st.integers(0, 60))
RUNS = st.lists(st.builds(Run, st.integers(0, 50), st.integers(1, 10)), max_size=8)


@given(OFFSETS)
def test_offsets_survive_as_runs(offsets: set[int]) -> None:
    runs = as_runs(offsets)
    assert offsets_of(runs) == offsets
    assert all(a.first + a.count < b.first for a, b in pairwise(runs))


@given(RUNS)
def test_merging_keeps_the_offsets(runs: list[Run]) -> None:
    assert offsets_of(merge_runs(runs)) == offsets_of(runs)


@given(RUNS, st.integers(0, 60), st.integers(0, 60))
def test_clipping_keeps_what_lies_within(runs: list[Run], first: int, next_: int) -> None:
    wanted = {o for o in offsets_of(runs) if first <= o < next_}
    assert offsets_of(clip_runs(runs, first, next_)) == wanted
