"""Several workers, a real broker and one engine, while everything around them fails."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from shared.errors import ConfigError
from tests.faults.plan import FAULTS_PER_ROUND
from tests.faults.run import run_rounds

ROUNDS = max(1, int(os.environ.get("PIPEHOUSE_TEST_ROUNDS", "30")) // 30)
# A short run leaves the rest of a round to longer ones.
STEPS = 4 if ROUNDS == 1 else FAULTS_PER_ROUND
SEED = int(os.environ.get("PIPEHOUSE_TEST_SEED", "20"))


async def test_every_record_is_stored_or_quarantined_once_whatever_fails(tmp_path: Path) -> None:
    try:
        outcome = await run_rounds(tmp_path, rounds=ROUNDS, seed=SEED, first=2, steps=STEPS)
    except ConfigError as error:
        pytest.skip(f"no Kafka broker to test with: {error}")
    assert outcome.rounds == ROUNDS
    assert outcome.records > 1_000 * ROUNDS
