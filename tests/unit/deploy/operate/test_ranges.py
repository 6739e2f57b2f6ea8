"""Sets of offsets as ranges behave like sets."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from deploy.operate.ranges import (
    Range,
    Ranges,
    clip,
    intersect,
    of_offsets,
    of_runs,
    shown,
    size,
    subtract,
    union,
)
from shared.clickhouse.contract import Run

offset_sets = st.sets(st.integers(0, 60))
loose_ranges = st.lists(
    st.tuples(st.integers(0, 60), st.integers(0, 8)).map(lambda p: Range(p[0], p[0] + p[1]))
)


def offsets(ranges: Ranges) -> set[int]:
    return {o for r in ranges for o in range(r.first, r.next)}


@given(offset_sets, offset_sets)
def test_operations_are_those_of_sets(one: set[int], other: set[int]) -> None:
    a, b = of_offsets(one), of_offsets(other)
    assert offsets(union(a, b)) == one | other
    assert offsets(subtract(a, b)) == one - other
    assert offsets(intersect(a, b)) == one & other
    assert offsets(clip(a, 10, 30)) == {o for o in one if 10 <= o < 30}
    assert size(a) == len(one)


@given(loose_ranges)
def test_a_union_ascends_and_its_ranges_do_not_touch(ranges: list[Range]) -> None:
    found = union(ranges)
    assert all(r.first < r.next for r in found)
    assert all(a.next < b.first for a, b in itertools.pairwise(found))
    assert offsets(found) == {o for r in ranges for o in range(r.first, r.next)}


def test_runs_are_ranges() -> None:
    assert of_runs([Run(3, 2), Run(5, 1)]) == (Range(3, 6),)


def test_ranges_are_shown_as_people_read_them() -> None:
    assert shown([Range(3, 4), Range(7, 10)]) == "3, 7..9"
    assert shown([Range(n, n + 1) for n in range(0, 20, 2)], limit=2) == "0, 2 and 8 more ranges"
