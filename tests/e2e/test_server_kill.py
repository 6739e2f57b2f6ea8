"""The same with the engine in a process of its own, which is killed and cut off as well."""

from __future__ import annotations

import os
from pathlib import Path

from tests.chaos.run import run_rounds

ROUNDS = max(5, int(os.environ.get("PIPEHOUSE_TEST_ROUNDS", "15")) // 4)
SEED = int(os.environ.get("PIPEHOUSE_TEST_SEED", "20"))


async def test_every_event_is_stored_once_or_its_loss_announced_whatever_dies(
    tmp_path: Path,
) -> None:
    outcome = await run_rounds(tmp_path, on_server=True, rounds=ROUNDS, seed=SEED)
    assert outcome.acknowledged > ROUNDS * 10
