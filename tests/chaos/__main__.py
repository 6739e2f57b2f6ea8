"""``make chaos``: any number of rounds, repeatable by seed."""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from pathlib import Path

from tests.chaos.run import run_rounds


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos")
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--engine", choices=("embedded", "server"), default="embedded")
    options = parser.parse_args()

    def say(line: str) -> None:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()

    started_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="pipehouse-chaos-") as folder:
        outcome = asyncio.run(
            run_rounds(
                Path(folder),
                on_server=options.engine == "server",
                rounds=options.rounds,
                seed=options.seed,
                say=say,
            )
        )
    say(f"{outcome}, {time.monotonic() - started_s:.0f} s")


if __name__ == "__main__":
    main()
