"""A block of rows as a file that the engine inside this process can open by name."""

from __future__ import annotations

import os
import sys
import tempfile
from array import array
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice

from shared.clickhouse.contract import Run

# What one writev may take on every platform we run on.
_PIECES_PER_WRITE = 1024


@contextmanager
def row_file(pieces: Iterable[bytes]) -> Iterator[str]:
    """Write the pieces one after the other and yield the file's path while it exists.

    In memory on Linux. Elsewhere a named temporary file, since the engine opens the path itself.
    """
    if sys.platform == "linux":
        descriptor = os.memfd_create("rows", os.MFD_CLOEXEC)
        try:
            _write_all(descriptor, pieces)
            yield f"/proc/self/fd/{descriptor}"
        finally:
            os.close(descriptor)
    else:
        with tempfile.NamedTemporaryFile(prefix="pipehouse-rows-") as file:
            _write_all(file.fileno(), pieces)
            yield file.name


def _write_all(descriptor: int, pieces: Iterable[bytes]) -> None:
    remaining = iter(pieces)
    while batch := list(islice(remaining, _PIECES_PER_WRITE)):
        written = os.writev(descriptor, batch)
        expected = sum(map(len, batch))
        if written < expected:
            _write_rest(descriptor, b"".join(batch)[written:])


def _write_rest(descriptor: int, rest: bytes) -> None:
    # Linux takes at most 2 GiB less a page in one call; signals can cut it shorter still.
    view = memoryview(rest)
    while view:
        view = view[os.write(descriptor, view) :]


def offsets_row_binary(runs: Iterable[Run]) -> bytes:
    """The offset of every row as little-endian Int64, in order."""
    offsets = array("q")
    for run in runs:
        offsets.extend(range(run.first, run.first + run.count))
    if sys.byteorder == "big":
        offsets.byteswap()
    return offsets.tobytes()
