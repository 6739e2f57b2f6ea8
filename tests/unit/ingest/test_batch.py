from __future__ import annotations

from ingest.batch import Batcher, BatchLimits, InsertBudget, join_runs
from ingest.chunk import Chunk, Decoded, Partition, Rejection
from ingest.decode import LineBlock
from shared.clickhouse.contract import Run

LIMITS = BatchLimits(max_rows=10, max_bytes=1_000, max_age_s=0.4)


def piece(first: int, count: int, size: int = 1) -> tuple[Chunk, Decoded]:
    values = [b"x" * size] * count
    chunk = Chunk(
        partition=Partition("t", 0),
        offsets=range(first, first + count),
        values=values,
        timestamps_ms=[0] * count,
        next=first + count,
    )
    decoded = Decoded(
        block=LineBlock(tuple(values), count), runs=(Run(first, count),), rejections=()
    )
    return chunk, decoded


def add(batcher: Batcher, first: int, count: int, *, size: int = 1, now_s: float = 0.0) -> None:
    chunk, decoded = piece(first, count, size)
    batcher.add(chunk, decoded, first=first, now_s=now_s)


def test_an_empty_batch_is_never_due() -> None:
    batcher = Batcher(LIMITS)
    assert batcher.is_empty
    assert batcher.due_in_s(1e9) == float("inf")


def test_a_batch_is_due_when_its_first_record_is_old_enough() -> None:
    batcher = Batcher(LIMITS)
    add(batcher, 0, 1, now_s=100.0)
    add(batcher, 1, 1, now_s=100.3)
    assert 0.09 < batcher.due_in_s(100.3) < 0.11
    assert batcher.due_in_s(100.4) == 0.0
    assert not batcher.is_full


def test_rows_or_bytes_fill_a_batch() -> None:
    by_rows, by_bytes = Batcher(LIMITS), Batcher(LIMITS)
    add(by_rows, 0, 10)
    add(by_bytes, 0, 1, size=1_000)
    assert by_rows.has_closed and by_bytes.has_closed
    assert by_rows.due_in_s(0.0) == 0.0


def test_filling_goes_on_behind_one_closed_batch_until_the_open_one_is_full_too() -> None:
    batcher = Batcher(LIMITS)
    add(batcher, 0, 10)
    add(batcher, 10, 9)
    assert not batcher.is_full
    add(batcher, 19, 1)
    assert batcher.is_full


def test_batches_are_taken_in_order_and_a_full_open_one_moves_up() -> None:
    batcher = Batcher(LIMITS)
    add(batcher, 0, 10, now_s=1.0)
    add(batcher, 10, 10, now_s=2.0)
    first = batcher.take()
    assert batcher.has_closed and not batcher.is_full
    add(batcher, 20, 3, now_s=3.0)
    second, third = batcher.take(), batcher.take()
    assert [(b.first, b.next, b.opened_s) for b in (first, second, third)] == [
        (0, 10, 1.0),
        (10, 20, 2.0),
        (20, 23, 3.0),
    ]
    assert batcher.is_empty


def test_a_batch_behind_a_closed_one_has_its_own_age() -> None:
    batcher = Batcher(LIMITS)
    add(batcher, 0, 10, now_s=1.0)
    add(batcher, 10, 1, now_s=9.0)
    batcher.take()
    assert 0.3 < batcher.due_in_s(9.0) < 0.5


def test_a_taken_batch_is_contiguous_and_the_next_one_begins_empty() -> None:
    batcher = Batcher(LIMITS)
    add(batcher, 5, 3, now_s=7.0)
    add(batcher, 8, 2, now_s=8.0)
    batch = batcher.take()
    assert (batch.first, batch.next, batch.row_count, batch.opened_s) == (5, 10, 5, 7.0)
    assert batch.runs == (Run(5, 5),)
    assert batcher.is_empty


def test_a_batch_begins_where_the_last_one_ended_even_over_a_hole() -> None:
    batcher = Batcher(LIMITS)
    chunk, decoded = piece(9, 2)
    batcher.add(chunk, decoded, first=6, now_s=0.0)
    batch = batcher.take()
    assert (batch.first, batch.next, batch.runs) == (6, 11, (Run(9, 2),))


def test_rejections_count_as_records_but_not_as_rows() -> None:
    batcher = Batcher(LIMITS)
    chunk, _ = piece(0, 1)
    rejection = Rejection(offset=0, timestamp_ms=0, raw=b"", errors=())
    decoded = Decoded(block=LineBlock((), 0), runs=(), rejections=(rejection,))
    batcher.add(chunk, decoded, first=0, now_s=0.0)
    batch = batcher.take()
    assert (batch.row_count, batch.record_count, batch.blocks) == (0, 1, ())


def test_runs_are_joined_only_where_they_touch() -> None:
    assert join_runs([Run(0, 2), Run(2, 1), Run(5, 1)]) == (Run(0, 3), Run(5, 1))
    assert join_runs([]) == ()


def test_turns_to_insert_are_handed_out_in_order_and_apart() -> None:
    budget = InsertBudget(per_second=4.0)
    assert [budget.reserve(10.0) for _ in range(3)] == [0.0, 0.25, 0.5]
    assert budget.reserve(20.0) == 0.0


def test_batches_that_are_full_at_once_do_not_use_up_the_turns_of_others() -> None:
    budget = InsertBudget(per_second=4.0)
    for _ in range(1000):
        budget.reserve(10.0)
        budget.give_back()
    assert budget.reserve(10.0) == 0.0
    assert budget.reserve(10.0) == 0.25
