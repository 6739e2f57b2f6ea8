"""``kill -9`` at random moments and at every step of a delivery, under constant ingest."""

from __future__ import annotations

import os
import random
from pathlib import Path

from tests.chaos.rounds import Tally, crash_round, verify

ROUNDS = int(os.environ.get("PIPEHOUSE_TEST_ROUNDS", "50"))
SEED = int(os.environ.get("PIPEHOUSE_TEST_SEED", "20"))


async def test_every_event_answered_202_is_stored_exactly_once_whenever_the_server_dies(
    tmp_path: Path,
) -> None:
    rng, tally = random.Random(SEED), Tally()
    for number in range(1, ROUNDS + 1):
        await crash_round(tmp_path, tally, rng)
        if number % 25 == 0 or number == ROUNDS:
            await verify(tmp_path, tally)
    assert len(tally.acknowledged) > ROUNDS * 10
