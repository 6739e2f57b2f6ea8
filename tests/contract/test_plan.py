"""Plans on the real engine: what nodes and pipes mean when they read each other."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from query.over import over_result
from query.plan import Planner
from query.planned import Request
from query.with_clause import attach
from shared.clickhouse.contract import Limits, Statement
from shared.clickhouse.embedded import EmbeddedClickHouse
from shared.errors import AppError, NotFoundError, ParameterError, QueryError
from shared.model.resources import Column, Datasource, Node, Pipe
from shared.model.workspace import Workspace


class Bench:
    """A workspace with one table of numbers, and pipes given as SQL."""

    def __init__(self, engine: EmbeddedClickHouse, table: str) -> None:
        self.engine = engine
        self.table = table
        self.pipes: dict[str, Pipe] = {}

    def pipe(self, name: str, **nodes: str) -> None:
        """A pipe of nodes in order; the last one is its endpoint. EV stands for the table."""
        last = list(nodes)[-1]
        self.pipes[name] = Pipe(
            name=name,
            nodes=tuple(
                Node(
                    name=node,
                    sql=sql.replace("EV", self.table),
                    is_template="{" in sql,
                    kind="endpoint" if node == last else "standard",
                )
                for node, sql in nodes.items()
            ),
        )

    def planner(self, max_threads: int = 0) -> Planner:
        columns = (Column(name="n", type="UInt32"), Column(name="s", type="String"))
        datasource = Datasource(name=self.table, columns=columns)
        workspace = Workspace(datasources={self.table: datasource}, pipes=self.pipes)
        return Planner(
            workspace,
            self.engine.parse,
            database=self.engine.database,
            max_threads=max_threads,
        )

    async def ask(self, pipe: str, **arguments: object) -> str:
        planned = await self.planner().plan(self.pipes[pipe], self.pipes[pipe].answer, arguments)
        result = await self.engine.fetch(
            Statement(sql=planned.sql, parameters=planned.bindings, format="TSV", readonly=True)
        )
        return result.body.decode().strip()


@pytest.fixture
async def bench(engine: EmbeddedClickHouse) -> AsyncIterator[Bench]:
    table = "ev" + uuid.uuid4().hex[:8]
    await engine.execute(
        Statement(sql=f"CREATE TABLE {table} (n UInt32, s String) ENGINE = MergeTree ORDER BY n")
    )
    await engine.execute(
        Statement(sql=f"INSERT INTO {table} SELECT number, toString(number % 3) FROM numbers(10)")
    )
    yield Bench(engine, table)
    await engine.execute(Statement(sql=f"DROP TABLE {table}"))


async def test_a_node_reads_nodes_before_it_and_their_needs_come_first(bench: Bench) -> None:
    bench.pipe(
        "p",
        low="SELECT n FROM EV WHERE n < {{Int32(top, 5)}}",
        doubled="SELECT n * 2 AS n FROM low",
        answer="SELECT sum(n) FROM doubled"
        " WHERE n IN (SELECT n * 2 FROM low) AND n > {{Int32(b, 0)}}",
    )
    assert await bench.ask("p") == "20"
    assert await bench.ask("p", top="3", b="2") == "4"


async def test_only_what_the_answer_needs_is_rendered(bench: Bench) -> None:
    bench.pipe("p", unused="SELECT {{Int32(missing)}}", answer="SELECT count() FROM EV")
    assert await bench.ask("p") == "10"


async def test_pipes_read_pipes_and_their_node_names_never_meet(bench: Bench) -> None:
    bench.pipe("inner", endpoint="SELECT n FROM EV WHERE n > {{Int32(a, 7)}}")
    both = "SELECT (SELECT count() FROM inner) + (SELECT count() FROM outer)"
    bench.pipe("both", answer=both)
    bench.pipe(
        "outer", endpoint="SELECT 1 AS one", answer="SELECT sum(n), any(one) FROM inner, endpoint"
    )
    assert await bench.ask("outer") == "17\t1"
    assert await bench.ask("both", a="8") == "2"


async def test_a_node_may_be_named_like_the_table_it_reads(bench: Bench) -> None:
    bench.pipe(
        "p", **{bench.table: "SELECT n FROM EV WHERE n < 4"}, answer="SELECT count() FROM EV"
    )
    assert await bench.ask("p") == "4"


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("WITH big AS (SELECT n FROM low WHERE n > 2) SELECT count() FROM big", "2"),
        ("SELECT n FROM low WHERE n = 1 UNION ALL SELECT n FROM low WHERE n = 1", "1\n1"),
        ("(SELECT count() FROM low) UNION ALL (SELECT count() FROM low)", "5\n5"),
        ("-- a comment\n/* another */ SELECT max(n) FROM low", "4"),
        ("SELECT count() FROM EV WHERE n IN low", "5"),
        ("SELECT count() FROM `low`", "5"),
        ("SELECT a.n FROM low AS a JOIN low AS b ON a.n = b.n + 4", "4"),
        ("SELECT x FROM (SELECT n AS x FROM low) ORDER BY x DESC LIMIT 1", "4"),
    ],
)
async def test_sql_of_every_shape_reads_a_node(bench: Bench, sql: str, expected: str) -> None:
    bench.pipe("p", low="SELECT n FROM EV WHERE n < 5", answer=sql)
    assert await bench.ask("p") == expected


async def test_an_order_at_the_end_is_the_order_of_the_answer(bench: Bench) -> None:
    bench.pipe("p", low="SELECT n FROM EV", answer="SELECT n FROM low ORDER BY n % 3, n DESC")
    assert (await bench.ask("p")).split() == ["9", "6", "3", "0", "7", "4", "1", "8", "5", "2"]


async def test_unknown_names_are_answered_with_the_near_miss(bench: Bench) -> None:
    bench.pipe("p", lowest="SELECT n FROM EV", answer="SELECT n FROM lowst")
    with pytest.raises(NotFoundError, match=r"'lowst' not found. Did you mean 'lowest'\?"):
        await bench.ask("p")


async def test_pipes_that_read_each_other_are_refused(bench: Bench) -> None:
    bench.pipe("a", answer="SELECT * FROM b")
    bench.pipe("b", answer="SELECT * FROM a")
    with pytest.raises(QueryError, match="read each other"):
        await bench.ask("a")


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM file('/etc/passwd', 'LineAsString')",
        "SELECT * FROM url('http://localhost', 'CSV', 'a String')",
        "SELECT * FROM system.tables",
        "SELECT * FROM pipehouse.deployments",
        "SELECT 1 INTO OUTFILE '/tmp/x'",
        "SELECT 1; SELECT 2",
        "DROP TABLE EV",
        "INSERT INTO EV VALUES (1, '')",
        "SELECT * FROM EV SETTINGS max_memory_usage = 0",
    ],
)
async def test_an_endpoint_may_not_do_what_free_sql_may_not(bench: Bench, sql: str) -> None:
    bench.pipe("p", answer=sql)
    with pytest.raises(AppError):
        await bench.ask("p")


async def test_every_bad_parameter_of_a_node_comes_in_one_answer(bench: Bench) -> None:
    bench.pipe("p", answer="SELECT {{Int32(a)}}, {{Date(b)}}, {{String(c)}}")
    with pytest.raises(ParameterError) as raised:
        await bench.ask("p", a="x", b="2024-02-30")
    assert [e["parameter"] for e in raised.value.errors] == ["a", "b", "c"]


async def test_the_bad_parameters_of_all_nodes_come_in_one_answer(bench: Bench) -> None:
    bench.pipe("other", answer="SELECT {{Date(c)}} AS c")
    bench.pipe(
        "p",
        unused="SELECT {{Int32(never)}}",
        low="SELECT n FROM EV WHERE n < {{Int32(a)}}",
        answer="SELECT n, {{Int32(b)}} FROM low, other",
    )
    with pytest.raises(ParameterError) as raised:
        await bench.ask("p", b="x", c="2024-02-30")
    assert {e["parameter"] for e in raised.value.errors} == {"a", "b", "c"}
    assert "Parameter 'a' is required." in raised.value.message


@settings(
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(one=st.text(min_size=1, max_size=30), other=st.text(min_size=1, max_size=30))
async def test_two_values_give_the_same_text_and_come_back_unchanged(
    bench: Bench, one: str, other: str
) -> None:
    bench.pipe("p", answer="SELECT hex({{String(v)}}) {% if defined(w) %}, {{w}}{% end %}")
    pipe = bench.pipes["p"]
    first, second = [
        await bench.planner().plan(pipe, pipe.answer, {"v": value}) for value in (one, other)
    ]
    assert first.sql == second.sql
    if "\ud800" <= max(one) <= "\udfff":
        return
    assert bytes.fromhex(await bench.ask("p", v=one)) == one.encode()


async def test_what_templates_ask_for_goes_with_the_statement(bench: Bench) -> None:
    bench.pipe(
        "p",
        low="SELECT n FROM EV WHERE n < {{Int32(top, 5)}}{{cache_ttl('5m')}}{{max_threads(3)}}",
        answer="SELECT count() FROM low WHERE n > {{Int32(b, 0)}}"
        "{{cache_ttl('1m')}}{{activate('optimize_aggregation_in_order')}}{{disable('analyzer')}}",
    )
    pipe = bench.pipes["p"]
    planned = await bench.planner().plan(pipe, pipe.answer, {})
    assert planned.cache_ttl_s == 60
    assert planned.settings == {"max_threads": 3, "optimize_aggregation_in_order": 1}
    statement = planned.statement(
        "TSV", limits=Limits(max_time_s=1), settings={"max_threads": 9, "final": 1}
    )
    assert statement.settings == {
        "max_threads": 3,
        "optimize_aggregation_in_order": 1,
        "final": 1,
    }
    assert statement.readonly and statement.limits.max_time_s == 1


@pytest.mark.parametrize(
    ("sql", "threads", "expected"),
    [
        ("SELECT 1", 4, "SELECT 1"),
        ("SELECT 1{{max_threads(3)}}", 3, "SELECT 1"),
        ("SELECT 1{{max_threads(9)}}{{max_threads(0)}}", 4, "SELECT 1"),
        ("SELECT 1 SETTINGS max_threads = 3", 4, "SELECT 1 SETTINGS max_threads = 3"),
        (
            "SELECT 1 SETTINGS final=1,max_threads='99', join_use_nulls = 1",
            4,
            "SELECT 1 SETTINGS final=1,max_threads=4, join_use_nulls = 1",
        ),
        (
            "SELECT 'SETTINGS max_threads = 9' FROM (SELECT 1 SETTINGS max_threads = 2)"
            " -- SETTINGS max_threads = 9\n settings max_threads = 9",
            4,
            "SELECT 'SETTINGS max_threads = 9' FROM (SELECT 1 SETTINGS max_threads = 2)"
            " -- SETTINGS max_threads = 9\n settings max_threads = 4",
        ),
        ("SELECT 1 SETTINGS max_threads = 0", 4, "SELECT 1 SETTINGS max_threads = 4"),
        ("SELECT 1 SETTINGS max_threads = 'auto'", 4, "SELECT 1 SETTINGS max_threads = 4"),
    ],
)
async def test_nobody_gets_more_threads_than_a_query_may_have(
    bench: Bench, sql: str, threads: int, expected: str
) -> None:
    bench.pipe("p", answer=sql)
    pipe = bench.pipes["p"]
    planner = bench.planner(max_threads=4)
    planned = await planner.plan(pipe, pipe.answer, {})
    assert (planned.settings["max_threads"], planned.sql) == (threads, expected)
    own = await planner.plan_sql(f"% {sql}" if "{{" in sql else sql, Request())
    assert (own.settings["max_threads"], own.sql) == (threads, expected)
    # Without a bound nothing is touched.
    planned = await bench.planner().plan_sql("SELECT 1 SETTINGS max_threads = 99", Request())
    assert (planned.settings, planned.sql[-2:]) == ({}, "99")


@pytest.mark.parametrize("setting", ["`max_threads` = 9", "max_threads /* so */ = 9"])
async def test_threads_that_are_asked_for_in_an_odd_way_are_refused(
    bench: Bench, setting: str
) -> None:
    with pytest.raises(QueryError, match="max_threads, of which 4 are allowed"):
        await bench.planner(max_threads=4).plan_sql(f"SELECT 1 SETTINGS {setting}", Request())


async def test_sql_over_a_result_gets_no_more_threads_either(bench: Bench) -> None:
    bench.pipe("p", answer="SELECT n FROM EV")
    pipe = bench.pipes["p"]
    planned = await bench.planner(max_threads=4).plan(pipe, pipe.answer, {})
    sql = "SELECT count() FROM _ SETTINGS max_threads = 9"
    over = await over_result(bench.engine.parse, planned, sql, max_threads=4)
    assert over.sql.endswith("max_threads = 4")


@pytest.mark.parametrize("feature", ["analyzer", "parallel_replicas"])
async def test_whatever_a_template_may_activate_the_engine_takes(
    bench: Bench, feature: str
) -> None:
    bench.pipe("p", answer=f"SELECT count() FROM EV{{{{activate('{feature}')}}}}")
    pipe = bench.pipes["p"]
    planned = await bench.planner().plan(pipe, pipe.answer, {})
    result = await bench.engine.fetch(planned.statement("TSV", limits=Limits()))
    assert result.body == b"10\n"


async def test_clocks_and_chance_in_any_node_make_the_answer_volatile(bench: Bench) -> None:
    bench.pipe("still", answer="SELECT n FROM EV")
    bench.pipe("inner", answer="SELECT now() AS t")
    bench.pipe("moving", answer="SELECT t FROM inner")
    for name, expected in (("still", False), ("moving", True)):
        pipe = bench.pipes[name]
        planned = await bench.planner().plan(pipe, pipe.answer, {})
        assert planned.is_volatile is expected


async def test_a_node_does_not_hide_a_table_from_the_pipes_it_reads(bench: Bench) -> None:
    bench.pipe("inner", answer="SELECT count() AS c FROM EV")
    bench.pipe(
        "outer",
        **{bench.table: "SELECT n FROM EV WHERE n < 4"},
        answer="SELECT (SELECT count() FROM EV), c FROM inner",
    )
    assert await bench.ask("outer") == "4\t10"


async def test_a_with_of_a_node_does_not_hide_a_table_from_the_pipes_it_reads(
    bench: Bench,
) -> None:
    bench.pipe("inner", answer="SELECT count() AS c FROM EV")
    bench.pipe(
        "outer",
        answer="WITH EV AS (SELECT n FROM EV WHERE n < 4)"
        " SELECT (SELECT count() FROM EV), c FROM inner",
    )
    assert await bench.ask("outer") == "4\t10"


async def test_placeholders_that_no_template_wrote_are_refused(bench: Bench) -> None:
    bench.pipe("p", one="SELECT {{Int32(a, 5)}} AS x", answer="SELECT x, {p1:Int32} FROM one")
    with pytest.raises(QueryError, match=r"placeholder '\{p1\}', which nothing binds"):
        await bench.ask("p")


async def test_sql_over_a_result_cannot_change_what_the_endpoint_reads(bench: Bench) -> None:
    bench.pipe("p", low="SELECT n FROM EV WHERE n < 5", answer="SELECT n FROM low")
    pipe = bench.pipes["p"]
    planned = await bench.planner().plan(pipe, pipe.answer, {})
    for name in (bench.table, "low"):
        sql = f"WITH {name} AS (SELECT 100 AS n) SELECT max(n) FROM _"
        with pytest.raises(QueryError, match=f"'{name}' is read within a pipe"):
            await over_result(bench.engine.parse, planned, sql)
    outer = "SELECT (SELECT max(n) FROM _) FROM values('low Array(UInt32)', [100])"
    bench.pipe("r", low="SELECT n FROM EV WHERE n < 5", answer="SELECT n FROM EV WHERE n IN low")
    other = await bench.planner().plan(bench.pipes["r"], bench.pipes["r"].answer, {})
    over = await over_result(bench.engine.parse, other, outer)
    with pytest.raises(QueryError, match="parent scope"):
        await bench.engine.fetch(over.statement("TSV", limits=Limits()))
    over = await over_result(bench.engine.parse, planned, "SELECT max(n), now() > 0 FROM _")
    assert over.is_volatile
    assert (await bench.engine.fetch(over.statement("TSV", limits=Limits()))).body == b"4\t1\n"


def test_ctes_join_a_with_that_is_there() -> None:
    assert attach({}, "SELECT 1") == "SELECT 1"
    assert attach({"a": "SELECT 1"}, " with b as (select 2) select 3").startswith("WITH `a` AS")
    assert "SELECT * FROM (" in attach({"a": "SELECT 1"}, "WITH RECURSIVE x AS (SELECT 1) SELECT 1")
