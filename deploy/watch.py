"""Tells when datafiles of a project change."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from pathlib import Path

from watchfiles import Change, awatch
from watchfiles.main import FileChange

from shared.datafile.project import EXTENSIONS

_SECRETS = (".env", ".env.local")
# Editors write in several steps; a change is told once they have settled.
SETTLE_MS = 150
LOOK_MS = 1_000


def concerns_project(folders: Sequence[Path], change: Change, path: Path) -> bool:
    """Whether the project has to be loaded again because of this change.

    Datafiles, files with secrets, and new folders: what was put into a folder before it was
    watched is not told of by itself. The end of a project's own folder too. What lies in hidden
    folders, as data does, is no part of it.

    Args:
        folders: The project's, absolute.
        change: What happened.
        path: To what, absolute.
    """
    home = next((folder for folder in folders if path.is_relative_to(folder)), None)
    if home is None:
        return False
    parts = path.relative_to(home).parts
    if not parts:
        return change is Change.deleted
    if any(part.startswith(".") for part in parts[:-1]):
        return False
    if path.suffix.removeprefix(".") in EXTENSIONS or path.name in _SECRETS:
        return True
    return change is Change.added and not path.name.startswith(".") and path.is_dir()


async def watch_project(folders: Sequence[Path]) -> AsyncGenerator[None]:
    """Yield after every group of changes, also where a folder goes, comes back or is replaced."""
    is_told = True
    while True:
        # Anew each time: a folder may be a link that is turned to another one.
        found = _found(folders)
        watched = [folder.resolve() for folder, known in zip(folders, found, strict=True) if known]
        async with aclosing(_changes(watched)) as groups:
            async for changes in groups:
                # What happened before they were watched is told of with the first group.
                if changes or not is_told:
                    yield None
                is_told = True
                # The system watches a folder, not its name: one that was moved away stays watched.
                # Nor is its number enough, which a new folder may get after the old one is gone.
                gone = any((Change.deleted, str(folder)) in changes for folder in watched)
                if gone or _found(folders) != found:
                    is_told = False
                    break


def _found(folders: Sequence[Path]) -> list[tuple[int, int] | None]:
    """Which folders there are: two are the same where their numbers are."""
    numbers: list[tuple[int, int] | None] = []
    for folder in folders:
        try:
            status = folder.stat()
        except OSError:
            numbers.append(None)
        else:
            numbers.append((status.st_dev, status.st_ino))
    return numbers


async def _changes(watched: Sequence[Path]) -> AsyncGenerator[set[FileChange]]:
    """Groups of changes; an empty one where nothing happened for a while."""
    if watched:
        try:
            async for changes in awatch(
                *watched,
                watch_filter=lambda change, path: concerns_project(watched, change, Path(path)),
                debounce=SETTLE_MS,
                step=50,
                rust_timeout=LOOK_MS,
                yield_on_timeout=True,
            ):
                yield changes
        except FileNotFoundError:
            # Gone between two looks.
            pass
    await asyncio.sleep(LOOK_MS / 1000)
    yield set()
