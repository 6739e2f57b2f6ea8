"""Free SQL against the engine's own parser: what passes, what does not, and what it reads."""

from __future__ import annotations

import pytest

from shared.clickhouse.allowlist import check_select
from shared.clickhouse.contract import Statement
from shared.clickhouse.embedded import EmbeddedClickHouse
from shared.errors import AppError, PermissionDeniedError, QueryError

ALLOWED_TABLES = {"events", "users"}

HARMLESS = [
    "SELECT 1",
    "SELECT 1;",
    "(SELECT 1)",
    "SELECT * FROM events",
    "FROM events SELECT a",
    "WITH x AS (SELECT a FROM events) SELECT a FROM x",
    "WITH x AS (SELECT 1 AS a), y AS (SELECT a FROM x) SELECT * FROM x JOIN y USING (a)",
    "WITH RECURSIVE x AS (SELECT 1 AS a UNION ALL SELECT a + 1 FROM x WHERE a < 3) SELECT * FROM x",
    "WITH x AS (SELECT 1 AS a) SELECT a FROM x UNION ALL SELECT a FROM x",
    "WITH [1, 2] AS wanted SELECT a FROM events WHERE a IN wanted",
    "WITH (SELECT groupArray(a) FROM users) AS ids SELECT * FROM events WHERE a IN ids",
    "SELECT a FROM events WHERE a IN users AND a IN (SELECT a FROM users) AND a IN (1, 2)",
    "SELECT a FROM events WHERE (a, b) IN ((1, 2), (3, 4)) AND c GLOBAL NOT IN (1)",
    "SELECT sumIf(a, b), quantileIf(0.5)(a, b), uniqExactMergeState(u), countIf(*) FROM events",
    "SELECT COUNT(*), SUM(a), IF(a, 1, 2), coalesce(a, b), Date(a) FROM events",
    "SELECT arrayMap(x -> x + 1, [1, 2]), arrayReduce('sum', [1])",
    "WITH x -> x + 1 AS increment SELECT increment(a) FROM events",
    "SELECT * EXCEPT (a) REPLACE (b + 1 AS b), COLUMNS('c') APPLY (toString) FROM events",
    "SELECT * APPLY (x -> x + 1) FROM events",
    "SELECT CASE a WHEN 1 THEN 2 END, CASE WHEN a THEN b ELSE c END, a ? b : c FROM events",
    "SELECT a.1, a[1], a::Int32, CAST(a AS String), INTERVAL 1 DAY FROM events",
    "SELECT date_diff('day', a, b), now(), today(), rand(), formatDateTime(a, '%F') FROM events",
    "SELECT row_number() OVER (PARTITION BY a ORDER BY b), lagInFrame(a) OVER w FROM events"
    " WINDOW w AS (ORDER BY b ROWS BETWEEN 1 PRECEDING AND CURRENT ROW)",
    "SELECT * FROM events AS e LEFT JOIN users AS u ON e.a = u.a ARRAY JOIN e.l AS item",
    "SELECT * FROM events FINAL SAMPLE 1 / 10 PREWHERE a WHERE b GROUP BY c WITH ROLLUP HAVING d",
    "SELECT a FROM events GROUP BY GROUPING SETS ((a), (b)) ORDER BY a WITH FILL STEP 1"
    " LIMIT 1 BY a LIMIT 5 WITH TIES",
    "SELECT 1 INTERSECT SELECT 1 EXCEPT SELECT 2 UNION DISTINCT SELECT 3",
    "SELECT number FROM numbers(10) UNION ALL SELECT * FROM zeros(3)",
    "SELECT * FROM values('a Int8', 1, 2), null('b Int8')",
    "SELECT * FROM generateRandom('a UInt64') LIMIT 1",
    "SELECT name FROM system.functions WHERE (SELECT dummy FROM system.one) = 0",
    "SELECT {a:Int32}, {l:Array(String)} FROM events WHERE a = {c:Identifier} LIMIT {n:UInt32}",
    "SELECT 1 FORMAT JSON",
    "SELECT a FROM events SETTINGS join_use_nulls = 1, max_threads = 1 FORMAT CSV",
    "SELECT 'file(''/etc/passwd''); DROP TABLE events' -- file('x')",
    "SELECT JSONExtractString(a, 'b'), domain(a), toIPv4(b), cityHash64(a), lower(b) FROM events",
    "SELECT tuple(1, 2), map('a', 1), (1, 'x'), [], NULL, true, -1.5e3, a BETWEEN 1 AND 2",
    "SELECT throwIf(a, 'no'), toTypeName(a), formatReadableSize(a), bar(a, 0, 1, 2) FROM events",
    "SELECT DISTINCT ON (a) b FROM events ORDER BY a NULLS FIRST LIMIT 1 OFFSET 2",
    "SELECT count(DISTINCT a), any(a) IGNORE NULLS, sum(a) FILTER (WHERE b) FROM events",
]

ATTACKS = [
    # other statements
    "INSERT INTO events SELECT 1",
    "INSERT INTO events VALUES (1)",
    "INSERT INTO FUNCTION file('/tmp/x') SELECT 1",
    "CREATE TABLE x (a Int8) ENGINE = Memory",
    "CREATE FUNCTION f AS x -> x",
    "DROP TABLE events",
    "TRUNCATE TABLE events",
    "ALTER TABLE events DELETE WHERE 1",
    "RENAME TABLE events TO x",
    "ATTACH TABLE x FROM '/tmp' (a Int8) ENGINE = Log",
    "DETACH TABLE events",
    "OPTIMIZE TABLE events",
    "SET readonly = 0",
    "USE system",
    "SYSTEM STOP MERGES",
    "SYSTEM SHUTDOWN",
    "KILL QUERY WHERE 1",
    "GRANT ALL ON *.* TO default",
    "BACKUP TABLE events TO File('/tmp/x')",
    "EXPLAIN SELECT * FROM file('/etc/passwd')",
    "DESCRIBE file('/etc/passwd')",
    "DESCRIBE TABLE pipehouse.tokens",
    "SHOW TABLES",
    "SHOW CREATE TABLE pipehouse.tokens",
    "EXISTS TABLE pipehouse.tokens",
    "CHECK TABLE events",
    "BEGIN TRANSACTION",
    # several statements
    "SELECT 1; SELECT 2",
    "SELECT 1; DROP TABLE events",
    "SELECT 1;;SELECT 2",
    "SELECT 1 /* ; */; SYSTEM SHUTDOWN",
    # files and output
    "SELECT file('/etc/passwd')",
    "SELECT `file`('/etc/passwd')",
    "SELECT \"file\"('/etc/passwd')",
    "SELECT/**/file/**/('/etc/passwd')",
    "SELECT * FROM file('/etc/passwd', 'LineAsString')",
    "SELECT * FROM file('/etc/passwd', 'LineAsString', 'a String') AS events",
    "SELECT 1 INTO OUTFILE '/tmp/x'",
    "SELECT 1 INTO OUTFILE '/tmp/x' TRUNCATE COMPRESSION 'gzip' FORMAT CSV",
    "SELECT 1 UNION ALL SELECT 2 INTO OUTFILE '/tmp/x' APPEND",
    "SELECT * FROM `/etc/passwd`",
    "SELECT * FROM '/etc/passwd'",
    # in every corner of a SELECT
    "SELECT * APPLY (file) FROM events",
    "SELECT * APPLY (x -> file(x)) FROM events",
    "SELECT COLUMNS('a') APPLY file FROM events",
    "SELECT * REPLACE (file('/etc/passwd') AS a) FROM events",
    "SELECT a FROM events ORDER BY file('/etc/passwd')",
    "SELECT a FROM events ORDER BY a WITH FILL FROM length(file('/etc/passwd'))",
    "SELECT a FROM events GROUP BY file('/etc/passwd')",
    "SELECT a FROM events WHERE file('/etc/passwd') = ''",
    "SELECT a FROM events PREWHERE file('/etc/passwd') = ''",
    "SELECT a FROM events HAVING file('/etc/passwd') = ''",
    "SELECT a FROM events QUALIFY file('/etc/passwd') = ''",
    "SELECT a FROM events LIMIT length(file('/etc/passwd'))",
    "SELECT a FROM events LIMIT 1 BY file('/etc/passwd')",
    "SELECT sum(a) OVER (PARTITION BY file('/etc/passwd')) FROM events",
    "SELECT sum(a) OVER w FROM events WINDOW w AS (ORDER BY file('/etc/passwd'))",
    "SELECT a FROM events ARRAY JOIN [file('/etc/passwd')] AS b",
    "SELECT a FROM events JOIN users ON file('/etc/passwd') = ''",
    "SELECT a FROM numbers(length(file('/etc/passwd')))",
    "SELECT a IN (file('/etc/passwd')) FROM events",
    "SELECT [1, (2, file('/etc/passwd'))]",
    "SELECT arrayMap(x -> file(x), ['/etc/passwd'])",
    "SELECT if(1, file('/etc/passwd'), '')",
    "SELECT CASE WHEN 1 THEN file('/etc/passwd') END",
    "SELECT (SELECT (SELECT file('/etc/passwd')))",
    "SELECT quantile(length(file('/etc/passwd')))(a) FROM events",
    "SELECT 1 UNION ALL (SELECT 2 EXCEPT SELECT length(file('/etc/passwd')))",
    "WITH x AS (SELECT * FROM file('/etc/passwd')) SELECT * FROM x",
    "WITH file('/etc/passwd') AS x SELECT x",
    "WITH x -> file(x) AS f SELECT f('/etc/passwd')",
    "WITH x -> x AS file SELECT (WITH 1 AS y SELECT file('/etc/passwd'))",
    # the network and other processes
    "SELECT * FROM url('http://127.0.0.1/', 'CSV', 'a String')",
    "SELECT * FROM s3('http://127.0.0.1/x.csv')",
    "SELECT * FROM mysql('h:3306', 'd', 't', 'u', 'p')",
    "SELECT * FROM postgresql('h:5432', 'd', 't', 'u', 'p')",
    "SELECT * FROM remote('127.0.0.1', system, tables)",
    "SELECT * FROM remoteSecure('127.0.0.1', system, tables)",
    "SELECT * FROM cluster('default', system, tables)",
    "SELECT * FROM clusterAllReplicas('default', system.tables)",
    "SELECT * FROM executable('id', 'TSV', 'a String')",
    "SELECT * FROM python('x')",
    "SELECT * FROM Python(x)",
    "SELECT * FROM sqlite('/tmp/x.db', 't')",
    "SELECT * FROM filesystem('/etc')",
    "SELECT * FROM icebergLocal('/tmp')",
    "SELECT aiGenerate('x')",
    # other tables by another door
    "SELECT * FROM merge('.*', '.*')",
    "SELECT * FROM merge(currentDatabase(), 'tokens')",
    "SELECT * FROM loop(pipehouse.tokens)",
    "SELECT * FROM dictionary('d')",
    "SELECT * FROM view(SELECT * FROM pipehouse.tokens)",
    "SELECT * FROM viewIfPermitted(SELECT 1 ELSE null('a Int8'))",
    "SELECT * FROM (EXPLAIN SELECT 1)",
    "SELECT * FROM input('a String')",
    "SELECT * FROM format('CSV', '1')",
    "SELECT * FROM mergeTreeIndex('pipehouse', 'tokens')",
    "SELECT * FROM mergeTreeProjection('pipehouse', 'tokens', 'p')",
    "SELECT * FROM eval('SELECT 1')",
    "SELECT dictGet('d', 'a', 1)",
    "SELECT joinGet('j', 'a', 1)",
    "SELECT hasColumnInTable('pipehouse', 'tokens', 'a')",
    "SELECT * FROM {t:Identifier}",
    "SELECT * FROM pipehouse.{t:Identifier}",
    "SELECT 1 IN {t:Identifier}",
    # the engine's own state
    "SELECT * FROM system.tables",
    "SELECT * FROM system.processes",
    "SELECT * FROM `system`.`settings`",
    "SELECT * FROM INFORMATION_SCHEMA.TABLES",
    "SELECT * FROM information_schema.columns",
    "SELECT getSetting('max_threads')",
    "SELECT @@max_threads",
    "SELECT currentUser(), hostName(), serverUUID(), tcpPort(), uptime()",
    "SELECT getMacro('x'), getServerPort('http_port'), getClientHTTPHeader('x')",
    "SELECT addressToLine(1), demangle('x'), tid(), logTrace('x')",
    "SELECT parseQueryToJSON('SELECT 1')",
    "SELECT filesystemAvailable()",
    "SELECT showCertificate()",
    "SELECT sleep(3)",
    "SELECT sleepEachRow(1) FROM events",
    "SELECT SLEEP(3)",
    "SELECT sleepIf(1)",
    # limits and meaning
    "SELECT 1 SETTINGS readonly = 0",
    "SELECT 1 SETTINGS max_execution_time = 0",
    "SELECT * FROM (SELECT 1 SETTINGS max_memory_usage = 0)",
    "WITH x AS (SELECT 1 SETTINGS max_rows_to_read = 0) SELECT * FROM x",
    "SELECT 1 FORMAT CSV SETTINGS max_result_rows = 0",
    "SELECT 1 SETTINGS enable_analyzer = 0",
    "SELECT 1 SETTINGS additional_table_filters = {}",
    "SELECT 1 SETTINGS additional_table_filters = DEFAULT",
    "SELECT 1 SETTINGS final = 1, max_execution_time = DEFAULT",
    "SELECT * FROM (SELECT 1 SETTINGS join_use_nulls = DEFAULT)",
    "SELECT 1 SETTINGS param_p1 = 'x'",
    "SELECT 1 SETTINGS log_comment = 'x'",
    "SELECT * FROM events STREAM",
    "SELECT 1 SETTINGS join_algorithm = {p1:String}",
    "SELECT * FROM events AS {p1:Identifier}",
    "SELECT a AS {p1:Identifier} FROM events",
    # nonsense
    "",
    ";",
    "SELEC 1 2",
    "SELECT (",
    "SELECT no_such_function(1)",
]

FORBIDDEN_TABLES = [
    "SELECT * FROM secret",
    "SELECT * FROM pipehouse.tokens",
    "SELECT * FROM other.events",
    "SELECT * FROM events, secret",
    "SELECT * FROM events JOIN `secret` ON 1",
    "SELECT * FROM (SELECT * FROM (SELECT * FROM secret))",
    "SELECT a IN secret FROM events",
    "SELECT in(a, secret), nullIn(a, (secret)), a GLOBAL NOT IN secret FROM events",
    "SELECT a IN pipehouse.tokens FROM events",
    "SELECT e.a IN events.secret FROM events AS e",
    "SELECT a FROM events AS pipehouse WHERE a IN pipehouse.tokens",
    "SELECT (SELECT 1 AS secret), 5 IN secret",
    "SELECT arrayMap(x -> (x AS secret), [1]), 5 IN secret",
    "SELECT * FROM (SELECT 1 AS secret) WHERE 5 IN secret",
    "WITH secret AS s SELECT 5 IN s",
    "WITH secret AS events SELECT 5 IN events",
    "WITH secret AS users, users AS events SELECT 5 IN events",
    "SELECT * FROM events AS secret WHERE 5 IN secret",
    "SELECT (WITH secret AS (SELECT 1 AS a) SELECT count() FROM secret), (SELECT a FROM secret)",
    "WITH secret AS (SELECT * FROM secret) SELECT * FROM secret",
    "WITH Secret AS (SELECT 1) SELECT * FROM secret",
    "WITH (SELECT 1) AS secret SELECT * FROM secret",
    "WITH 1 AS secret SELECT * FROM secret",
    "SELECT 1 UNION ALL (WITH secret AS (SELECT 1) SELECT * FROM secret)"
    " UNION ALL SELECT * FROM secret",
    "WITH x AS (SELECT 1) SELECT * FROM x UNION ALL SELECT * FROM secret",
    "WITH a AS (SELECT * FROM secret), secret AS (SELECT * FROM a) SELECT * FROM secret",
    "WITH secret AS (SELECT * FROM a), a AS (SELECT * FROM secret) SELECT * FROM secret",
    "WITH secret AS (SELECT * FROM events), events AS (SELECT * FROM secret) SELECT * FROM secret",
    "WITH secret AS (SELECT 1 AS a) SELECT * FROM"
    " (WITH b AS (SELECT * FROM secret), secret AS (SELECT * FROM b) SELECT * FROM b)",
    "SELECT exists(SELECT * FROM secret)",
    "SELECT a FROM events WHERE a = ANY (SELECT a FROM secret)",
]


@pytest.mark.parametrize("sql", HARMLESS)
async def test_a_harmless_select_passes(engine: EmbeddedClickHouse, sql: str) -> None:
    check_select(await engine.parse(sql), tables=ALLOWED_TABLES)


@pytest.mark.parametrize("sql", ATTACKS)
async def test_an_attack_is_refused_even_with_every_table_allowed(
    engine: EmbeddedClickHouse, sql: str
) -> None:
    every_table = {"events", "users", "tokens", "x", "e", "/etc/passwd", "secret"} - {"/etc/passwd"}
    with pytest.raises((QueryError, PermissionDeniedError)):
        check_select(await engine.parse(sql), tables=every_table)


@pytest.mark.parametrize("sql", FORBIDDEN_TABLES)
async def test_a_table_that_is_not_allowed_cannot_be_reached(
    engine: EmbeddedClickHouse, sql: str
) -> None:
    with pytest.raises((QueryError, PermissionDeniedError)):
        check_select(await engine.parse(sql), tables=ALLOWED_TABLES)


@pytest.mark.parametrize(
    "sql",
    [
        *FORBIDDEN_TABLES,
        *HARMLESS,
        "SELECT 7 AS secret, 5 IN secret",
        "WITH 7 AS secret SELECT 5 IN secret",
        "WITH 7 AS secret SELECT * FROM (SELECT 5 IN secret)",
        "WITH 7 AS secret SELECT 5 IN secret UNION ALL SELECT 5 IN secret",
        "WITH 7 AS secret, x AS (SELECT 5 IN secret) SELECT * FROM x",
        "WITH 7 AS secret, (SELECT 5 IN secret) AS y SELECT y",
        "SELECT 7 AS secret, arrayExists(x -> x IN secret, [5])",
        "SELECT 7 AS secret FROM events WHERE 5 IN secret ORDER BY 5 IN secret",
        "WITH secret AS (SELECT 7 AS a) SELECT 5 IN secret, arrayMap(x -> x IN secret, [5])",
        "WITH secret AS (SELECT 7 AS a)"
        " SELECT * FROM (SELECT a FROM secret UNION ALL SELECT a FROM secret)",
        "WITH secret AS (SELECT 7 AS a) SELECT a FROM secret INTERSECT SELECT a FROM secret",
        "WITH secret AS (SELECT 7 AS a), b AS (SELECT a FROM secret) SELECT * FROM b",
        "WITH secret AS (SELECT 7 AS a)"
        " SELECT * FROM (WITH b AS (SELECT a FROM secret) SELECT * FROM b)",
        "WITH RECURSIVE secret AS (SELECT 1 AS a UNION ALL SELECT a + 1 FROM secret WHERE a < 3)"
        " SELECT * FROM secret",
    ],
)
async def test_a_query_said_not_to_read_a_table_answers_the_same_without_it(
    engine: EmbeddedClickHouse, database: str, sql: str
) -> None:
    try:
        analysis = await engine.parse(sql)
        check_select(analysis)
    except AppError:
        return
    if any(table.name == "secret" for table in analysis.tables):
        return
    answers = []
    for rows in (["CREATE TABLE secret (a Int32) ENGINE = Memory AS SELECT 5"], []):
        for statement in ["DROP TABLE IF EXISTS secret", *rows]:
            await engine.execute(Statement(sql=statement))
        try:
            answers.append((await engine.fetch(Statement(sql=sql, format="TSV"))).body.decode())
        except AppError as error:
            answers.append(type(error).__name__)
    assert answers[0] == answers[1] or analysis.is_volatile


async def test_an_analysis_says_what_a_query_reads_and_calls(engine: EmbeddedClickHouse) -> None:
    analysis = await engine.parse(
        "WITH x AS (SELECT a FROM t WHERE a IN wanted)"
        " SELECT sumIf(a, b) AS total, NOW(), {p:String}"
        " FROM x JOIN y.z USING (a) CROSS JOIN numbers(3) SETTINGS max_threads = 1 FORMAT JSON"
    )
    assert analysis.is_select
    assert [(str(t), t.is_operand) for t in analysis.tables] == [
        ("t", False),
        ("wanted", True),
        ("y.z", False),
    ]
    assert analysis.functions == ("in", "sumIf", "NOW")
    assert analysis.volatile_functions == ("NOW",)
    assert analysis.table_functions == ("numbers",)
    assert (analysis.ctes, analysis.parameters) == (("x",), ("p",))
    assert analysis.aliases == ("total",)
    assert (analysis.settings, analysis.format) == (("max_threads",), "JSON")


@pytest.mark.parametrize(
    ("sql", "volatile"),
    [
        ("SELECT now()", True),
        ("SELECT curdate()", True),
        ("SELECT * APPLY (x -> x + rand()) FROM t", True),
        ("SELECT generateUUIDv4()", True),
        ("SELECT dateTimeToUUIDv7(toDateTime('2024-01-01 00:00:00'))", True),
        ("SELECT * FROM generateRandom('a Int8')", True),
        ("SELECT toDate('2024-01-01') - 1, lower('now()')", False),
    ],
)
async def test_clocks_and_chance_are_seen(
    engine: EmbeddedClickHouse, sql: str, volatile: bool
) -> None:
    assert (await engine.parse(sql)).is_volatile is volatile


async def test_a_syntax_error_is_placed_in_the_text_that_was_given(
    engine: EmbeddedClickHouse,
) -> None:
    with pytest.raises(QueryError) as caught:
        await engine.parse("SELECT\n\n  a b c\nFROM t")
    assert caught.value.errors == ({"line": 3, "column": 7},)
    assert "parseQueryToJSON" not in caught.value.message


async def test_a_text_is_parsed_once(engine: EmbeddedClickHouse) -> None:
    first = await engine.parse("SELECT 1 AS once")
    assert await engine.parse("SELECT 1 AS once") is first
