r"""Deduplication entries whose part was lost in a crash, dropped before a folder is opened.

A MergeTree table remembers the blocks it has seen in
``store/<xxx>/<uuid>/deduplication_logs/deduplication_log_<n>.txt``. A line is
``<operation>\t<part name>\t<block id>``, operation 1 for a block added and 2 for one forgotten.
The line can reach the disk before its part does; after a crash the replay of that block would
then be taken for a duplicate and its rows would be missing for good.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

from msgspec import Struct

# A partition id holds no underscore; a fourth number is the version of the last mutation.
_PART_NAME = re.compile(r"(?P<partition>[^_]+)_(?P<min>\d+)_(?P<max>\d+)_(?P<level>\d+)(?:_\d+)?\Z")
_ADDED = "1"


class PartName(Struct, frozen=True):
    """A part's partition and the range of block numbers it holds, both ends included."""

    partition: str
    first_block: int
    last_block: int

    def covers(self, other: PartName) -> bool:
        """Whether every block of the other part is within this one's range."""
        return (
            self.partition == other.partition
            and self.first_block <= other.first_block
            and other.last_block <= self.last_block
        )


def parse_part_name(name: str) -> PartName | None:
    """The parsed name of a data part, None for anything else."""
    match = _PART_NAME.match(name)
    if match is None:
        return None
    return PartName(match["partition"], int(match["min"]), int(match["max"]))


def without_orphans(lines: Iterable[str], parts: Iterable[str]) -> list[str]:
    """The lines of a deduplication log that may stay.

    Args:
        lines: Lines of the log, with or without their newline.
        parts: Names of the parts of that table which are complete on disk.

    Returns:
        The lines to keep, unchanged and in order. A line that cannot be read, as a torn write
        leaves it, is dropped when it is an addition: the engine would refuse the whole log.
    """
    existing: dict[str, list[PartName]] = {}
    for name in parts:
        parsed = parse_part_name(name)
        if parsed is not None:
            existing.setdefault(parsed.partition, []).append(parsed)
    return [line for line in lines if _may_stay(line, existing)]


def _may_stay(line: str, existing: dict[str, list[PartName]]) -> bool:
    fields = line.rstrip("\r\n").split("\t")
    if len(fields) != 3 or not fields[0].isdigit() or not fields[2]:
        return False
    if fields[0] != _ADDED:
        return True
    part = parse_part_name(fields[1])
    return part is not None and any(held.covers(part) for held in existing.get(part.partition, ()))


def remove_orphans(folder: Path) -> int:
    """Drop the orphans of every table below an engine's data folder.

    Only for a folder that no process has open. A log is replaced by a new file in one step, so a
    crash in here leaves the old or the new one.

    Returns:
        How many lines were dropped.
    """
    dropped = 0
    for log in sorted(folder.glob("store/*/*/deduplication_logs/*.txt")):
        # Undecodable bytes survive the round trip; a torn block id must not stop the start.
        lines = log.read_bytes().decode("utf-8", "surrogateescape").splitlines(keepends=True)
        kept = without_orphans(lines, _complete_parts(log.parent.parent))
        if len(kept) < len(lines):
            dropped += len(lines) - len(kept)
            _replace(log, "".join(kept).encode("utf-8", "surrogateescape"))
    return dropped


def _complete_parts(table: Path) -> list[str]:
    return [entry.parent.name for entry in table.glob("*/checksums.txt")]


def _replace(path: Path, content: bytes) -> None:
    beside = path.with_name(path.name + ".new")
    with beside.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
