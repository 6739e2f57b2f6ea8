"""Plans are made of a seed alone, and leave nothing out for long."""

from __future__ import annotations

from itertools import islice
from typing import get_args

from tests.faults.messages import Fate, fate_of, messages
from tests.faults.plan import STEPS, DieAtStep, Fault, KillEngine, plan_round

SEED = 11


def test_a_round_is_the_same_whenever_it_is_planned() -> None:
    assert plan_round(SEED, 5) == plan_round(SEED, 5)
    assert plan_round(SEED, 5) != plan_round(SEED, 6)
    assert plan_round(SEED, 5) != plan_round(SEED + 1, 5)


def test_a_few_rounds_have_every_kind_of_fault() -> None:
    found = {type(s.fault) for n in range(5) for s in plan_round(SEED, n).steps}
    assert found == set(get_args(Fault)) - {KillEngine}


def test_workers_die_at_every_step_in_turn() -> None:
    faults = [s.fault for n in range(14) for s in plan_round(SEED, n).steps]
    steps = [(f.action, f.moment) for f in faults if isinstance(f, DieAtStep)]
    assert len(steps) > len(STEPS)
    assert set(steps[: len(STEPS)]) == set(STEPS)


def test_the_engine_is_killed_where_it_is_asked_for() -> None:
    assert any(
        isinstance(s.fault, KillEngine) for s in plan_round(SEED, 0, kills_engine=True).steps
    )


def test_what_is_found_in_the_log_has_the_fate_that_its_producer_meant() -> None:
    sent = list(islice(messages(SEED), 5_000))
    assert {m.fate for m in sent} == set(get_args(Fate))
    assert all(fate_of(m.value) == m for m in sent)
    ids = [m.id for m in sent if m.id is not None]
    assert len(ids) == len(set(ids)) > 4_000
