"""Many rounds, one after another, each with everything of its own but the servers."""

from __future__ import annotations

import time
from collections.abc import Callable

from msgspec import Struct, field, structs

from tests.faults.plan import FAULTS_PER_ROUND, plan_round
from tests.faults.round import Happened, Round
from tests.faults.truth import Figures, verify, verify_alarm, verify_audit
from tests.faults.world import Place, World, open_place

# Every so many rounds ClickHouse is killed as well.
KILLS_ENGINE_EVERY = 4


class Outcome(Struct, kw_only=True):
    """What a run came to; mutable, it is counted up."""

    rounds: int = 0
    records: int = 0
    held: int = 0
    views_short: int = 0
    steps_reached: int = 0
    faults: dict[str, int] = field(default_factory=dict)


async def run_rounds(
    world: World,
    *,
    rounds: int,
    seed: int,
    first: int = 0,
    steps: int = FAULTS_PER_ROUND,
    bug: str = "",
    say: Callable[[str], object] = lambda line: None,
) -> Outcome:
    """Do rounds ``first`` to ``first + rounds`` of a seed, of each only so many steps.

    Raises:
        AssertionError: Something was lost without a word, or doubled.
    """
    outcome = Outcome()
    for number in range(first, first + rounds):
        kills_engine = number % KILLS_ENGINE_EVERY == KILLS_ENGINE_EVERY - 1
        plan = plan_round(seed, number, kills_engine=kills_engine)
        plan = structs.replace(plan, steps=plan.steps[:steps])
        say(f"round {number} of seed {seed}: {plan.workers} workers")
        started_s = time.monotonic()
        place = open_place(world, f"faults_{seed}_{number}", bug)
        doing = Round(place, plan, f"{seed}:{number}", say)
        happened = await doing.run()
        figures = None
        if happened.is_settled:
            figures = _settled(place, happened)
        else:
            verify_alarm(place, happened.truth)
        _count(outcome, happened, figures)
        say(f"  {figures or 'held'} in {time.monotonic() - started_s:.0f} s")
        place.ask(f"DROP DATABASE {place.name} SYNC")
    return outcome


def _settled(place: Place, happened: Happened) -> Figures:
    figures = verify(place, happened.truth, engine_died=happened.engine_died)
    verify_audit(place, happened.truth)
    return figures


def _count(outcome: Outcome, happened: Happened, figures: Figures | None) -> None:
    outcome.rounds += 1
    outcome.records += len(happened.truth)
    outcome.steps_reached += happened.steps_reached
    outcome.held += figures is None
    outcome.views_short += figures is not None and figures.view_lacks > 0
    for fault in happened.faults:
        outcome.faults[fault] = outcome.faults.get(fault, 0) + 1
