"""Many rounds on one engine: what has come apart is counted and left behind."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path

from msgspec import Struct

from tests.chaos.rounds import Tally, crash_round, verify
from tests.chaos.site import close_site, open_site

VERIFY_EVERY = 25


class Outcome(Struct, kw_only=True):
    """What a run came to; mutable, it is counted up.

    ``held`` and ``views_short``: sites where a killed engine remembered tokens of rows that it
    had lost, in the table, where it was noticed, and in the target of a view, where nobody can.
    """

    acknowledged: int = 0
    held: int = 0
    views_short: int = 0


async def run_rounds(
    folder: Path,
    *,
    on_server: bool,
    rounds: int,
    seed: int,
    say: Callable[[str], object] = lambda line: None,
) -> Outcome:
    """Do so many rounds and verify now and then, and after every death of the engine.

    Raises:
        AssertionError: Something was lost without a word, or doubled.
    """
    rng, tally, outcome = random.Random(seed), Tally(), Outcome()
    site = open_site(folder / "site-0", on_server=on_server)
    try:
        for number in range(1, rounds + 1):
            what = await crash_round(site, tally, rng)
            say(f"round {number}/{rounds}: {what}")
            if not tally.is_suspect and number % VERIFY_EVERY and number < rounds:
                continue
            settled = await verify(site, tally)
            tally.is_suspect = False
            if settled.is_whole:
                say(f"  {len(tally.acknowledged)} acknowledged events, each stored once")
                continue
            say(f"  the engine lost rows with its death: {settled}")
            outcome.held += settled.held
            outcome.views_short += settled.view_lacks > 0
            outcome.acknowledged += len(tally.acknowledged)
            close_site(site)
            shutil.rmtree(site.folder, ignore_errors=True)
            site = open_site(folder / f"site-{number}", on_server=on_server)
            tally = Tally()
        outcome.acknowledged += len(tally.acknowledged)
    finally:
        close_site(site)
    return outcome
