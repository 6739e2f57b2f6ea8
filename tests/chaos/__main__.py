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
    parser.add_argument("--engine", choices=("embedded", "server", "both"), default="both")
    options = parser.parse_args()
    if options.engine != "server":
        _run(on_server=False, rounds=options.rounds, seed=options.seed)
    if options.engine != "embedded":
        _run(on_server=True, rounds=options.rounds, seed=options.seed)


def _run(*, on_server: bool, rounds: int, seed: int) -> None:
    started_s = time.monotonic()
    _say(f"With the {'engine in a process of its own' if on_server else 'embedded engine'}:")
    with tempfile.TemporaryDirectory(prefix="pipehouse-chaos-") as folder:
        running = run_rounds(Path(folder), on_server=on_server, rounds=rounds, seed=seed, say=_say)
        outcome = asyncio.run(running)
    _say(f"{outcome}, {time.monotonic() - started_s:.0f} s")


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
