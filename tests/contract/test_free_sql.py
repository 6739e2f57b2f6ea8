"""Free SQL under a token: what it reads, and the attacks that read nothing more.

Every attack runs twice: with the rows that the token may not see, and without them. It is refused
or answers the same both times.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest

from query.plan import Planner
from query.planned import Planned, Request
from shared.auth.tokens import ADMIN, DATASOURCES_READ, PIPES_READ, Grant, Scope
from shared.clickhouse.contract import Limits, Statement
from shared.errors import (
    AppError,
    NotFoundError,
    PermissionDeniedError,
    QueryError,
    TooLargeError,
    UserError,
)
from shared.model.resources import Column, Datasource, Node, Pipe
from shared.model.workspace import SecretValues, Workspace
from tests.contract.engines import AnyEngine, Target, either, open_target, target

__all__ = ["either", "target"]

TABLES = [
    "CREATE TABLE orders (org Int32, v Int32, note String) ENGINE = MergeTree PARTITION BY org"
    " ORDER BY (org, v)",
    "CREATE TABLE users (org Int32, name String) ENGINE = ReplacingMergeTree ORDER BY org",
    "CREATE TABLE members (person Int32, org Int32) ENGINE = MergeTree ORDER BY person",
    "CREATE TABLE secrets (org Int32, word String) ENGINE = MergeTree ORDER BY org",
    "CREATE TABLE orders_quarantine (org Nullable(String), v Nullable(String))"
    " ENGINE = MergeTree ORDER BY tuple()",
    "CREATE TABLE daily (org Int32, total Int64) ENGINE = SummingMergeTree ORDER BY org",
    "CREATE MATERIALIZED VIEW to_daily TO daily AS"
    " SELECT org, sum(v) AS total FROM orders GROUP BY org",
    "INSERT INTO orders SELECT 1, number, 'mine' FROM numbers(5)",
    "INSERT INTO users SELECT number, concat('user', toString(number)) FROM numbers(1, 2)",
    "INSERT INTO members VALUES (1, 1), (2, 2)",
]
FOREIGN = [
    "INSERT INTO orders SELECT 2, 1000 + number, 'FOREIGN' FROM numbers(7)",
    "INSERT INTO secrets VALUES (1, 'SECRET'), (2, 'SECRET')",
    "INSERT INTO orders_quarantine VALUES ('2', 'FOREIGN')",
]
DATABASE = "attacked"


def _pipe(name: str, sql: str, kind: str = "endpoint", **options: str) -> Pipe:
    node = Node(
        name="answer",
        sql=sql,
        kind=kind,  # type: ignore[arg-type]
        is_template="{{" in sql,
        options=tuple(options.items()),
    )
    return Pipe(name=name, nodes=(node,))


def _workspace() -> Workspace:
    columns = (Column(name="org", type="Int32"),)
    names = ("orders", "users", "members", "secrets", "daily")
    pipes = (
        _pipe("totals", "SELECT org, count() AS c, max(v) AS top FROM orders GROUP BY org"),
        _pipe("own", "SELECT v FROM orders WHERE org IN members"),
        _pipe(
            "of_member",
            "SELECT name FROM users WHERE org IN (SELECT org FROM members WHERE"
            " person = {{Int32(person)}})",
        ),
        _pipe("greeting", "SELECT {{tb_secret('word')}} = 'x' AS good, {{Int32(person, 1)}} AS p"),
        _pipe("in_table", "SELECT name FROM users WHERE (1, org) IN members"),
        _pipe("hidden", "SELECT word FROM secrets"),
        _pipe("rejected", "SELECT * FROM orders_quarantine"),
        _pipe("chosen", "SELECT count() AS c FROM {{table(t, 'secrets')}}"),
        _pipe("to_daily", "SELECT org, sum(v) AS total FROM orders GROUP BY org", "materialized",
              DATASOURCE="daily"),
    )  # fmt: skip
    return Workspace(
        datasources={name: Datasource(name=name, columns=columns) for name in names},
        pipes={pipe.name: pipe for pipe in pipes},
        secrets=SecretValues(word="x"),
    )


def _reads(name: str, condition: str | None = None) -> Scope:
    return Scope(type=DATASOURCES_READ, resource=name, filter=condition)


def _calls(name: str, **fixed: object) -> Scope:
    return Scope(type=PIPES_READ, resource=name, fixed_params=fixed)


TENANT = Grant(
    name="tenant",
    scopes=(
        _reads("orders", "org = 1 -- the tenant's own"),
        _reads("daily", "org = 1"),
        _reads("users"),
        _calls("totals"),
        _calls("of_member", person="1"),
        _calls("greeting"),
        _calls("in_table"),
        _calls("rejected"),
        _calls("chosen"),
        _calls("to_daily"),
    ),
)
ADMINISTRATOR = Grant(name="admin", scopes=(Scope(type=ADMIN),))


class Rig:
    """An engine with a database whose rows belong to two tenants."""

    def __init__(self, engine: AnyEngine) -> None:
        self.engine = engine
        self.planner = Planner(_workspace(), engine.parse, database=engine.database)

    async def plan(self, sql: str, grant: Grant = TENANT, **arguments: object) -> Planned:
        return await self.planner.plan_sql(sql, Request(arguments=arguments, grant=grant))

    async def run(self, planned: Planned) -> str:
        result = await self.engine.fetch(planned.statement("TSV", limits=Limits(max_time_s=5)))
        return result.body.decode().strip()

    async def ask(self, sql: str, grant: Grant = TENANT, **arguments: object) -> str:
        return await self.run(await self.plan(sql, grant, **arguments))

    async def call(self, name: str, grant: Grant = TENANT, **arguments: object) -> str:
        pipe = self.planner.workspace.pipes[name]
        return await self.run(await self.planner.plan(pipe, pipe.answer, arguments, grant=grant))

    async def outcome(self, sql: str, grant: Grant = TENANT) -> str:
        """The answer, or that it was refused; which rows an error shows does not count as none."""
        try:
            return await self.ask(sql, grant, person="2", t="secrets")
        except AppError as error:
            return f"refused: {type(error).__name__} {error.message}"

    async def execute(self, *statements: str) -> None:
        for sql in statements:
            await self.engine.execute(Statement(sql=sql))


HARMLESS: Mapping[str, str] = {
    "SELECT count(), max(v) FROM orders": "5\t4",
    "SELECT count() FROM orders AS o FINAL": "refused",
    "SELECT name FROM users FINAL ORDER BY name": "user1\nuser2",
    "SELECT org, c FROM totals": "1\t5",
    "SELECT max(o.v), any(u.name) FROM orders AS o JOIN users AS u ON u.org = o.org": "4\tuser1",
    "WITH mine AS (SELECT * FROM orders WHERE v > 2) SELECT count() FROM mine": "2",
    "SELECT count() FROM orders WHERE org IN (SELECT org FROM users)": "5",
    "SELECT count() FROM orders WHERE v > 1": "3",
    "SELECT name FROM of_member": "user1",
    "SELECT total FROM daily": "10",
    "% SELECT count() FROM orders WHERE v = {{Int32(v, 3)}}": "1",
    "% SELECT count() FROM {{table('orders')}}": "5",
    "SELECT count() FROM numbers(3)": "3",
    "FROM orders SELECT count()": "5",
    "(SELECT count() FROM totals) UNION ALL (SELECT count() FROM totals)": "1\n1",
    "WITH RECURSIVE r AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM r WHERE i < 3)"
    " SELECT sum(i) + (SELECT count() FROM totals) FROM r": "7",
}

FILTER_ATTACKS = [
    "SELECT * FROM orders",
    "SELECT count() FROM orders",
    "SELECT count() FROM orders WHERE 1 = 1 OR org = 2",
    "SELECT min(org), max(org) FROM orders",
    "SELECT DISTINCT org FROM orders ORDER BY org",
    "SELECT org FROM orders ORDER BY org DESC, v DESC LIMIT 1",
    "SELECT org, count() FROM orders GROUP BY org WITH TOTALS",
    "SELECT count() FROM orders WHERE NOT (org = 1)",
    "SELECT count() FROM `orders`",
    'SELECT count() FROM "orders"',
    "SELECT count() FROM/**/orders/**/AS/**/x",
    "SELECT count() FROM orders -- AS users",
    "SELECT count() FROM \u200borders",
    "SELECT count() FROM ORDERS",
    "SELECT count() FROM orders AS users",
    "SELECT count() FROM users AS orders",
    f"SELECT count() FROM orders AS `{DATABASE}.users`",
    f"SELECT max(total) FROM daily AS `{DATABASE}.orders`",
    f"SELECT max(org) FROM daily AS `{DATABASE}.orders`, users AS `{DATABASE}.daily`",
    f"SELECT count() FROM {DATABASE}.orders",
    f"SELECT count() FROM `{DATABASE}`.`orders`",
    f"SELECT count() FROM `{DATABASE}.orders`",
    "WITH orders AS (SELECT * FROM orders) SELECT count() FROM orders",
    "WITH a AS (SELECT * FROM orders), orders AS (SELECT * FROM a) SELECT count() FROM orders",
    "SELECT count() FROM (WITH orders AS (SELECT * FROM orders) SELECT * FROM orders)",
    "WITH orders AS (SELECT 1 AS org) SELECT * FROM (SELECT count() FROM orders)",
    "WITH x AS (SELECT count() AS c FROM orders) SELECT (SELECT c FROM x)",
    "WITH (SELECT count() FROM orders) AS c SELECT c",
    "WITH RECURSIVE orders AS (SELECT * FROM orders UNION ALL SELECT * FROM orders WHERE 0)"
    " SELECT count() FROM orders",
    "SELECT * FROM (SELECT * FROM (SELECT * FROM orders))",
    "SELECT (SELECT max(v) FROM orders)",
    "SELECT exists(SELECT 1 FROM orders WHERE org = 2)",
    "SELECT 1 IN (SELECT org - 1 FROM orders)",
    "SELECT (2, 1000, 'FOREIGN') IN orders",
    "SELECT (2, 1000, 'FOREIGN') GLOBAL IN orders",
    "SELECT arrayExists(x -> (x, 1000, 'FOREIGN') IN orders, [1, 2])",
    "SELECT count() FROM users WHERE org IN (SELECT org FROM orders)",
    "SELECT u.name, o.v FROM users u LEFT JOIN orders o ON o.org = u.org ORDER BY ALL",
    "SELECT u.name, o.v FROM orders o RIGHT JOIN users u ON o.org = u.org ORDER BY ALL",
    "SELECT count() FROM users u FULL JOIN orders o ON o.org = u.org",
    "SELECT count() FROM users CROSS JOIN orders",
    "SELECT count() FROM users, orders",
    "SELECT count() FROM users ASOF JOIN orders USING (org, org)",
    "SELECT count() FROM orders a JOIN orders b ON a.v = b.v + 1",
    "SELECT count() FROM orders UNION ALL SELECT count() FROM orders",
    "SELECT org FROM orders EXCEPT SELECT 1",
    "SELECT org FROM orders INTERSECT SELECT 2",
    "SELECT count() FROM users UNION ALL (SELECT count() FROM orders)",
    "SELECT count() FROM orders ARRAY JOIN [1, 2] AS x",
    "SELECT count() FROM orders SAMPLE 1",
    "SELECT count() FROM orders FINAL",
    "SELECT count() FROM orders PREWHERE org = 2",
    "SELECT sum(v) OVER () FROM orders LIMIT 1",
    "SELECT count() FROM orders PREWHERE throwIf(note = 'FOREIGN') = 0",
    "SELECT count() FROM (SELECT * FROM orders PREWHERE throwIf(note = 'FOREIGN') = 0)",
    "SELECT count() FROM orders WHERE throwIf(note = 'FOREIGN') = 0",
    "SELECT count() FROM orders WHERE toInt32(replaceOne(note, 'mine', '1')) = 1",
    "SELECT count() FROM (SELECT * FROM orders) WHERE throwIf(note = 'FOREIGN') = 0",
    "SELECT count() FROM orders o JOIN users u USING (org) WHERE throwIf(o.note = 'FOREIGN') = 0",
    "SELECT v FROM orders ORDER BY throwIf(note = 'FOREIGN'), v",
    "SELECT count() FROM orders GROUP BY throwIf(note = 'FOREIGN')",
    "SELECT sum(throwIf(note = 'FOREIGN')) FROM orders",
    "SELECT count() FROM orders ARRAY JOIN [throwIf(note = 'FOREIGN')] AS x",
    "SELECT v FROM orders ORDER BY v LIMIT 1 BY throwIf(note = 'FOREIGN')",
    "SELECT * FROM numbers(toUInt64(assumeNotNull((SELECT count() FROM orders))))",
    "SELECT number FROM numbers(20) LIMIT (SELECT count() FROM orders)",
    "SELECT number FROM numbers(20) LIMIT 20 OFFSET (SELECT count() FROM orders)",
    "SELECT number FROM numbers(3) ORDER BY number WITH FILL TO (SELECT max(v) FROM orders)",
    "SELECT * APPLY (x -> (SELECT max(v) FROM orders)) FROM users",
    "SELECT COLUMNS('.*') FROM orders",
    "SELECT _table, _part, _partition_id, count() FROM orders GROUP BY ALL",
    "SELECT _part_offset FROM orders ORDER BY ALL DESC LIMIT 1",
    "SELECT count() FROM orders SETTINGS additional_table_filters = {}",
    f"SELECT count() FROM orders SETTINGS additional_table_filters = {{'{DATABASE}.orders': '1'}}",
    "SELECT count() FROM (SELECT * FROM orders SETTINGS additional_table_filters = {})",
    "SELECT count() FROM orders SETTINGS additional_table_filters = DEFAULT",
    "SELECT count() FROM orders SETTINGS enable_analyzer = 0",
    "SELECT count() FROM orders SETTINGS enable_parallel_replicas = 1",
    "SELECT count() FROM orders SETTINGS optimize_trivial_count_query = 1",
    "SELECT count() FROM orders SETTINGS final = 1",
    "SELECT count() FROM orders SETTINGS readonly = 0",
    "% {{activate('parallel_replicas')}} SELECT count() FROM orders",
    "% {{disable('analyzer')}} SELECT count() FROM orders",
    "% SELECT count() FROM {{table(t, 'orders')}}",
    "% SELECT count() FROM {{column(x, 'orders')}}",
    "% SELECT count() FROM {{symbol('orders')}}",
    "% SELECT count() FROM orders AS {{symbol('users')}}",
    f"% SELECT max(org) FROM daily AS {{{{symbol('{DATABASE}.orders')}}}}",
    "% {% if 1 %}SELECT count() FROM orders{% end %} -- {{String(person)}}",
    "SELECT count() FROM merge(currentDatabase(), 'orders')",
    "SELECT count() FROM merge('orders')",
    "SELECT count() FROM remote('127.0.0.1', currentDatabase(), 'orders')",
    "SELECT count() FROM cluster('default', currentDatabase(), 'orders')",
    "SELECT count() FROM view(SELECT * FROM orders)",
    "SELECT count() FROM loop(orders) LIMIT 1",
    "SELECT count() FROM mergeTreeIndex(currentDatabase(), 'orders')",
    "SELECT count() FROM dictionary('orders')",
    "SELECT dictGet('orders', 'note', 2)",
    "SELECT joinGet('orders', 'note', 2)",
    "SELECT count() FROM executable('x', 'TSV', 'a String')",
    "SELECT sum(rows) FROM system.parts WHERE table = 'orders'",
    "SELECT count() FROM INFORMATION_SCHEMA.TABLES",
    "SELECT * FROM to_daily ORDER BY org",
    "WITH to_daily AS (SELECT * FROM to_daily) SELECT * FROM to_daily ORDER BY org",
    "SELECT * FROM (WITH to_daily AS (SELECT * FROM to_daily) SELECT * FROM to_daily)",
    f"SELECT * FROM {DATABASE}.to_daily",
    "SELECT * FROM totals",
    "SELECT * FROM orders_quarantine",
    "SELECT * FROM rejected",
    "WITH totals AS (SELECT * FROM totals) SELECT * FROM totals",
    "DESCRIBE orders",
    "SELECT 1; SELECT * FROM orders",
]

GRANT_ATTACKS = [
    "SELECT * FROM secrets",
    "SELECT * FROM `secrets`",
    "SELECT * FROM/**/secrets",
    f"SELECT * FROM {DATABASE}.secrets",
    "SELECT * FROM users, secrets",
    "SELECT * FROM users JOIN secrets USING (org)",
    "SELECT (SELECT any(word) FROM secrets)",
    "SELECT (1, 'SECRET') IN secrets",
    "SELECT 1 GLOBAL IN secrets",
    "SELECT 1 UNION ALL SELECT org FROM secrets",
    "WITH users AS (SELECT * FROM secrets) SELECT * FROM users",
    "WITH secrets AS (SELECT * FROM secrets) SELECT * FROM secrets",
    "SELECT * FROM (WITH secrets AS (SELECT * FROM secrets) SELECT * FROM secrets)",
    "WITH secrets AS (SELECT 1 AS a) SELECT * FROM (WITH b AS (SELECT * FROM secrets) SELECT *"
    " FROM b) UNION ALL SELECT * FROM secrets",
    "WITH secrets AS x SELECT (1, 'SECRET') IN x",
    "SELECT 1 AS secrets, (1, 'SECRET') IN secrets",
    "WITH 1 AS secrets SELECT count() FROM secrets",
    "SELECT exists(SELECT * FROM secrets)",
    "SELECT * FROM numbers(toUInt64(assumeNotNull((SELECT count() FROM secrets))))",
    "SELECT * FROM hidden",
    "SELECT * FROM merge(currentDatabase(), '.*')",
    "SELECT * FROM merge(currentDatabase(), '^secrets$')",
    "SELECT * FROM chosen",
    "% SELECT * FROM {{table('secrets')}}",
    "% SELECT * FROM {{table(t)}}",
    "% SELECT * FROM {{symbol(t)}}",
    "% SELECT * FROM {{column(t, 'users')}}",
    "% SELECT {{tb_secret('word')}}",
    "% SELECT {{tb_var('word')}}",
    "SELECT {p1:String} FROM greeting",
    "SELECT {p2:Int32} FROM greeting",
    "SELECT 1 FROM greeting SETTINGS join_algorithm = {p1:String}",
    "SELECT 1 AS {p1:Identifier} FROM greeting",
    "SELECT {p1:Identifier} FROM greeting",
    "SELECT * FROM {t:Identifier}",
    "WITH members AS (SELECT 1 AS person, arrayJoin([1, 2]) AS org) SELECT * FROM of_member",
    "SELECT * FROM (WITH members AS (SELECT 1 AS person, 2 AS org) SELECT * FROM of_member)",
    "WITH users AS (SELECT 1 AS org, word AS name FROM hidden) SELECT * FROM of_member",
    "WITH [(1, 2)] AS members SELECT * FROM of_member",
    "SELECT * FROM of_member, (SELECT 1 AS person, 2 AS org) AS members",
    "SELECT arrayMap(members -> (SELECT any(name) FROM in_table), [[(1, 2)]])",
    "SELECT (SELECT any(name) FROM in_table) FROM values('members Array(Tuple(Int32, Int32))',"
    " [(1, 2)])",
    "SELECT members, (SELECT any(name) FROM in_table)"
    " FROM values('members Array(Tuple(Int32, Int32))', [(1, 2)])",
    "WITH x AS (SELECT any(name) FROM in_table) SELECT *, members"
    " FROM values('members Array(Tuple(Int32, Int32))', [(1, 2)]), x",
    "SELECT (WITH [(1, 2)] AS members SELECT any(name) FROM in_table)",
    "SELECT hasColumnInTable(currentDatabase(), 'secrets', 'word')",
    "SELECT file('/etc/passwd')",
    "SELECT * FROM url('http://127.0.0.1/', 'CSV', 'a String')",
    "INSERT INTO users SELECT 3, word FROM secrets",
    "CREATE TABLE copy ENGINE = Memory AS SELECT * FROM secrets",
    "EXPLAIN SELECT * FROM secrets",
    "SHOW CREATE TABLE secrets",
]


@pytest.fixture(scope="module")
def outcomes(target: Target) -> Mapping[str, tuple[str, str, str]]:
    """By SQL: the answer without rows of others, with them, and the administrator's with them."""

    async def collect() -> dict[str, tuple[str, str, str]]:
        async with open_target(target) as engine:
            rig = Rig(engine)
            await rig.execute(*TABLES)
            attacks = [sql.replace(DATABASE, engine.database) for sql in _ATTACKS]
            alone = [await rig.outcome(sql) for sql in attacks]
            await rig.execute(*FOREIGN)
            seen = [await rig.outcome(sql) for sql in attacks]
            all_seen = [await rig.outcome(sql, ADMINISTRATOR) for sql in attacks]
        return dict(zip(_ATTACKS, zip(alone, seen, all_seen, strict=True), strict=True))

    return asyncio.run(collect())


@pytest.fixture
async def rig(either: AnyEngine, outcomes: Mapping[str, object]) -> Rig:
    """Over the engine with the rows of both tenants."""
    return Rig(either)


_ATTACKS = [*FILTER_ATTACKS, *GRANT_ATTACKS]


@pytest.mark.parametrize("sql", _ATTACKS)
def test_an_attack_shows_nothing_that_is_not_the_tokens(
    outcomes: Mapping[str, tuple[str, str, str]], sql: str
) -> None:
    alone, seen, _ = outcomes[sql]
    # The branches of a UNION ALL come in any order.
    assert sorted(seen.split("\n")) == sorted(alone.split("\n"))
    assert "FOREIGN" not in seen and "SECRET" not in seen and "user2" not in seen.split("\n")


def test_the_attacks_would_show_something_to_an_administrator(
    outcomes: Mapping[str, tuple[str, str, str]],
) -> None:
    shown = [sql for sql, (_, seen, all_seen) in outcomes.items() if all_seen != seen]
    assert len(shown) >= 60
    answered = [sql for sql, (_, seen, _) in outcomes.items() if "refused" not in seen]
    assert len(answered) >= 40


async def test_a_pipe_that_reads_a_table_right_of_in_can_be_read(
    rig: Rig, outcomes: Mapping[str, tuple[str, str, str]]
) -> None:
    assert await rig.ask("SELECT (SELECT any(name) FROM in_table) FROM users LIMIT 1") == "user1"


@pytest.mark.parametrize("sql", HARMLESS)
async def test_what_a_token_may_read_is_answered(
    rig: Rig, outcomes: Mapping[str, tuple[str, str, str]], sql: str
) -> None:
    assert (await rig.outcome(sql)).startswith(HARMLESS[sql])


async def test_an_unknown_name_is_404_with_a_near_miss_that_may_be_read(rig: Rig) -> None:
    with pytest.raises(NotFoundError, match=r"'order' not found. Did you mean 'orders'\?"):
        await rig.plan("SELECT * FROM order")
    with pytest.raises(NotFoundError) as caught:
        await rig.plan("SELECT * FROM secret")
    assert caught.value.hint is None


async def test_what_is_not_granted_is_403_with_the_scope(rig: Rig) -> None:
    with pytest.raises(PermissionDeniedError, match="scope DATASOURCES:READ:secrets"):
        await rig.plan("SELECT * FROM secrets")
    with pytest.raises(PermissionDeniedError, match="scope PIPES:READ:hidden"):
        await rig.plan("SELECT * FROM hidden")


async def test_a_pipe_in_free_sql_has_the_parameters_that_its_token_fixes(
    rig: Rig, outcomes: object
) -> None:
    assert await rig.ask("SELECT name FROM of_member", person="2") == "user1"
    assert await rig.ask("SELECT name FROM of_member", ADMINISTRATOR, person="2") == "user2"
    assert await rig.ask("SELECT p FROM greeting", person="2") == "2"


async def test_row_filters_hold_in_endpoints_too(rig: Rig, outcomes: object) -> None:
    assert await rig.call("totals") == "1\t5\t4"
    assert await rig.call("to_daily") == "1\t10"
    assert await rig.call("totals", ADMINISTRATOR) != "1\t5\t4"


async def test_quarantined_rows_of_a_filtered_data_source_are_not_read_by_endpoints(
    rig: Rig,
) -> None:
    with pytest.raises(PermissionDeniedError, match="'orders_quarantine' cannot be read"):
        await rig.call("rejected")
    assert "FOREIGN" in await rig.call("rejected", ADMINISTRATOR)


async def test_a_caller_chooses_tables_that_the_token_may_read_only(
    rig: Rig, outcomes: object
) -> None:
    assert await rig.call("chosen", t="users") == "2"
    assert await rig.call("chosen") == "2"  # the template's own default
    with pytest.raises(UserError, match="not 'secrets'"):
        await rig.call("chosen", t="secrets")


async def test_conditions_of_several_scopes_are_alternatives(rig: Rig, outcomes: object) -> None:
    both = Grant(name="both", scopes=(_reads("orders", "org = 1"), _reads("orders", "v = 1000")))
    assert await rig.ask("SELECT count() FROM orders", both) == "6"
    opened = Grant(name="open", scopes=(_reads("orders", "org = 1"), _reads("orders")))
    assert await rig.ask("SELECT count() FROM orders", opened) == "12"


async def test_a_condition_may_read_data_sources(rig: Rig, outcomes: object) -> None:
    condition = "org IN (SELECT org FROM members WHERE person = 2)"
    member = Grant(name="member", scopes=(_reads("orders", condition),))
    assert await rig.ask("SELECT DISTINCT org FROM orders", member) == "2"
    for mine in (
        "WITH members AS (SELECT 2 AS person, arrayJoin([1, 2]) AS org)",
        "WITH [1, 2] AS members",
    ):
        assert await rig.ask(f"{mine} SELECT DISTINCT org FROM orders", member) == "2"


@pytest.mark.parametrize(
    "condition",
    ["1) OR (1", "1 FROM orders", "file('/etc/passwd') = ''", "{p1:Int8} = 1", "1; DROP TABLE x",
     "org IN (SELECT org FROM system.tables)", ""],
)  # fmt: skip
async def test_a_condition_that_is_none_refuses_every_query(rig: Rig, condition: str) -> None:
    token = Grant(name="bad", scopes=(_reads("orders", condition), _reads("users")))
    with pytest.raises((QueryError, PermissionDeniedError)):
        await rig.plan("SELECT * FROM users", token)


async def test_secrets_reach_templates_of_the_project_only(rig: Rig) -> None:
    planned = await rig.plan("SELECT good FROM greeting")
    assert await rig.run(planned) == "1"
    assert [planned.bindings[name] for name in planned.secret_bindings] == ["x"]


async def test_other_requests_go_on_while_a_template_of_a_caller_is_compiled(rig: Rig) -> None:
    outputs = ", ".join("{{Int32(a, 1) + Int32(b, 2)}}" for _ in range(500))
    planning = asyncio.ensure_future(rig.plan(f"% SELECT count() FROM users WHERE ({outputs}) = 1"))
    turns = 0
    while not planning.done():
        turns += 1
        await asyncio.sleep(0)
    assert len((await planning).bindings) == 500
    assert turns > 20


async def test_a_template_of_a_caller_has_a_length(rig: Rig) -> None:
    with pytest.raises(TooLargeError, match="longer than 65536 characters"):
        await rig.plan("% SELECT 1 " + "{{1}}" * 20_000)


async def test_the_name_of_the_result_stands_for_a_pipe(rig: Rig, outcomes: object) -> None:
    pipe = rig.planner.workspace.pipes["of_member"]
    planned = await rig.planner.plan_sql(
        "SELECT upper(name) FROM _",
        Request(arguments={"person": "2"}, grant=TENANT),
        result_of=(pipe, pipe.answer),
    )
    assert await rig.run(planned) == "USER1"
