"""How much pipelines may hold together."""

from __future__ import annotations

from ingest.memory import MemoryBudget


def test_one_busy_pipeline_may_use_what_the_others_do_not() -> None:
    budget = MemoryBudget(100)
    budget.report("idle", 0)
    budget.report("busy", 80)
    assert budget.room_bytes("busy") == 20


def test_a_pipeline_that_holds_everything_takes_no_room_from_the_others() -> None:
    budget = MemoryBudget(100)
    budget.report("stuck", 100)
    budget.report("other", 10)
    assert budget.room_bytes("stuck") <= 0
    assert budget.room_bytes("other") == 40


def test_the_share_of_a_pipeline_that_has_ended_is_free() -> None:
    budget = MemoryBudget(100)
    budget.report("ended", 90)
    budget.leave("ended")
    assert budget.room_bytes("other") == 100
