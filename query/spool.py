"""What the engine has said and a slow caller has not read yet.

Without it an answer would take the engine as long as the caller takes to read it: the time limit
of the query would cut slow downloads, and a few slow readers would hold every connection to the
engine. A little is kept in memory, the rest in a file without a name, which is gone with the
process.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections import deque
from collections.abc import Callable
from typing import IO, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

MEMORY_BYTES = 2 << 20
_READ_BYTES = 256 << 10


class Disk:
    """How many bytes all spools of a process may keep in files together.

    Args:
        max_bytes: Where it is used up, whoever fills a spool waits for its reader.
    """

    def __init__(self, max_bytes: int = 4 << 30) -> None:
        self.max_bytes = max_bytes
        self.used_bytes = 0


class Spool:
    """Pieces in order, from one who fills to one who reads.

    Args:
        disk: The budget of its file.
    """

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._pieces: deque[bytes] = deque()
        self._memory_bytes = 0
        self._file: IO[bytes] | None = None
        self._file_bytes = 0
        self._read_at = 0
        self._write_at = 0
        self._is_writing = False
        self._working = 0
        self._is_closed = False
        self._has_ended = False
        self._error: Exception | None = None
        self._filled = asyncio.Event()
        self._drained = asyncio.Event()

    async def put(self, piece: bytes) -> None:
        """Add a piece; waits only where neither memory nor disk is left."""
        while True:
            # What is in the file comes before what arrives now.
            if not self._is_in_file and self._memory_bytes + len(piece) <= MEMORY_BYTES:
                self._pieces.append(piece)
                self._memory_bytes += len(piece)
                break
            if self._disk.used_bytes + len(piece) <= self._disk.max_bytes:
                await self._write(piece)
                break
            self._drained.clear()
            await self._drained.wait()
        self._filled.set()

    def end(self, error: Exception | None = None) -> None:
        """Say that nothing more comes, or why; an error goes before what is not read yet."""
        self._has_ended, self._error = True, error
        self._filled.set()

    async def get(self) -> bytes:
        """The next piece, empty at the end.

        Raises:
            Exception: What ``end`` was told.
        """
        while True:
            if self._error is not None:
                raise self._error
            if self._pieces:
                piece = self._pieces.popleft()
                self._memory_bytes -= len(piece)
            elif self._is_in_file:
                piece = await self._read()
            elif self._has_ended:
                return b""
            else:
                self._filled.clear()
                await self._filled.wait()
                continue
            self._drained.set()
            return piece

    def close(self) -> None:
        """Let go of everything; harmless when repeated."""
        self._is_closed = True
        self._pieces.clear()
        self._close_file()

    @property
    def _is_in_file(self) -> bool:
        return self._write_at > self._read_at

    async def _write(self, piece: bytes) -> None:
        if self._file is None:
            self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - see close
        # Counted first, so that others find it taken.
        self._disk.used_bytes += len(piece)
        self._file_bytes += len(piece)
        self._is_writing = True
        try:
            await self._in_thread(_write_all, self._file.fileno(), piece, self._write_at)
            self._write_at += len(piece)
        finally:
            self._is_writing = False

    async def _read(self) -> bytes:
        assert self._file is not None
        size = min(_READ_BYTES, self._write_at - self._read_at)
        piece = await self._in_thread(os.pread, self._file.fileno(), size, self._read_at)
        if not piece:
            # An empty piece would pass for the end.
            raise OSError("A file of answers that wait to be read was cut by somebody else.")
        self._read_at += len(piece)
        if not self._is_in_file and not self._is_writing:
            self._empty_file()
        return piece

    async def _in_thread(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Disks may keep waiting; the file stays open until it has been written or read."""
        future = asyncio.ensure_future(asyncio.to_thread(work, *args, **kwargs))
        self._working += 1
        future.add_done_callback(self._worked)
        return await asyncio.shield(future)

    def _worked(self, future: asyncio.Future[T]) -> None:
        self._working -= 1
        if not future.cancelled():
            # Nobody may wait for it any more.
            future.exception()
        if self._is_closed:
            self._close_file()

    def _empty_file(self) -> None:
        self._disk.used_bytes -= self._file_bytes
        self._file_bytes = self._read_at = self._write_at = 0
        if self._file is not None:
            self._file.truncate(0)

    def _close_file(self) -> None:
        if self._file is not None and not self._working:
            self._empty_file()
            self._file.close()
            self._file = None


def _write_all(descriptor: int, piece: bytes, at: int) -> None:
    left = memoryview(piece)
    while left:
        written = os.pwrite(descriptor, left, at)
        left, at = left[written:], at + written
