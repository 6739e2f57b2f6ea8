"""Tells when datafiles of a project change."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from watchfiles import Change, awatch

from shared.datafile.project import EXTENSIONS

_SECRETS = (".env", ".env.local")
# Editors write in several steps; a change is told once they have settled.
SETTLE_MS = 150


def concerns_project(folders: Sequence[Path], change: Change, path: Path) -> bool:
    """Whether the project has to be loaded again because of this change.

    Datafiles, files with secrets, and new folders: what was put into a folder before it was
    watched is not told of by itself. What lies in hidden folders, as data does, is no part of it.

    Args:
        folders: The project's, absolute.
        change: What happened.
        path: To what, absolute.
    """
    home = next((folder for folder in folders if path.is_relative_to(folder)), None)
    if home is None:
        return False
    parts = path.relative_to(home).parts
    if any(part.startswith(".") for part in parts[:-1]):
        return False
    if path.suffix.removeprefix(".") in EXTENSIONS or path.name in _SECRETS:
        return True
    return change is Change.added and not path.name.startswith(".") and path.is_dir()


async def watch_project(folders: Sequence[Path]) -> AsyncIterator[None]:
    """Yield after every group of changes."""
    watched = [folder.resolve() for folder in folders]
    async for _ in awatch(
        *watched,
        watch_filter=lambda change, path: concerns_project(watched, change, Path(path)),
        debounce=SETTLE_MS,
        step=50,
        rust_timeout=1_000,
    ):
        yield None
