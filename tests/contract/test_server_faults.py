"""What a server engine says, and what is stored, when the server or the way to it fails."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from typing import Any

import pytest
from msgspec.structs import replace

from shared.clickhouse.contract import Identity, Insert, Run, Statement
from shared.clickhouse.failures import (
    InsertFailureError,
    InsertFatalError,
    InsertRefusedError,
    InsertRetriableError,
)
from shared.clickhouse.server import open_server
from shared.clickhouse.serverengine import ServerClickHouse
from shared.errors import ClickHouseUnavailableError, TooLargeError
from tests.proxy import Proxy
from tests.standin.process import Standin

SHORT = "&timeout_s=2&connect_timeout_s=2"


class Block:
    """A few rows, as lines only."""

    row_count = 3

    def json_lines(self) -> Iterable[bytes]:
        return [b'{"a":1,"s":"x"}\n{"a":2,"s":"y"}\n', b'{"a":3,"s":"z"}\n']


class Columns(Block):
    """The same rows by column."""

    def columns(self) -> Sequence[Sequence[Any]]:
        return [[1, 2, 3], ["x", "y", "z"]]


@pytest.fixture(scope="module")
def standin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Standin]:
    with Standin(tmp_path_factory.mktemp("faults")) as running:
        yield running


@pytest.fixture
async def server(standin: Standin) -> AsyncIterator[ServerClickHouse]:
    standin.clear_faults()
    engine = await open_server(standin.url() + SHORT)
    yield engine
    standin.clear_faults()
    await engine.close()


@pytest.fixture(params=[Columns, Block], ids=["columns", "lines"])
def block(request: pytest.FixtureRequest) -> Block:
    made: Block = request.param()
    return made


async def _insert(server: ServerClickHouse, block: Block) -> Insert:
    """An insert into a table of its own, which a view follows."""
    name = f"t_{uuid.uuid4().hex[:8]}"
    window = "SETTINGS non_replicated_deduplication_window = 100"
    for sql in (
        f"CREATE TABLE {name} (a Int32, s String, __stream UInt64 MATERIALIZED 0,"
        " __partition Int32 MATERIALIZED 0, __offset Int64 MATERIALIZED 0)"
        f" ENGINE = MergeTree ORDER BY a {window}",
        f"CREATE TABLE {name}_v (s String, n UInt64) ENGINE = MergeTree ORDER BY s {window}",
        f"CREATE MATERIALIZED VIEW {name}_mv TO {name}_v AS"
        f" SELECT s, count() AS n FROM {name} GROUP BY s",
    ):
        await server.execute(Statement(sql=sql))
    return Insert(
        database=server.database,
        table=name,
        columns=(("a", "Int32"), ("s", "String")),
        block=block,
        token=f"token:{name}",
        query_id=f"token:{name}",
        identity=Identity(stream=1, partition=0, runs=(Run(10, 3),)),
    )


async def _stored(server: ServerClickHouse, insert: Insert) -> list[int]:
    sql = (
        f"SELECT (SELECT count() FROM {insert.table}),"
        f" (SELECT uniqExact(__offset) FROM {insert.table}),"
        f" (SELECT sum(n) FROM {insert.table}_v)"
    )
    return [int(n) for n in (await server.fetch(Statement(sql=sql))).body.split()]


@pytest.mark.parametrize("action", ["cut", "reset"])
@pytest.mark.parametrize(
    ("kind", "at"),
    # Over HTTP the data is there when the statement is.
    [(Columns, at) for at in ("query", "data", "before", "after")]
    + [(Block, at) for at in ("query", "before", "after")],
)
async def test_a_connection_cut_anywhere_is_repeated_and_stored_once(
    standin: Standin, server: ServerClickHouse, kind: type[Block], action: str, at: str
) -> None:
    insert = await _insert(server, kind())
    standin.fault(action, at=at, table=insert.table)
    with pytest.raises(InsertRetriableError) as caught:
        await server.insert(insert)
    assert caught.value.stored == "unknown"
    await server.insert(insert)
    await server.insert(insert)
    assert await _stored(server, insert) == [3, 3, 3]


@pytest.mark.parametrize("at", ["before", "after"])
async def test_a_server_that_dies_is_found_again_under_another_boot_id(
    standin: Standin, server: ServerClickHouse, block: Block, at: str
) -> None:
    insert = await _insert(server, block)
    first = await server.insert(replace(insert, token="other"))
    assert first.boot_id == server.boot_id
    standin.fault("die", at=at, table=insert.table)
    with pytest.raises(InsertRetriableError) as caught:
        await server.insert(insert)
    assert caught.value.stored == "unknown"
    standin.restart(kill=True)
    again = await server.insert(insert)
    assert again.boot_id not in ("", first.boot_id)
    assert server.boot_id == again.boot_id
    assert (await server.insert(insert)).boot_id == again.boot_id
    assert (await _stored(server, insert))[::2] == [6, 6]


async def test_a_silent_server_is_given_up_and_its_insert_found(
    standin: Standin, server: ServerClickHouse, block: Block
) -> None:
    insert = await _insert(server, block)
    standin.fault("hang", at="before", table=insert.table)
    with pytest.raises(InsertRetriableError) as caught:
        await server.insert(insert)
    assert caught.value.clickhouse_code in (209, 210)
    assert len(await server.running(insert.query_id + ":")) == 1
    async with asyncio.timeout(10):
        await server.kill(insert.query_id + ":")
    assert await server.running(insert.query_id + ":") == ()
    await server.insert(insert)
    assert await _stored(server, insert) == [3, 3, 3]


@pytest.mark.parametrize(
    ("code", "text", "kind"),
    [
        (252, "Too many parts (300)", InsertRetriableError),
        (252, "Too many partitions for single INSERT block", InsertFatalError),
        (241, "Memory limit exceeded", InsertRetriableError),
        (159, "Timeout exceeded", InsertRetriableError),
        (242, "Table is in readonly mode", InsertRetriableError),
        (999, "Coordination error", InsertRetriableError),
        (60, "Table does not exist", InsertFatalError),
        (497, "Not enough privileges", InsertFatalError),
        (469, "Constraint is violated", InsertRefusedError),
        (27, "Cannot parse input", InsertRefusedError),
    ],
)
async def test_every_refusal_has_its_class(
    standin: Standin,
    server: ServerClickHouse,
    block: Block,
    code: int,
    text: str,
    kind: type[InsertFailureError],
) -> None:
    insert = await _insert(server, block)
    standin.fault("refuse", code=code, name="SOME_NAME", text=text, table=insert.table)
    with pytest.raises(kind) as caught:
        await server.insert(insert)
    assert caught.value.clickhouse_code == code
    assert text in caught.value.message
    await server.insert(insert)
    assert await _stored(server, insert) == [3, 3, 3]


async def test_an_answer_that_breaks_off_is_an_error(
    standin: Standin, server: ServerClickHouse
) -> None:
    sql = "SELECT number, toString(number) AS s FROM numbers(3000000)"
    standin.fault("cut", at="answer", kind="select", match="3000000")
    stream = await server.stream(Statement(sql=sql, format="CSV"))
    with pytest.raises(ClickHouseUnavailableError):
        async for _ in stream:
            pass
    await stream.aclose()


async def test_reads_go_on_after_a_restart(standin: Standin, server: ServerClickHouse) -> None:
    for _ in range(3):
        assert (await server.fetch(Statement(sql="SELECT 1"))).body == b"1\n"
        standin.restart()
    assert (await server.fetch(Statement(sql="SELECT 2"))).body == b"2\n"


async def test_a_server_that_is_gone_is_out_of_reach_and_runs_nothing(
    standin: Standin, server: ServerClickHouse, block: Block
) -> None:
    insert = await _insert(server, block)
    standin.kill()
    try:
        with pytest.raises(ClickHouseUnavailableError):
            await server.fetch(Statement(sql="SELECT 1"))
        with pytest.raises(ClickHouseUnavailableError):
            await server.execute(Statement(sql="SYSTEM FLUSH LOGS"))
        with pytest.raises(ClickHouseUnavailableError):
            await server.ping()
        with pytest.raises(InsertRetriableError):
            await server.insert(insert)
        assert await server.running("token:") == ()
        await server.kill("token:")
    finally:
        standin.start()
    await server.insert(insert)
    assert await _stored(server, insert) == [3, 3, 3]


async def test_the_next_host_takes_over_and_is_kept(
    block: Block, tmp_path_factory: pytest.TempPathFactory
) -> None:
    options = ("--replicated",)
    with (
        Standin(tmp_path_factory.mktemp("first"), options=options) as standin,
        Standin(tmp_path_factory.mktemp("second"), options=options) as second,
    ):
        url = standin.url().replace(f"{standin.port}/", f"{standin.port},127.0.0.1:{second.port}/")
        url = url.replace(
            f"http_port={standin.http_port}", f"http_port={standin.http_port},{second.http_port}"
        )
        both = await open_server(url + SHORT)
        try:
            first_boot = (await both.insert(await _insert(both, block))).boot_id
            standin.kill()
            insert = await _insert(both, block)
            assert (await both.insert(insert)).boot_id != first_boot
            assert await _stored(both, insert) == [3, 3, 3]
            assert await both.running("token:") == ()
        finally:
            await both.close()


# Deadlines ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Columns, Block])
async def test_rows_that_come_after_their_deadline_are_refused_and_their_repeat_is_stored(
    standin: Standin, kind: type[Block]
) -> None:
    server = await open_server(standin.url())
    insert = replace(await _insert(server, kind()), columns=(("a", "Int64"), ("s", "String")))
    # The first look at the table's types would make a statement without a deadline.
    server._casts.add((insert.database, insert.table, insert.columns))
    server._pool.submit(lambda client: None).result()
    # What a statement says that was made ten minutes ago, before a worker was suspended.
    server._boots.read_clock(server._boots.server_now_s - 600)
    with pytest.raises(InsertRetriableError, match="came after its deadline"):
        await server.insert(insert)
    assert await _stored(server, insert) == [0, 0, 0]
    await server.insert(insert)
    assert await _stored(server, insert) == [3, 3, 3]
    await server.close()


# A question that is asked again -------------------------------------------------------------------


async def test_a_silent_server_is_asked_once_and_what_it_ran_is_ended(
    standin: Standin, server: ServerClickHouse
) -> None:
    await server.fetch(Statement(sql="SELECT 1"))
    standin.fault("hang", kind="select", match="'silent'")
    with pytest.raises(ClickHouseUnavailableError, match="does not answer"):
        await server.fetch(Statement(sql="SELECT 'silent'"))
    processes = Statement(sql="SELECT count() FROM system.processes WHERE query LIKE '%ilent%'")
    async with asyncio.timeout(10):
        # It finds itself.
        while (await server.fetch(processes)).body != b"1\n":
            pass
    assert [fault["hits"] for fault in standin.faults()] == [1]


async def test_a_query_whose_kept_connection_breaks_is_asked_again_beside_the_first(
    standin: Standin,
) -> None:
    standin.clear_faults()
    with Proxy("127.0.0.1", standin.http_port) as proxy:
        url = standin.url().replace(f"http_port={standin.http_port}", f"http_port={proxy.port}")
        server = await open_server(url)
        try:
            await server.fetch(Statement(sql="SELECT 1"))
            standin.fault("hang", kind="select", match="'twice'")

            def is_hit() -> bool:
                return any(fault["hits"] for fault in standin.faults())

            asking = asyncio.ensure_future(server.fetch(Statement(sql="SELECT 'twice'")))
            async with asyncio.timeout(10):
                while not await asyncio.to_thread(is_hit):
                    pass
            proxy.cut()
            assert (await asking).body == b"twice\n"
        finally:
            standin.clear_faults()
            await server.close()


# Long bindings ------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [10, 9_000, 100_000])
async def test_a_binding_of_any_usual_length_arrives_as_it_is(
    server: ServerClickHouse, size: int
) -> None:
    value = "ä\r\n--'\"\\\t&=+%" * (size // 14 + 1)
    statement = Statement(sql="SELECT {v:String} AS v FORMAT RowBinary", parameters={"v": value})
    found = (await server.fetch(statement)).body
    assert found.endswith(value.encode())
    stream = await server.stream(
        Statement(sql="SELECT {v:String} = {w:String}", parameters={"v": value, "w": value})
    )
    assert b"".join([chunk async for chunk in stream]) == b"1\n"
    await stream.aclose()


async def test_many_bindings_that_are_too_long_for_a_url_together_arrive(standin: Standin) -> None:
    standin.clear_faults()
    server = await open_server(standin.url())
    values = {f"v{i}": str(i) * 20_000 for i in range(100)}
    sql = "SELECT " + " + ".join(f"length({{{name}:String}})" for name in values)
    found = await server.fetch(Statement(sql=sql, parameters=values))
    await server.close()
    assert int(found.body) == sum(map(len, values.values())) > 1 << 20


async def test_a_binding_that_the_server_finds_too_long_is_one_clear_error(
    server: ServerClickHouse,
) -> None:
    statement = Statement(sql="SELECT length({v:String})", parameters={"v": "x" * 200_000})
    with pytest.raises(TooLargeError, match="http_max_field_value_size"):
        await server.fetch(statement)
    assert (await server.fetch(Statement(sql="SELECT 1"))).body == b"1\n"


async def test_a_server_that_is_gone_is_not_named_to_callers(standin: Standin) -> None:
    server = await open_server(standin.url() + SHORT)
    standin.stop()
    try:
        with pytest.raises(ClickHouseUnavailableError) as caught:
            await server.fetch(Statement(sql="SELECT 1"))
    finally:
        standin.start()
    assert "127.0.0.1" not in str(caught.value) and str(standin.http_port) not in str(caught.value)
    # And the first request after it is back is answered.
    assert (await server.fetch(Statement(sql="SELECT 1"))).body == b"1\n"
    await server.close()


async def test_closing_breaks_off_what_the_server_never_answers(standin: Standin) -> None:
    standin.clear_faults()
    engine = await open_server(standin.url() + "&timeout_s=60")
    insert = await _insert(engine, Columns())
    standin.fault("hang", table=insert.table)
    waiting = asyncio.ensure_future(engine.insert(insert))
    async with asyncio.timeout(10):
        while not await engine.running(f"{insert.query_id}:"):
            pass
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await engine.close()
    # The thread that waited is free, long before its own time limit.
    async with asyncio.timeout(5):
        with pytest.raises(InsertRetriableError):
            await waiting
    standin.clear_faults()
