"""``python -m tests.faults --rounds N --seed S``: any number of rounds, repeatable by seed."""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
import tempfile
import time
from pathlib import Path

from shared.errors import ConfigError
from tests.faults.bugs import BUGS
from tests.faults.run import run_rounds
from tests.faults.world import open_world


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first round")
    parser.add_argument("--folder", type=Path, help="keep data and logs here")
    parser.add_argument("--bug", choices=sorted(BUGS), default="", help="plant it; must be found")
    options = parser.parse_args()

    def say(line: str) -> None:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()

    # A broker that is down is nothing to tell of here.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    started_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="pipehouse-faults-") as temporary:
        folder = options.folder or Path(temporary)
        try:
            with open_world(folder) as world:
                running = run_rounds(
                    world,
                    rounds=options.rounds,
                    seed=options.seed,
                    first=options.first,
                    bug=options.bug,
                    say=say,
                )
                outcome = asyncio.run(running)
        except AssertionError as error:
            if not options.bug:
                raise
            say(f"{options.bug} was found: {error}")
            return 0
        except ConfigError as error:
            say(f"No Kafka broker to run with: {error}")
            return 5
    say(f"{outcome}, {time.monotonic() - started_s:.0f} s")
    return int(bool(options.bug))


if __name__ == "__main__":
    sys.exit(main())
