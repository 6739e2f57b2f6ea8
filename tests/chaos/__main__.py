"""``make chaos``: any number of rounds, repeatable by seed."""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
import time
from pathlib import Path

from tests.chaos.rounds import Tally, crash_round, verify

VERIFY_EVERY = 25


async def run(rounds: int, seed: int) -> None:
    rng = random.Random(seed)
    tally = Tally()
    started_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="pipehouse-chaos-") as folder:
        for number in range(1, rounds + 1):
            what = await crash_round(Path(folder), tally, rng)
            sys.stdout.write(f"round {number}/{rounds}: {what}\n")
            if number % VERIFY_EVERY == 0 or number == rounds:
                await verify(Path(folder), tally)
                elapsed_s = time.monotonic() - started_s
                sys.stdout.write(
                    f"  {len(tally.acknowledged)} acknowledged events, each stored once,"
                    f" {elapsed_s:.0f} s\n"
                )
            sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    asyncio.run(run(options.rounds, options.seed))


if __name__ == "__main__":
    main()
