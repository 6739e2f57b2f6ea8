"""A query's answer read from a pipe that the engine writes to.

The pipe is the backpressure: the engine waits while nobody reads, so memory stays flat however
large the answer is, and every format arrives as one document.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import weakref
from collections.abc import AsyncIterator, Callable
from concurrent.futures import CancelledError as FutureCancelledError
from concurrent.futures import Future

from msgspec.structs import replace

from shared.clickhouse.contract import Summary
from shared.clickhouse.session import EngineError
from shared.errors import AppError

_CHUNK_BYTES = 256 * 1024
_PIPE_BYTES = 1024 * 1024
# Only Linux has it; elsewhere a pipe keeps its own size.
_SET_PIPE_SIZE: int | None = getattr(fcntl, "F_SETPIPE_SZ", None)


def open_pipe() -> tuple[int, int]:
    """A pipe whose reading end does not block, as (reading end, writing end)."""
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    if _SET_PIPE_SIZE is not None:
        # The user's pipe quota may be used up; a small pipe works too.
        with contextlib.suppress(PermissionError):
            fcntl.fcntl(writing, _SET_PIPE_SIZE, _PIPE_BYTES)
    return reading, writing


class PipeStream:
    """See ``Stream`` in the contract.

    Args:
        reading: The reading end, owned from here on.
        future: Done, with the engine's summary or its error, once the writing end is closed.
        end: Ends the statement; called when somebody stops reading early.
        translate: Turns what the future raises into one of our errors.
    """

    def __init__(
        self,
        reading: int,
        future: Future[Summary],
        end: Callable[[], None],
        translate: Callable[[EngineError], AppError],
    ) -> None:
        self._reading = reading
        self._future = future
        self._end = end
        self._translate = translate
        self._first: bytes | None = None
        self._summary = Summary()
        self._read_bytes = 0
        self._open = True
        # A stream that is dropped unread must not leave the engine waiting for ever.
        self._finalizer = weakref.finalize(self, _abandon, reading, end)

    @property
    def summary(self) -> Summary:
        """See ``Stream``."""
        return replace(self._summary, result_bytes=self._read_bytes)

    async def start(self) -> None:
        """Wait for the first bytes, so that a query which fails early fails here.

        Raises:
            AppError: What the engine refused the query with.
        """
        try:
            self._first = await self._read()
        except BaseException:
            await self.aclose()
            raise

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """See ``Stream``."""
        chunk, self._first = self._first, None
        while chunk:
            self._read_bytes += len(chunk)
            yield chunk
            chunk = await self._read()

    async def _read(self) -> bytes:
        """The next bytes, empty at the end."""
        while self._open:
            try:
                chunk = os.read(self._reading, _CHUNK_BYTES)
            except BlockingIOError:
                await _readable(self._reading)
                continue
            if not chunk:
                await self._finish()
            return chunk
        return b""

    async def _finish(self) -> None:
        self._release()
        try:
            self._summary = await asyncio.wrap_future(self._future)
        except EngineError as error:
            raise self._translate(error) from None

    def _release(self) -> None:
        if self._open:
            self._open = False
            self._finalizer.detach()
            os.close(self._reading)

    async def aclose(self) -> None:
        """See ``Stream``."""
        if not self._open:
            return
        self._release()
        self._end()
        # However it ends is of no interest any more; that it has ended frees its connection.
        ended = asyncio.wrap_future(self._future)
        # Whoever waits here may be cancelled, and then nobody else looks at the error.
        ended.add_done_callback(_look_at)
        with contextlib.suppress(EngineError, FutureCancelledError):
            await asyncio.shield(ended)


def _look_at(future: asyncio.Future[Summary]) -> None:
    if not future.cancelled():
        future.exception()


def _abandon(reading: int, end: Callable[[], None]) -> None:
    os.close(reading)
    end()


def _wake(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)


async def _readable(descriptor: int) -> None:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    loop.add_reader(descriptor, _wake, ready)
    try:
        await ready
    finally:
        loop.remove_reader(descriptor)
