"""Tells when datafiles of a project change."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from watchfiles import Change, awatch

DATAFILE_SUFFIXES = (".datasource", ".pipe", ".connection")
_SECRETS = (".env", ".env.local")
# Editors write in several steps; a change is told once they have settled.
SETTLE_MS = 150


def is_datafile(change: Change, path: str) -> bool:
    """Whether the project has to be loaded again because of this file."""
    return path.endswith(DATAFILE_SUFFIXES) or Path(path).name in _SECRETS


async def watch_project(folders: Sequence[Path]) -> AsyncIterator[None]:
    """Yield after every group of changes."""
    async for _ in awatch(
        *folders, watch_filter=is_datafile, debounce=SETTLE_MS, step=50, rust_timeout=1_000
    ):
        yield None
