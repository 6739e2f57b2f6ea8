"""Callers who leave before their answer has come."""

from __future__ import annotations

import asyncio
from types import TracebackType

from litestar.types import Receive

# Shorter queries end before anybody can have left.
_WATCH_AFTER_S = 0.05


class ClientLeftError(Exception):
    """Nobody waits for the answer any more."""


class ClientWatch:
    """Ends what is awaited inside the block when the caller hangs up.

    Args:
        receive: The request's own; its body must have been read.
        after_s: How long to wait before watching.
    """

    def __init__(self, receive: Receive, *, after_s: float = _WATCH_AFTER_S) -> None:
        self._receive = receive
        self._after_s = after_s
        self._watching: asyncio.Task[None] | None = None
        self._has_left = False

    def __enter__(self) -> ClientWatch:
        self._task = asyncio.current_task()
        self._timer = asyncio.get_running_loop().call_later(self._after_s, self._start)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._timer.cancel()
        if self._watching is not None:
            self._watching.cancel()
        if self._has_left and self._task is not None and kind is asyncio.CancelledError:
            self._task.uncancel()
            raise ClientLeftError from error

    def _start(self) -> None:
        self._watching = asyncio.ensure_future(self._watch())

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._has_left = True
        if self._task is not None:
            self._task.cancel()
