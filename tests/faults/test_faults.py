"""Several workers, a real broker and one engine, while everything around them fails."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from shared.errors import ConfigError
from tests.faults.plan import FAULTS_PER_ROUND
from tests.faults.run import run_rounds
from tests.faults.steps import die_at_every_step
from tests.faults.world import World, open_world

_LONG = 30
_WANTED = int(os.environ.get("PIPEHOUSE_TEST_ROUNDS", "15"))
ROUNDS = max(1, _WANTED // _LONG)
# A short run leaves the rest of a round to longer ones.
STEPS = 4 if ROUNDS == 1 else FAULTS_PER_ROUND
SEED = int(os.environ.get("PIPEHOUSE_TEST_SEED", "20"))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    try:
        with open_world(tmp_path_factory.mktemp("faults")) as opened:
            yield opened
    except ConfigError as error:
        pytest.skip(f"no Kafka broker to test with: {error}")


@pytest.mark.skipif(
    _WANTED < _LONG, reason=f"takes a minute: PIPEHOUSE_TEST_ROUNDS={_LONG} runs it"
)
async def test_a_worker_may_die_at_every_step(world: World) -> None:
    figures = await die_at_every_step(world)
    assert figures.stored > 0 and figures.quarantined > 0 and figures.tombstones > 0


async def test_every_record_is_stored_or_quarantined_once_whatever_fails(world: World) -> None:
    outcome = await run_rounds(world, rounds=ROUNDS, seed=SEED, first=2, steps=STEPS)
    assert outcome.rounds == ROUNDS
    assert outcome.records > 500 * ROUNDS
