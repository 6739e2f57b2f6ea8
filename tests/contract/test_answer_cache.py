"""Answers kept by the version of their data, over HTTP on the real engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest

from query.cache import AnswerCache
from shared.auth.tokens import DATASOURCES_READ, PIPES_READ, Grant, Scope
from shared.clickhouse.contract import Result, Statement
from shared.clock import ManualClock
from tests.contract.endpoint_rig import ADMIN, Rig, serving_rig, until
from tests.contract.engines import AnyEngine, either, target

__all__ = ["either", "target"]

TICK_S = 0.2
ASKS = "{{cache_ttl('1m')}}"


class CountingEngine:
    """An engine that counts the queries of endpoints, and holds them up while told to."""

    def __init__(self, engine: AnyEngine) -> None:
        self._engine = engine
        self.queries = 0
        self.may_run = asyncio.Event()
        self.may_run.set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    async def fetch(self, statement: Statement) -> Result:
        if "system.parts" not in statement.sql:
            self.queries += 1
            await self.may_run.wait()
        return await self._engine.fetch(statement)

    async def stream(self, statement: Statement) -> Any:
        self.queries += 1
        return await self._engine.stream(statement)


class CacheRig:
    """A rig whose clock and cache the test holds."""

    def __init__(self, rig: Rig, clock: ManualClock, counting: CountingEngine) -> None:
        self.rig = rig
        self.clock = clock
        self.counting = counting
        self.get = rig.get

    @property
    def queries(self) -> int:
        return self.counting.queries

    def counted(self, name: str) -> float:
        return float(self.rig.metrics.registry.get_sample_value(f"pipehouse_{name}") or 0)


async def open_rig(engine: AnyEngine, **options: Any) -> AsyncIterator[CacheRig]:
    clock, counting = ManualClock(), CountingEngine(engine)
    given = {"max_bytes": 4 << 20, **options}

    def services(rig: Rig) -> dict[str, Any]:
        cache = AnswerCache(counting, clock, rig.metrics, **given)
        return {"cache": cache, "clickhouse": counting}

    async with serving_rig(engine, services) as rig:
        yield CacheRig(rig, clock, counting)


@pytest.fixture
async def cached(either: AnyEngine) -> AsyncIterator[CacheRig]:
    async for rig in open_rig(either):
        yield rig


@pytest.fixture
async def all_cached(either: AnyEngine) -> AsyncIterator[CacheRig]:
    async for rig in open_rig(either, for_all=True):
        yield rig


def count_of(response: httpx.Response) -> int:
    assert response.status_code == 200, response.text
    return int(response.json()["data"][0]["c"])


# What is kept, and for how long -------------------------------------------------------------------


async def test_an_answer_is_kept_until_the_data_changes(cached: CacheRig) -> None:
    cached.rig.endpoint("all", f"SELECT {ASKS} count() AS c FROM EV")
    first = await cached.get("/all.json")
    again = await cached.get("/all.json")
    assert (count_of(first), first.headers["x-cache"]) == (10, "miss")
    assert (again.content, again.headers["x-cache"]) == (first.content, "hit")
    assert again.headers["x-db-statistics"] == first.headers["x-db-statistics"]
    assert cached.queries == 1

    await cached.rig.insert(10, 5)
    cached.clock.advance(TICK_S)
    assert count_of(await cached.get("/all.json")) == 15
    cached.clock.advance(3600)
    assert (await cached.get("/all.json")).headers["x-cache"] == "hit"
    assert cached.queries == 2
    assert (cached.counted("cache_hits_total"), cached.counted("cache_misses_total")) == (2, 2)


async def test_the_answer_says_as_of_when_its_data_is(cached: CacheRig) -> None:
    cached.rig.endpoint("all", f"SELECT {ASKS} count() AS c FROM EV")
    first = (await cached.get("/all.json")).headers["x-data-as-of"]
    assert first == "2023-11-14T22:13:20.000Z"
    cached.clock.advance(TICK_S / 2)
    await cached.rig.insert(10, 1)
    # Looked at half a moment ago: not looked at again, and the answer says so.
    stale = await cached.get("/all.json")
    assert (count_of(stale), stale.headers["x-data-as-of"]) == (10, first)
    cached.clock.advance(TICK_S)
    fresh = await cached.get("/all.json")
    assert (count_of(fresh), fresh.headers["x-data-as-of"]) == (11, "2023-11-14T22:13:20.300Z")


@pytest.mark.parametrize(
    "change",
    [
        "ALTER TABLE EV DELETE WHERE n = 3 SETTINGS mutations_sync = 1",
        "TRUNCATE TABLE EV",
        "ALTER TABLE EV DROP PARTITION tuple()",
    ],
)
async def test_whatever_changes_rows_changes_the_version(cached: CacheRig, change: str) -> None:
    cached.rig.endpoint("all", f"SELECT {ASKS} count() AS c FROM EV")
    assert count_of(await cached.get("/all.json")) == 10
    sql = change.replace("EV", cached.rig.table)
    await cached.rig.engine.execute(Statement(sql=sql))
    cached.clock.advance(TICK_S)
    assert count_of(await cached.get("/all.json")) < 10


async def test_tables_behind_other_pipes_count_too(cached: CacheRig) -> None:
    cached.rig.endpoint("inner", "SELECT n FROM EV WHERE n > 1", kind="standard")
    cached.rig.endpoint("outer", f"SELECT {ASKS} count() AS c FROM inner")
    assert count_of(await cached.get("/outer.json")) == 8
    await cached.rig.insert(10, 2)
    cached.clock.advance(TICK_S)
    assert count_of(await cached.get("/outer.json")) == 10


async def test_nothing_is_kept_that_did_not_ask_for_it(cached: CacheRig) -> None:
    cached.rig.endpoint("all", "SELECT count() AS c FROM EV")
    for _ in range(2):
        response = await cached.get("/all.json")
        assert {"etag", "cache-control", "x-cache", "x-data-as-of"}.isdisjoint(response.headers)
    assert cached.queries == 2


async def test_the_clock_and_chance_are_kept_only_where_the_template_says_so(
    all_cached: CacheRig,
) -> None:
    rig = all_cached.rig
    rig.endpoint("plain", "SELECT count() AS c FROM EV")
    rig.endpoint("clock", "SELECT toString(now64(9)) AS c FROM EV")
    rig.endpoint("chance", "SELECT rand() AS c FROM EV WHERE n = 1")
    rig.endpoint("asked", "SELECT {{cache_ttl('5s')}} toString(now64(9)) AS c FROM EV")

    async def is_kept(path: str) -> bool:
        return (await all_cached.get(path)).content == (await all_cached.get(path)).content

    assert await is_kept("/plain.json")
    assert not await is_kept("/clock.json")
    assert not await is_kept("/chance.json")
    assert await is_kept("/asked.json")
    before = await all_cached.get("/asked.json")
    all_cached.clock.advance(4)
    assert (await all_cached.get("/asked.json")).content == before.content
    all_cached.clock.advance(1)
    after = await all_cached.get("/asked.json")
    assert after.content != before.content
    assert after.headers["etag"] != before.headers["etag"]


async def test_what_has_no_version_is_not_kept(cached: CacheRig) -> None:
    table = cached.rig.table
    await cached.rig.engine.execute(Statement(sql=f"DROP TABLE {table} SYNC"))
    create = f"CREATE TABLE {table} (n UInt32, s String) ENGINE = Memory"
    await cached.rig.engine.execute(Statement(sql=create))
    cached.rig.endpoint("all", f"SELECT {ASKS} count() AS c FROM EV")
    for expected in (0, 3):
        assert count_of(await cached.get("/all.json")) == expected
        await cached.rig.insert(0, 3)


async def test_other_values_formats_and_settings_are_other_answers(cached: CacheRig) -> None:
    cached.rig.endpoint("some", f"SELECT {ASKS} toUInt64(n) AS c FROM EV WHERE n = {{{{Int8(n)}}}}")
    quoted = "output_format_json_quote_64bit_integers=1"
    for _ in range(2):
        assert count_of(await cached.get("/some.json?n=1")) == 1
        assert count_of(await cached.get("/some.json?n=2")) == 2
        assert (await cached.get(f"/some.json?n=1&{quoted}")).json()["data"] == [{"c": "1"}]
        assert (await cached.get("/some.csv?n=1")).text == '"c"\n1\n'
        posted = await cached.rig.client.post("/v0/pipes/some.json", json={"n": 1})
        assert count_of(posted) == 1
    # The same statement by another way is the same answer.
    assert cached.queries == 4


async def test_an_error_is_not_kept(cached: CacheRig) -> None:
    cached.rig.endpoint("bad", f"SELECT {ASKS} throwIf(count() = 10) AS c FROM EV")
    assert (await cached.get("/bad.json")).status_code == 400
    await cached.rig.insert(10, 1)
    cached.clock.advance(TICK_S)
    assert count_of(await cached.get("/bad.json")) == 0


async def test_a_large_answer_is_streamed_and_not_kept(cached: CacheRig) -> None:
    cached.rig.endpoint("rows", f"SELECT {ASKS} number FROM numbers(1000000)")
    for _ in range(3):
        response = await cached.get("/rows.csv")
        assert (response.text.count("\n"), "etag" in response.headers) == (1_000_001, False)
    assert cached.counted("cache_bytes") == 0


async def test_the_budget_of_bytes_is_kept(cached: CacheRig) -> None:
    cached.rig.endpoint("text", f"SELECT {ASKS} repeat('x', 400000) AS c, {{{{Int32(n)}}}} AS n")
    for n in range(15):
        await cached.get(f"/text.json?n={n}", headers={"Accept-Encoding": "gzip"})
    assert 3 << 20 < cached.counted("cache_bytes") <= 4 << 20
    assert (await cached.get("/text.json?n=14")).headers["x-cache"] == "hit"
    assert (await cached.get("/text.json?n=0")).headers["x-cache"] == "miss"


# HTTP ---------------------------------------------------------------------------------------------


async def test_a_caller_that_has_the_answer_gets_304(cached: CacheRig) -> None:
    cached.rig.endpoint("all", f"SELECT {ASKS} count() AS c FROM EV")
    first = await cached.get("/all.json")
    assert first.headers["cache-control"] == "private, max-age=60"
    assert first.headers["vary"] == "Accept-Encoding, Authorization"
    tag = first.headers["etag"]
    for sent in (tag, tag.removeprefix("W/"), f'"other", {tag}', "*"):
        same = await cached.get("/all.json", headers={"If-None-Match": sent})
        assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", tag)
    assert (await cached.get("/all.json", headers={"If-None-Match": '"x"'})).status_code == 200
    await cached.rig.insert(10, 1)
    cached.clock.advance(TICK_S)
    changed = await cached.get("/all.json", headers={"If-None-Match": tag})
    assert (changed.status_code, changed.headers["etag"] != tag) == (200, True)


async def test_browsers_ask_each_time_where_no_age_was_asked_for(all_cached: CacheRig) -> None:
    all_cached.rig.endpoint("all", "SELECT count() AS c FROM EV")
    assert (await all_cached.get("/all.json")).headers["cache-control"] == "private, no-cache"


async def test_a_kept_answer_is_sent_compressed_and_plain(cached: CacheRig) -> None:
    cached.rig.endpoint("text", f"SELECT {ASKS} repeat('x', 5000) AS c")
    plain = await cached.get("/text.csv")
    for encoding in ("gzip", "zstd", "gzip"):
        packed = await cached.get("/text.csv", headers={"Accept-Encoding": encoding})
        assert packed.headers["content-encoding"] == encoding
        assert packed.content == plain.content
    head = await cached.rig.client.head("/v0/pipes/text.csv")
    assert (head.content, head.headers["content-length"]) == (b"", str(len(plain.content)))


# Who may see what ---------------------------------------------------------------------------------


async def test_row_filters_are_part_of_what_an_answer_is_found_by(
    either: AnyEngine,
) -> None:
    async for cached in open_rig(either, for_all=True):
        rig = cached.rig
        rig.endpoint("all", "SELECT count() AS c FROM EV")
        for token, condition in (("low", "n < 3"), ("high", "n >= 3")):
            scopes = (
                Scope(type=PIPES_READ, resource="all"),
                Scope(type=DATASOURCES_READ, resource=rig.table, filter=condition),
            )
            rig.tokens.grants[token.encode()] = Grant(name="same name", scopes=scopes)
        for _ in range(2):
            for token, expected in (("low", 3), ("high", 7), (ADMIN, 10)):
                bearer = {"Authorization": f"Bearer {token}"}
                assert count_of(await cached.get("/all.json", headers=bearer)) == expected


async def test_a_right_that_is_taken_away_ends_the_short_way_too(cached: CacheRig) -> None:
    cached.rig.endpoint("all", f"SELECT {ASKS} count() AS c FROM EV")
    cached.rig.allow("reader", "all")
    bearer = {"Authorization": "Bearer reader"}
    for _ in range(2):
        assert count_of(await cached.get("/all.json", headers=bearer)) == 10
    cached.rig.allow("reader", "else")
    assert (await cached.get("/all.json", headers=bearer)).status_code == 403
    del cached.rig.tokens.grants[b"reader"]
    assert (await cached.get("/all.json", headers=bearer)).status_code == 403


async def test_a_release_is_seen_at_once(cached: CacheRig) -> None:
    cached.rig.endpoint("all", f"SELECT {ASKS} count() AS c FROM EV")
    assert count_of(await cached.get("/all.json")) == 10
    cached.rig.endpoint("all", f"SELECT {ASKS} count() + 1 AS c FROM EV")
    assert count_of(await cached.get("/all.json")) == 11


# Identical requests -------------------------------------------------------------------------------


async def hold(cached: CacheRig, ask: Callable[[], Any], number: int) -> list[asyncio.Task[Any]]:
    """Requests that wait for one query."""
    cached.counting.may_run.clear()
    tasks = [asyncio.ensure_future(ask()) for _ in range(number)]

    async def all_wait() -> bool:
        return cached.counted("cache_misses_total") == number

    await until(all_wait)
    return tasks


async def test_identical_requests_make_one_query(cached: CacheRig) -> None:
    cached.rig.endpoint("all", f"SELECT {ASKS} count() AS c FROM EV")
    tasks = await hold(cached, lambda: cached.get("/all.json"), 8)
    cached.counting.may_run.set()
    answers = await asyncio.gather(*tasks)
    assert {answer.content for answer in answers} == {answers[0].content}
    assert cached.queries == 1


async def test_the_first_caller_may_leave_the_others_stay(cached: CacheRig) -> None:
    cached.rig.endpoint("all", f"SELECT {ASKS} count() AS c FROM EV")
    first, *others = await hold(cached, lambda: cached.get("/all.json"), 3)
    first.cancel()

    async def is_counted() -> bool:
        labels = {"pipe": "all", "status": "499"}
        name = "pipehouse_endpoint_requests_total"
        return cached.rig.metrics.registry.get_sample_value(name, labels) == 1

    await until(is_counted)
    cached.counting.may_run.set()
    assert [count_of(answer) for answer in await asyncio.gather(*others)] == [10, 10]
    assert cached.queries == 1


async def test_a_query_that_everybody_left_is_ended(cached: CacheRig) -> None:
    slow = "count() AS abandoned FROM numbers(100000000000) WHERE number % 7 = 9"
    cached.rig.endpoint("slow", f"SELECT {ASKS} {slow}")
    tasks = [asyncio.ensure_future(cached.get("/slow.json")) for _ in range(2)]

    async def is_running() -> bool:
        return await cached.rig.running("abandoned")

    async def is_gone() -> bool:
        return not await is_running()

    async def have_both_asked() -> bool:
        return cached.counted("cache_misses_total") == 2

    await until(have_both_asked)
    await until(is_running)
    for task in tasks:
        task.cancel()
    await until(is_gone)
    assert cached.queries == 1
