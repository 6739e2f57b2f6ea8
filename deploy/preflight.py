"""Checks, with nothing but the standard library, that this machine can run Pipehouse.

Run by ``make install`` before anything is installed, so it must work on any Python 3.
"""

import platform
import shutil
import sys

MIN_PYTHON = (3, 11)
NEEDED_BYTES = 2 << 30


def problems() -> "list[str]":
    """One line for each thing that is missing."""
    found = []
    if sys.version_info < MIN_PYTHON:
        found.append(
            "Python %d.%d is too old: Pipehouse needs 3.11 or newer (make PYTHON=python3.12 ...)."
            % sys.version_info[:2]
        )
    machine = platform.machine().lower()
    if platform.system() not in ("Linux", "Darwin") or machine not in (
        "x86_64",
        "amd64",
        "arm64",
        "aarch64",
    ):
        found.append(
            "Pipehouse runs on Linux and macOS (x86-64, ARM64), not on %s %s."
            % (platform.system(), machine)
        )
    free = shutil.disk_usage(".").free
    if free < NEEDED_BYTES:
        found.append(
            "Only %d MB of disk are free here: the packages need about 2 GB." % (free >> 20)
        )
    return found


if __name__ == "__main__":
    lines = problems()
    for line in lines:
        sys.stderr.write(line + "\n")
    sys.exit(1 if lines else 0)
