from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest
import structlog

from query.versions import MAX_AGE_S, TableVersions
from shared.clickhouse.contract import Result, Statement
from shared.clock import ManualClock
from shared.errors import ClickHouseUnavailableError, QueryError


class Tables:
    """An engine that only knows the versions of its tables."""

    database = "workspace"

    def __init__(self, **versions: str) -> None:
        self.versions = versions
        self.asked = 0
        self.error: Exception | None = None
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def fetch(self, statement: Statement) -> Result:
        assert statement.parameters == {"database": "workspace"}
        self.asked += 1
        await self.may_answer.wait()
        if self.error is not None:
            raise self.error
        lines = [msgspec.json.encode(item) for item in self.versions.items()]
        return Result(body=b"\n".join(lines))


def versions_of(tables: Tables, clock: ManualClock) -> TableVersions:
    engine: Any = tables
    return TableVersions(engine, clock)


async def test_versions_are_asked_for_again_when_they_are_too_old() -> None:
    tables, clock = Tables(a="1"), ManualClock()
    versions = versions_of(tables, clock)
    assert versions.known() is None
    first = await versions.current()
    tables.versions = {"a": "2"}
    assert await versions.current() is versions.known() is first
    clock.advance(MAX_AGE_S)
    assert versions.known() is None
    second = await versions.current()
    assert (first.of({"a"}) != second.of({"a"}), tables.asked) == (True, 2)
    assert (first.generation, second.generation) == (1, 2)
    assert second.as_of_ms - first.as_of_ms == 200


async def test_the_generation_stays_while_nothing_changes() -> None:
    tables, clock = Tables(a="1", b="1"), ManualClock()
    versions = versions_of(tables, clock)
    first = await versions.current()
    clock.advance(1)
    assert (await versions.current()).generation == first.generation
    tables.versions["b"] = "2"
    clock.advance(1)
    last = await versions.current()
    assert last.generation != first.generation
    # Of the other table, nothing is different.
    assert last.of({"a"}) == first.of({"a"})
    assert last.of({"a", "b"}) != first.of({"a", "b"})


async def test_a_table_without_a_version_makes_the_whole_have_none() -> None:
    versions = await versions_of(Tables(a="1", elsewhere=""), ManualClock()).current()
    assert versions.of({"a"})
    assert versions.of(()) == versions.of(set())
    assert versions.of({"a", "elsewhere"}) is None
    assert versions.of({"a", "unknown"}) is None


async def test_all_who_wait_share_one_question_and_who_leaves_does_not_end_it() -> None:
    tables = Tables(a="1")
    tables.may_answer.clear()
    versions = versions_of(tables, ManualClock())
    first, *others = [asyncio.ensure_future(versions.current()) for _ in range(3)]
    await asyncio.sleep(0)
    first.cancel()
    tables.may_answer.set()
    assert {found.generation for found in await asyncio.gather(*others)} == {1}
    assert tables.asked == 1


async def test_a_failure_is_told_and_the_next_asks_again() -> None:
    tables = Tables(a="1")
    tables.error = ClickHouseUnavailableError("ClickHouse does not answer.")
    versions = versions_of(tables, ManualClock())
    with pytest.raises(ClickHouseUnavailableError):
        await versions.current()
    tables.error = None
    assert (await versions.current()).of({"a"})


async def test_an_engine_that_does_not_tell_makes_nothing_kept_and_is_logged_once() -> None:
    tables, clock = Tables(a="1"), ManualClock()
    tables.error = QueryError("Not enough privileges.", clickhouse_code=497)
    versions = versions_of(tables, clock)
    with structlog.testing.capture_logs() as logged:
        for _ in range(3):
            assert (await versions.current()).of({"a"}) is None
            clock.advance(MAX_AGE_S)
    assert [line["event"] for line in logged] == ["table_versions_refused"]
    tables.error = None
    assert (await versions.current()).of({"a"})
