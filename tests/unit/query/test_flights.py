from __future__ import annotations

import asyncio

import pytest

from query.flights import Flights
from shared.errors import QueryError


class Work:
    """Work that is done when the test says so."""

    def __init__(self) -> None:
        self.begun = 0
        self.was_cancelled = False
        self.may_end = asyncio.Event()
        self.error: Exception | None = None

    async def __call__(self) -> int:
        self.begun += 1
        try:
            await self.may_end.wait()
        except asyncio.CancelledError:
            self.was_cancelled = True
            raise
        if self.error is not None:
            raise self.error
        return self.begun


async def begin(flights: Flights[str, int], work: Work, count: int) -> list[asyncio.Task[int]]:
    tasks = [asyncio.ensure_future(flights.join("key", work)) for _ in range(count)]
    for _ in range(3):
        await asyncio.sleep(0)
    return tasks


async def test_many_who_ask_the_same_get_one_result() -> None:
    flights: Flights[str, int] = Flights()
    work = Work()
    tasks = await begin(flights, work, 5)
    work.may_end.set()
    assert await asyncio.gather(*tasks) == [1] * 5
    assert len(flights) == 0
    assert await flights.join("key", work) == 2


async def test_other_keys_are_other_work() -> None:
    flights: Flights[str, int] = Flights()
    one, two = Work(), Work()
    one.may_end.set()
    two.may_end.set()
    assert (await flights.join("a", one), await flights.join("b", two)) == (1, 1)


async def test_the_first_may_leave_and_the_work_goes_on() -> None:
    flights: Flights[str, int] = Flights()
    work = Work()
    first, second = await begin(flights, work, 2)
    first.cancel()
    await asyncio.wait([first])
    work.may_end.set()
    assert await second == 1
    assert not work.was_cancelled


async def test_when_the_last_leaves_the_work_ends_and_the_next_begins_anew() -> None:
    flights: Flights[str, int] = Flights()
    work = Work()
    tasks = await begin(flights, work, 2)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    assert len(flights) == 0
    again = (await begin(flights, work, 1))[0]
    assert work.was_cancelled
    work.may_end.set()
    assert await again == 2


async def test_an_error_is_raised_to_everybody() -> None:
    flights: Flights[str, int] = Flights()
    work = Work()
    work.error = QueryError("No.")
    tasks = await begin(flights, work, 3)
    work.may_end.set()
    await asyncio.wait(tasks)
    for task in tasks:
        with pytest.raises(QueryError, match="No"):
            task.result()
    assert len(flights) == 0
