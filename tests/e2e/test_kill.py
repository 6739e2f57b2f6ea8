"""``kill -9`` at random moments and at every step of a delivery, under constant ingest."""

from __future__ import annotations

import os
from pathlib import Path

from tests.chaos.run import run_rounds

ROUNDS = int(os.environ.get("PIPEHOUSE_TEST_ROUNDS", "15"))
SEED = int(os.environ.get("PIPEHOUSE_TEST_SEED", "20"))


async def test_every_event_answered_202_is_stored_exactly_once_whenever_the_server_dies(
    tmp_path: Path,
) -> None:
    outcome = await run_rounds(tmp_path, on_server=False, rounds=ROUNDS, seed=SEED)
    assert outcome.acknowledged > ROUNDS * 10
    assert not outcome.held and not outcome.views_short
