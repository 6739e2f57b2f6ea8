"""A pipeline stops when most of the latest rows are bad, and not before there are enough."""

from __future__ import annotations

from ingest.quarantine import QuarantineLimit


def test_few_rows_say_nothing() -> None:
    limit = QuarantineLimit(0.5, 10_000)
    assert all(limit.add(100, 100) for _ in range(99))
    assert not limit.add(100, 100)


def test_only_the_latest_rows_count() -> None:
    limit = QuarantineLimit(0.5, 1_000)
    assert all(limit.add(100, 0) for _ in range(1_000))
    taken = [limit.add(100, 100) for _ in range(7)]
    assert taken == [True] * 5 + [False] * 2


def test_half_is_still_taken() -> None:
    limit = QuarantineLimit(0.5, 1_000)
    assert all(limit.add(100, 50) for _ in range(100))


def test_a_ratio_of_one_takes_everything() -> None:
    limit = QuarantineLimit(1.0, 100)
    assert all(limit.add(100, 100) for _ in range(100))


def test_refused_rows_of_a_range_larger_than_the_window_are_a_share_of_the_range() -> None:
    limit = QuarantineLimit(0.5, 1_000)
    for _ in range(10):
        assert limit.add(800, 0)
    assert limit.refuse(8_000, 4_000)
    assert not limit.refuse(8_000, 4_001)
    assert limit.text == "4001 of the latest 8000 rows"


def test_refused_rows_take_the_place_of_good_ones() -> None:
    limit = QuarantineLimit(0.5, 1_000)
    # Two batches were read before the first was refused.
    assert limit.add(500, 0)
    assert limit.add(500, 0)
    assert limit.refuse(500, 500)
    assert not limit.refuse(500, 1)
    assert limit.text == "501 of the latest 1000 rows"
