"""What every ClickHouse engine must do; one suite, run over each engine there is."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any

import pytest
from msgspec.structs import replace

from shared.clickhouse.contract import (
    ClickHouse,
    Identity,
    Insert,
    Limits,
    Run,
    Statement,
)
from shared.clickhouse.failures import (
    InsertFatalError,
    InsertRefusedError,
    InsertRetriableError,
    InsertViewError,
)
from shared.errors import QueryError, QueryTimeoutError, TooLargeError

ENDLESS = "SELECT sum(sipHash64(number)) FROM numbers(1000000000000)"
WINDOW = "SETTINGS non_replicated_deduplication_window = 1000"


@pytest.fixture
async def database(clickhouse: ClickHouse) -> AsyncIterator[str]:
    """The name of an empty database that goes with the test."""
    name = f"contract_{uuid.uuid4().hex[:8]}"
    await clickhouse.execute(Statement(sql=f"CREATE DATABASE {name} ENGINE = Atomic"))
    yield name
    await clickhouse.execute(Statement(sql=f"DROP DATABASE {name} SYNC"))


class Lines:
    """Rows as a block."""

    def __init__(self, rows: Sequence[Any]) -> None:
        self._pieces = [
            row if isinstance(row, bytes) else json.dumps(row).encode() + b"\n" for row in rows
        ]

    @property
    def row_count(self) -> int:
        return len(self._pieces)

    def json_lines(self) -> Iterable[bytes]:
        return self._pieces


class Repeated:
    """Many rows, cheap to make: ``{"a": <n>}`` with padding."""

    def __init__(self, rows: int, padding: int = 0) -> None:
        self.row_count = rows
        self._padding = "x" * padding

    def json_lines(self) -> Iterable[bytes]:
        step = 10_000
        for first in range(0, self.row_count, step):
            rows = range(first, min(first + step, self.row_count))
            yield "".join(f'{{"a":{n},"s":"{self._padding}"}}\n' for n in rows).encode()


def insert_of(database: str, rows: Sequence[Any], **changes: Any) -> Insert:
    plain = Insert(
        database=database, table="t", columns=(("a", "Int32"), ("s", "String")), block=Lines(rows)
    )
    return replace(plain, **changes)


async def run(clickhouse: ClickHouse, *statements: str) -> None:
    for sql in statements:
        await clickhouse.execute(Statement(sql=sql))


async def rows(clickhouse: ClickHouse, sql: str) -> list[list[Any]]:
    result = await clickhouse.fetch(Statement(sql=sql, format="JSONCompactEachRow"))
    return [json.loads(line) for line in result.body.splitlines()]


async def create_table(clickhouse: ClickHouse, database: str, extra: str = "") -> None:
    await run(
        clickhouse,
        f"CREATE TABLE {database}.t (a Int32, s String {extra},"
        " __stream UInt64 MATERIALIZED 0, __partition Int32 MATERIALIZED 0,"
        f" __offset Int64 MATERIALIZED 0) ENGINE = MergeTree ORDER BY a {WINDOW}",
    )


# --- queries ------------------------------------------------------------------------------------


async def test_a_query_returns_the_formatted_bytes_and_what_it_cost(
    clickhouse: ClickHouse,
) -> None:
    result = await clickhouse.fetch(
        Statement(sql="SELECT number FROM numbers(3)", format="JSONEachRow")
    )
    assert result.body == b'{"number":0}\n{"number":1}\n{"number":2}\n'
    assert (result.summary.result_rows, result.summary.read_rows) == (3, 3)
    assert result.summary.result_bytes == len(result.body)


async def test_a_query_without_a_format_answers_tab_separated(clickhouse: ClickHouse) -> None:
    assert (await clickhouse.fetch(Statement(sql="SELECT 1, 'a'"))).body == b"1\ta\n"


async def test_large_integers_are_not_quoted_in_json(clickhouse: ClickHouse) -> None:
    result = await clickhouse.fetch(
        Statement(sql="SELECT toUInt64(18446744073709551615) AS n", format="JSONEachRow")
    )
    assert result.body == b'{"n":18446744073709551615}\n'


@pytest.mark.parametrize(
    "tail", ["", ";", " ;\n", " -- the end", " /* end */", "\nSETTINGS max_threads=1"]
)
async def test_what_stands_at_the_end_of_a_statement_does_no_harm(
    clickhouse: ClickHouse, tail: str
) -> None:
    result = await clickhouse.fetch(Statement(sql="SELECT 1 AS a" + tail, format="JSONEachRow"))
    assert result.body == b'{"a":1}\n'


@pytest.mark.parametrize(
    "text", ["plain", "it's", "a\tb\nc\r\0\\", "%_", "{x:Int8}", "'); DROP TABLE t; --", "naïve ✓"]
)
async def test_a_parameter_arrives_unchanged(clickhouse: ClickHouse, text: str) -> None:
    statement = Statement(
        sql="SELECT {x:String} AS x, {l:Array(String)} AS l",
        parameters={"x": text, "l": [text, ""]},
        format="JSONEachRow",
    )
    body = (await clickhouse.fetch(statement)).body
    assert json.loads(body) == {"x": text, "l": [text, ""]}


async def test_a_refused_query_names_the_engines_code(clickhouse: ClickHouse) -> None:
    with pytest.raises(QueryError) as caught:
        await clickhouse.fetch(Statement(sql="SELECT nothing_like_this"))
    assert (caught.value.clickhouse_code, caught.value.clickhouse_name) == (
        47,
        "UNKNOWN_IDENTIFIER",
    )
    assert "version" not in caught.value.message


async def test_a_syntax_error_says_line_and_column(clickhouse: ClickHouse) -> None:
    with pytest.raises(QueryError) as caught:
        await clickhouse.fetch(Statement(sql="SELECT\n  1 2"))
    assert caught.value.errors == ({"line": 2, "column": 5},)


async def test_what_a_failed_query_wrote_never_reaches_the_next_answer(
    clickhouse: ClickHouse,
) -> None:
    failing = Statement(
        sql="SELECT number, throwIf(number = 300000) FROM numbers(400000)", format="JSON"
    )
    for _ in range(4):
        with pytest.raises(QueryError):
            await clickhouse.fetch(failing)
    answers = await asyncio.gather(
        *(clickhouse.fetch(Statement(sql=f"SELECT {n}")) for n in range(8))
    )
    assert [a.body for a in answers] == [f"{n}\n".encode() for n in range(8)]


@pytest.mark.parametrize(
    ("limits", "error"),
    [
        (Limits(max_time_s=0.1), QueryTimeoutError),
        (Limits(max_rows_to_read=10), TooLargeError),
        (Limits(max_result_rows=10), TooLargeError),
        (Limits(max_result_bytes=10), TooLargeError),
        (Limits(max_memory_bytes=1_000_000), TooLargeError),
    ],
)
async def test_a_limit_that_is_reached_is_an_error(
    clickhouse: ClickHouse, limits: Limits, error: type[Exception]
) -> None:
    sql = "SELECT number, sipHash64(number) AS h FROM numbers(50000000) ORDER BY h"
    with pytest.raises(error):
        await clickhouse.fetch(Statement(sql=sql, limits=limits))
    assert (await clickhouse.fetch(Statement(sql="SELECT count() FROM numbers(100)"))).body


async def test_a_query_cannot_lift_its_time_limit(clickhouse: ClickHouse) -> None:
    with pytest.raises(QueryTimeoutError):
        await clickhouse.fetch(
            Statement(
                sql=f"{ENDLESS} SETTINGS max_execution_time = 0", limits=Limits(max_time_s=0.1)
            )
        )


async def test_settings_of_a_statement_end_with_it(clickhouse: ClickHouse) -> None:
    ask = "SELECT getSetting('max_result_rows'), getSetting('log_comment')"
    chosen = Statement(sql=ask, limits=Limits(max_result_rows=7), tag="mine")
    assert (await clickhouse.fetch(chosen)).body.split()[:2] == [b"7", b"mine"]
    for _ in range(6):
        assert (await clickhouse.fetch(Statement(sql=ask))).body == b"0\t\n"


@pytest.mark.parametrize(
    "sql",
    [
        "CREATE TABLE {d}.x (a Int8) ENGINE = Memory",
        "INSERT INTO {d}.t (a) VALUES (1)",
        "ALTER TABLE {d}.t ADD COLUMN b Int8",
        "DROP TABLE {d}.t",
        "SET readonly = 0",
    ],
)
async def test_fetch_cannot_write(clickhouse: ClickHouse, database: str, sql: str) -> None:
    await create_table(clickhouse, database)
    with pytest.raises(QueryError):
        await clickhouse.fetch(Statement(sql=sql.format(d=database), readonly=True))
    assert await rows(clickhouse, f"SELECT count() FROM {database}.t") == [[0]]


async def test_a_cancelled_query_frees_its_connection(clickhouse: ClickHouse) -> None:
    tasks = [asyncio.create_task(clickhouse.fetch(Statement(sql=ENDLESS))) for _ in range(12)]
    await asyncio.wait(tasks, timeout=0.05)
    for task in tasks:
        task.cancel()
    assert await asyncio.gather(*tasks, return_exceptions=True)
    async with asyncio.timeout(10):
        answers = await asyncio.gather(
            *(clickhouse.fetch(Statement(sql="SELECT 1")) for _ in range(6))
        )
    assert {a.body for a in answers} == {b"1\n"}


# --- streams ------------------------------------------------------------------------------------


@pytest.mark.parametrize("output_format", ["JSON", "JSONEachRow", "CSVWithNames", "TabSeparated"])
@pytest.mark.parametrize("count", [0, 1, 65_409, 200_000])
async def test_a_stream_yields_one_document(
    clickhouse: ClickHouse, output_format: str, count: int
) -> None:
    sql = f"SELECT number, toString(number) AS s FROM numbers({count}) ORDER BY number"
    stream = await clickhouse.stream(Statement(sql=sql, format=output_format))
    body = b"".join([chunk async for chunk in stream])
    whole = await clickhouse.fetch(Statement(sql=sql, format=output_format))
    assert stream.summary.result_rows == count
    assert stream.summary.result_bytes == len(body)
    if output_format == "JSON":
        document = json.loads(body)
        assert document["data"] == json.loads(whole.body)["data"]
        assert document["rows"] == count
    else:
        assert body == whole.body


async def test_parquet_can_be_streamed(clickhouse: ClickHouse) -> None:
    stream = await clickhouse.stream(
        Statement(sql="SELECT number FROM numbers(200000)", format="Parquet")
    )
    body = b"".join([chunk async for chunk in stream])
    assert (body[:4], body[-4:], body.count(b"PAR1")) == (b"PAR1", b"PAR1", 2)


async def test_a_stream_that_cannot_start_fails_at_once(clickhouse: ClickHouse) -> None:
    with pytest.raises(QueryError):
        await clickhouse.stream(Statement(sql="SELECT * FROM no_such_table", format="JSON"))


async def test_a_stream_that_breaks_raises_while_it_is_read(clickhouse: ClickHouse) -> None:
    stream = await clickhouse.stream(
        Statement(sql="SELECT throwIf(number = 1500000) FROM numbers(2000000)", format="CSV")
    )
    with pytest.raises(QueryError, match="throwIf"):
        async for _ in stream:
            pass
    await stream.aclose()


async def test_a_stream_closed_early_ends_its_statement(clickhouse: ClickHouse) -> None:
    endless = Statement(
        sql="SELECT number FROM numbers(100000000000)", format="CSV", tag="closed-early"
    )
    for _ in range(10):
        stream = await clickhouse.stream(endless)
        async for _ in stream:
            break
        async with asyncio.timeout(10):
            await stream.aclose()
            await stream.aclose()
    running = await rows(
        clickhouse,
        "SELECT count() FROM system.processes WHERE Settings['log_comment'] = 'closed-early'",
    )
    assert running == [[0]]


async def test_a_stream_nobody_reads_takes_no_reader_from_queries(clickhouse: ClickHouse) -> None:
    endless = Statement(sql="SELECT number FROM numbers(100000000000)", format="CSV")
    streams = [await clickhouse.stream(endless) for _ in range(4)]
    async with asyncio.timeout(10):
        assert (await clickhouse.fetch(Statement(sql="SELECT 1"))).body == b"1\n"
        for stream in streams:
            await stream.aclose()


# --- inserts ------------------------------------------------------------------------------------


async def test_rows_are_stored_with_their_identity(clickhouse: ClickHouse, database: str) -> None:
    await create_table(clickhouse, database)
    identity = Identity(stream=2**64 - 1, partition=7, runs=(Run(100, 3),))
    block = [{"a": 1, "s": "x"}, {"a": 2, "s": "y"}, {"a": 3, "s": "z"}]
    summary = await clickhouse.insert(insert_of(database, block, token="k", identity=identity))
    assert summary.result_rows == 3
    stored = f"SELECT *, __stream, __partition, __offset FROM {database}.t ORDER BY a"
    assert await rows(clickhouse, stored) == [
        [1, "x", 2**64 - 1, 7, 100],
        [2, "y", 2**64 - 1, 7, 101],
        [3, "z", 2**64 - 1, 7, 102],
    ]
    assert await rows(clickhouse, f"SELECT * FROM {database}.t WHERE a = 1") == [[1, "x"]]


async def test_offsets_with_holes_go_to_the_right_rows(
    clickhouse: ClickHouse, database: str
) -> None:
    await create_table(clickhouse, database)
    count = 100_000
    runs = tuple(Run(first, 1) for first in range(0, 3 * count, 3))
    await clickhouse.insert(
        insert_of(
            database,
            [],
            block=Repeated(count),
            token="holes",
            identity=Identity(stream=1, partition=0, runs=runs),
        )
    )
    wrong = f"SELECT count(), countIf(__offset != a * 3) FROM {database}.t"
    assert await rows(clickhouse, wrong) == [[count, 0]]


async def test_identity_columns_may_have_names_of_their_own(
    clickhouse: ClickHouse, database: str
) -> None:
    await run(
        clickhouse,
        f"CREATE TABLE {database}.t (a Int32, s String, __stream UInt64, `p.x` Int16, o Int64)"
        " ENGINE = MergeTree ORDER BY a",
    )
    identity = Identity(stream=1, partition=2, runs=(Run(5, 1),), columns=("__stream", "p.x", "o"))
    await clickhouse.insert(insert_of(database, [{"a": 1}], identity=identity))
    assert await rows(clickhouse, f"SELECT * FROM {database}.t") == [[1, "", 1, 2, 5]]


async def test_the_same_token_is_stored_once(clickhouse: ClickHouse, database: str) -> None:
    await create_table(clickhouse, database)
    view = f"{database}.v"
    await run(
        clickhouse,
        f"CREATE TABLE {view} (a Int32, n UInt64) ENGINE = MergeTree ORDER BY a {WINDOW}",
        f"CREATE MATERIALIZED VIEW {database}.mv TO {view} AS"
        f" SELECT a, count() AS n FROM {database}.t GROUP BY a",
    )
    first = insert_of(database, [{"a": 1, "s": "x"}], token="one")
    for insert in (first, first, replace(first, token="two"), first):
        await clickhouse.insert(insert)
    assert await rows(clickhouse, f"SELECT count() FROM {database}.t") == [[2]]
    assert await rows(clickhouse, f"SELECT sum(n) FROM {view}") == [[2]]


async def test_without_a_token_equal_blocks_are_both_stored(
    clickhouse: ClickHouse, database: str
) -> None:
    await create_table(clickhouse, database)
    for _ in range(2):
        await clickhouse.insert(insert_of(database, [{"a": 1}]))
    assert await rows(clickhouse, f"SELECT count() FROM {database}.t") == [[2]]


async def test_the_largest_block_is_one_part_in_the_table_and_in_every_view(
    clickhouse: ClickHouse, database: str
) -> None:
    count = 1_000_000
    await run(
        clickhouse,
        f"CREATE TABLE {database}.t (a Int32, s String) ENGINE = MergeTree"
        f" PARTITION BY a % 3 ORDER BY a {WINDOW}",
    )
    queries = {
        "grouped": "SELECT a, count() AS n FROM {d}.t GROUP BY a",
        "many": "SELECT a, arrayJoin([1, 2, 3]) AS n FROM {d}.t",
        "sorted": "SELECT a, 1 AS n FROM {d}.t WHERE a % 2 = 0 ORDER BY s, a",
    }
    for name, query in queries.items():
        await run(
            clickhouse,
            f"CREATE TABLE {database}.{name} (a Int32, n UInt64) ENGINE = MergeTree ORDER BY a"
            f" {WINDOW}",
            f"CREATE MATERIALIZED VIEW {database}.{name}_mv TO {database}.{name} AS"
            f" {query.format(d=database)}",
        )
    insert = insert_of(database, [], block=Repeated(count, padding=180), token="big")
    for _ in range(2):
        await clickhouse.insert(insert)
    parts = await rows(
        clickhouse,
        "SELECT table, count(), sum(rows) FROM system.parts"
        f" WHERE database = '{database}' AND active AND level = 0 GROUP BY table ORDER BY table",
    )
    assert parts == [
        ["grouped", 1, count],
        ["many", 1, 3 * count],
        ["sorted", 1, count // 2],
        ["t", 3, count],
    ]


async def test_a_block_may_fall_into_many_partitions(clickhouse: ClickHouse, database: str) -> None:
    await run(
        clickhouse,
        f"CREATE TABLE {database}.t (a Int32, s String) ENGINE = MergeTree"
        f" PARTITION BY a ORDER BY a {WINDOW}",
    )
    insert = insert_of(database, [{"a": n} for n in range(150)], token="wide")
    for _ in range(2):
        await clickhouse.insert(insert)
    assert await rows(clickhouse, f"SELECT count() FROM {database}.t") == [[150]]


@pytest.mark.parametrize("row", [{"a": 1}, {"a": 1, "s": None}])
async def test_a_default_stands_in_for_a_missing_or_null_value(
    clickhouse: ClickHouse, database: str, row: dict[str, Any]
) -> None:
    await create_table(clickhouse, database, extra=", m Map(String, Int64), l Array(String)")
    columns = (
        ("a", "Int32"),
        ("s", "String"),
        ("m", "Map(String, Int64)"),
        ("l", "Array(String)"),
    )
    defaults = {"s": "concat('it''s ', toString(a))", "m": "map('k', 7)", "l": "['q']"}
    given = {"a": 2, "s": "", "m": {}, "l": []}
    await clickhouse.insert(insert_of(database, [row, given], columns=columns, defaults=defaults))
    assert await rows(clickhouse, f"SELECT * FROM {database}.t ORDER BY a") == [
        [1, "it's 1", {"k": 7}, ["q"]],
        [2, "", {}, []],
    ]


async def test_an_empty_block_is_nothing_to_do(clickhouse: ClickHouse, database: str) -> None:
    summary = await clickhouse.insert(insert_of(database, []))
    assert summary.result_rows == 0


@pytest.mark.parametrize(
    "row", [b'{"a":"x"}\n', b'{"a":1\n', b"not json\n", b'{"a":100}\n', b'{"a":1,"s":[}\n']
)
async def test_bad_rows_are_refused_and_nothing_is_stored(
    clickhouse: ClickHouse, database: str, row: bytes
) -> None:
    await create_table(clickhouse, database, extra=", CONSTRAINT small CHECK a < 100")
    insert = insert_of(database, [b'{"a":1}\n', row], token="bad")
    with pytest.raises(InsertRefusedError) as caught:
        await clickhouse.insert(insert)
    assert caught.value.stored == "no"
    assert await rows(clickhouse, f"SELECT count() FROM {database}.t") == [[0]]
    # The rest of the range goes in under the token of the whole.
    await clickhouse.insert(replace(insert, block=Lines([{"a": 1}])))
    assert await rows(clickhouse, f"SELECT count() FROM {database}.t") == [[1]]


async def test_a_failing_view_is_told_apart_and_mended_by_the_same_token(
    clickhouse: ClickHouse, database: str
) -> None:
    await create_table(clickhouse, database)
    view = f"{database}.v"
    await run(
        clickhouse,
        f"CREATE TABLE {view} (a Int32) ENGINE = MergeTree ORDER BY a {WINDOW}",
        f"CREATE MATERIALIZED VIEW {database}.mv TO {view} AS"
        f" SELECT a + throwIf(a = 7) AS a FROM {database}.t",
    )
    insert = insert_of(database, [{"a": n} for n in range(10)], token="view")
    with pytest.raises(InsertViewError, match=f"{database}.mv") as caught:
        await clickhouse.insert(insert)
    assert (caught.value.stored, caught.value.retriable) == ("unknown", True)
    await run(clickhouse, f"ALTER TABLE {database}.mv MODIFY QUERY SELECT a FROM {database}.t")
    await clickhouse.insert(insert)
    assert await rows(clickhouse, f"SELECT count() FROM {database}.t") == [[10]]
    assert await rows(clickhouse, f"SELECT count() FROM {view}") == [[10]]


@pytest.mark.parametrize(
    "changes",
    [
        {"table": "missing"},
        {"database": "missing"},
        {"columns": (("a", "Int32"), ("missing", "String"))},
        {"columns": (("a", "Int33"),)},
    ],
)
async def test_a_table_that_does_not_fit_is_fatal(
    clickhouse: ClickHouse, database: str, changes: dict[str, Any]
) -> None:
    await create_table(clickhouse, database)
    with pytest.raises(InsertFatalError) as caught:
        await clickhouse.insert(replace(insert_of(database, [{"a": 1}]), **changes))
    assert caught.value.retriable is False


async def test_too_many_parts_can_be_retried(clickhouse: ClickHouse, database: str) -> None:
    await run(
        clickhouse,
        f"CREATE TABLE {database}.t (a Int32, s String) ENGINE = MergeTree ORDER BY a"
        " SETTINGS parts_to_throw_insert = 1, parts_to_delay_insert = 1, max_delay_to_insert = 0",
        f"SYSTEM STOP MERGES {database}.t",
    )
    with pytest.raises(InsertRetriableError) as caught:
        for n in range(4):
            await clickhouse.insert(insert_of(database, [{"a": n}]))
    assert caught.value.clickhouse_code == 252


async def test_an_insert_that_takes_too_long_can_be_retried(
    clickhouse: ClickHouse, database: str
) -> None:
    await create_table(clickhouse, database)
    view = f"CREATE MATERIALIZED VIEW {database}.mv TO {database}.v AS"
    await run(
        clickhouse,
        f"CREATE TABLE {database}.v (a UInt64) ENGINE = Null",
        f"{view} SELECT sum(sipHash64(n.number)) AS a FROM {database}.t"
        " CROSS JOIN numbers(100000000) AS n",
    )
    with pytest.raises((InsertRetriableError, InsertViewError)) as caught:
        await clickhouse.insert(insert_of(database, [{"a": 1}], max_time_s=0.2))
    assert caught.value.retriable
    assert caught.value.clickhouse_code == 159


async def test_a_running_insert_is_found_by_its_id_and_can_be_ended(
    clickhouse: ClickHouse, database: str
) -> None:
    await create_table(clickhouse, database)
    await run(
        clickhouse,
        f"CREATE TABLE {database}.v (a UInt64) ENGINE = Null",
        f"CREATE MATERIALIZED VIEW {database}.mv TO {database}.v AS"
        f" SELECT sum(sipHash64(n.number)) AS a FROM {database}.t CROSS JOIN"
        " numbers(1000000000000) AS n",
    )
    insert = insert_of(database, [{"a": 1}], token="slow", query_id="slow:1-2")
    inserting = asyncio.create_task(clickhouse.insert(insert))
    async with asyncio.timeout(20):
        while not await clickhouse.running("slow:1-2:"):  # noqa: ASYNC110 - the engine tells
            await asyncio.sleep(0.01)
        assert not await clickhouse.running("slow:1-20:")
        await clickhouse.kill("slow:1-2:")
        assert await clickhouse.running("slow:1-2:") == ()
        with pytest.raises((InsertRetriableError, InsertViewError)):
            await inserting


async def test_an_insert_says_which_start_of_the_engine_answered_it(
    clickhouse: ClickHouse, database: str
) -> None:
    await create_table(clickhouse, database)
    summary = await clickhouse.insert(insert_of(database, [{"a": 1}]))
    assert summary.boot_id == clickhouse.boot_id != ""


# --- the engine itself --------------------------------------------------------------------------


async def test_the_engine_answers_a_ping_and_says_what_it_is(clickhouse: ClickHouse) -> None:
    await clickhouse.ping()
    assert isinstance(clickhouse, ClickHouse)
    assert clickhouse.capabilities.can_cancel
    assert clickhouse.boot_id
    current = await clickhouse.fetch(Statement(sql="SELECT currentDatabase()"))
    assert current.body.decode().strip() == clickhouse.database


async def test_statements_see_what_statements_before_them_did(
    clickhouse: ClickHouse, database: str
) -> None:
    await create_table(clickhouse, database)
    await clickhouse.execute(
        Statement(
            sql=f"INSERT INTO {database}.t (a, s) SELECT {{n:Int32}}, {{s:String}}",
            parameters={"n": 5, "s": "it's"},
        )
    )
    assert await rows(clickhouse, f"SELECT * FROM {database}.t") == [[5, "it's"]]
    with pytest.raises(QueryError):
        await run(clickhouse, f"CREATE TABLE {database}.t (a Int8) ENGINE = Memory")
