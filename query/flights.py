"""Identical work under way at the same time is done once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


class Flights(Generic[K, T]):
    """Work by key; whoever asks for a key that is under way waits for the same result.

    The work belongs to nobody: it goes on when the first who asked leaves, and ends when the last
    one does.
    """

    def __init__(self) -> None:
        self._under_way: dict[K, _Flight[T]] = {}

    def __len__(self) -> int:
        return len(self._under_way)

    async def join(self, key: K, work: Callable[[], Awaitable[T]]) -> T:
        """The result of the work under way for that key, else of ``work``.

        Errors of the work are raised to everybody who waits for it.
        """
        flight = self._under_way.get(key)
        if flight is None:
            flight = self._under_way[key] = _Flight(work)
            flight.task.add_done_callback(lambda task: self._landed(key, task))
        flight.waiting += 1
        try:
            return await asyncio.shield(flight.task)
        finally:
            flight.waiting -= 1
            if flight.waiting == 0 and not flight.task.done():
                # Whoever asks from now on must not wait for what is being ended.
                del self._under_way[key]
                flight.task.cancel()

    def _landed(self, key: K, task: asyncio.Task[T]) -> None:
        flight = self._under_way.get(key)
        if flight is not None and flight.task is task:
            del self._under_way[key]
        if not task.cancelled():
            # Everybody may have left; then nobody else looks at the error.
            task.exception()


class _Flight(Generic[T]):
    def __init__(self, work: Callable[[], Awaitable[T]]) -> None:
        self.waiting = 0
        self.task: asyncio.Task[T] = asyncio.ensure_future(_run(work))


async def _run(work: Callable[[], Awaitable[T]]) -> T:
    return await work()
