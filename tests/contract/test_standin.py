"""What the stand-in server promises to unmodified clients."""

from __future__ import annotations

import datetime
import decimal
import importlib
import itertools
import json
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from deploy.bootstrap import statements, users
from tests.proxy import Proxy
from tests.standin.process import ADMIN, Standin

# clickhouse-driver has no types.
driver: Any = importlib.import_module("clickhouse_driver")
errors: Any = importlib.import_module("clickhouse_driver.errors")

ENDLESS = "SELECT sum(sipHash64(number)) FROM numbers(1000000000000)"
ONCE = {"insert_deduplicate": 1, "deduplicate_insert": "enable", "async_insert": 0}
WINDOW = "SETTINGS non_replicated_deduplication_window = 1000"
_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def standin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Standin]:
    with Standin(tmp_path_factory.mktemp("standin")) as started:
        yield started


@pytest.fixture
def database(standin: Standin) -> Iterator[str]:
    name = f"d{next(_numbers)}"
    with client(standin) as admin:
        admin.execute(f"CREATE DATABASE {name} ENGINE = Atomic")
        yield name
        standin.clear_faults()
        admin.execute(f"DROP DATABASE {name} SYNC")


def client(standin: Standin, **options: Any) -> Any:
    options = {"port": standin.port, "user": ADMIN[0], "password": ADMIN[1], **options}
    return driver.Client("127.0.0.1", **options)


def web(standin: Standin, user: tuple[str, str] = ADMIN) -> httpx.Client:
    return httpx.Client(base_url=f"http://127.0.0.1:{standin.http_port}", auth=user, timeout=30)


def counted(standin: Standin, table: str) -> int:
    with client(standin) as reader:
        return int(reader.execute(f"SELECT count() FROM {table}")[0][0])


def make_table(standin: Standin, database: str) -> None:
    with client(standin, database=database) as admin:
        for sql in (
            "CREATE TABLE t (a Int32, s String, o Int64 MATERIALIZED -1,"
            f" CONSTRAINT small CHECK a < 1000) ENGINE = MergeTree ORDER BY a {WINDOW}",
            f"CREATE TABLE v (a Int32) ENGINE = MergeTree ORDER BY a {WINDOW}",
            "CREATE MATERIALIZED VIEW mv TO v AS SELECT a FROM t",
        ):
            admin.execute(sql)


def insert(standin: Standin, database: str, token: str, rows: list[Any], **options: Any) -> int:
    query_id = options.pop("query_id", None)
    settings = {
        **ONCE,
        "insert_deduplication_token": token,
        "deduplicate_blocks_in_dependent_materialized_views": 1,
    }
    with client(standin, database=database, **options) as writer:
        sql = "INSERT INTO t (a, s) VALUES"
        return int(writer.execute(sql, rows, settings=settings, query_id=query_id))


TYPES = [
    ("String", ["a", "", "ü\n\t'"]),
    ("FixedString(3)", ["abc", "xyz"]),
    ("LowCardinality(String)", ["a", "b", "a"]),
    ("LowCardinality(Nullable(String))", ["a", None]),
    ("Nullable(Int64)", [1, None, -(2**63)]),
    ("UInt64", [0, 2**64 - 1]),
    ("Int256", [-(2**255), 7]),
    ("Float64", [0.5, -1e300]),
    ("Bool", [True, False]),
    ("Array(String)", [[], ["a", "b"]]),
    ("Array(Array(UInt8))", [[[1], []], []]),
    ("Array(LowCardinality(String))", [["a", "b", "a"], []]),
    ("Map(String, UInt32)", [{"a": 1}, {}]),
    ("Tuple(Int32, String)", [(1, "a"), (2, "")]),
    ("Tuple(x Int32, y Array(String))", [(1, ["a"]), (2, [])]),
    ("Date", [datetime.date(2024, 2, 29)]),
    ("DateTime('UTC')", [datetime.datetime(2024, 2, 29, 1, 2, 3)]),  # noqa: DTZ001
    ("DateTime64(6, 'UTC')", [datetime.datetime(2024, 2, 29, 1, 2, 3, 456789, datetime.UTC)]),
    ("Decimal(18, 4)", [decimal.Decimal("1.2345"), decimal.Decimal("-0.0001")]),
    ("Decimal(50, 2)", [decimal.Decimal("12345678901234567890123456789012345678.25")]),
    ("UUID", [uuid.UUID(int=1 << 100), uuid.UUID(int=0)]),
    ("Enum8('a' = 1, 'b' = -2)", ["a", "b"]),
    ("Enum16('x' = 1000)", ["x"]),
    ("IPv4", [IPv4Address("127.0.0.1")]),
    ("JSON", [{"a": 1, "b": {"c": "x"}}, {"a": 2}]),
]


@pytest.mark.parametrize(("column_type", "values"), TYPES, ids=[name for name, _ in TYPES])
@pytest.mark.parametrize("compression", [False, "lz4", "zstd"])
def test_values_come_back_as_they_went_in(
    standin: Standin, database: str, column_type: str, values: list[Any], compression: Any
) -> None:
    with client(standin, database=database, compression=compression) as session:
        session.execute(f"CREATE TABLE t (n Int32, x {column_type}) ENGINE = MergeTree ORDER BY n")
        rows = list(enumerate(values))
        assert session.execute("INSERT INTO t (n, x) VALUES", rows) == len(rows)
        assert session.execute("SELECT n, x FROM t ORDER BY n") == rows


def test_columns_go_in_as_bytes_and_integers(standin: Standin, database: str) -> None:
    with client(standin, database=database, settings={"strings_as_bytes": True}) as session:
        session.execute("CREATE TABLE t (s String, d DateTime) ENGINE = MergeTree ORDER BY s")
        columns = [[b"a", b"\xff\x00"], [1_700_000_000, 1_700_000_001]]
        assert session.execute("INSERT INTO t (s, d) VALUES", columns, columnar=True) == 2
        found = session.execute("SELECT hex(s), toUnixTimestamp(d) FROM t ORDER BY s")
    assert found == [(b"61", 1_700_000_000), (b"FF00", 1_700_000_001)]


def test_an_answer_of_many_blocks_arrives_whole_and_an_empty_one_has_its_columns(
    standin: Standin,
) -> None:
    with client(standin, compression="lz4") as session:
        numbers = session.execute("SELECT number, toString(number) FROM numbers(300000)")
        assert numbers[-1] == (299999, "299999")
        assert len(numbers) == 300000
        assert session.execute("SELECT 1 AS a, 'x' AS b WHERE 0", with_column_types=True) == (
            [],
            [("a", "UInt8"), ("b", "String")],
        )


def test_a_token_is_taken_once_in_the_table_and_in_its_view(
    standin: Standin, database: str
) -> None:
    make_table(standin, database)
    for token in ("one", "one", "two"):
        insert(standin, database, token, [(1, "a"), (2, "b")])
    assert counted(standin, f"{database}.t") == 4
    assert counted(standin, f"{database}.v") == 4


def test_all_blocks_of_one_insert_become_one_part(standin: Standin, database: str) -> None:
    make_table(standin, database)
    with client(standin, database=database, settings={"insert_block_size": 10}) as session:
        session.execute("INSERT INTO t (a, s) VALUES", [(n, "x") for n in range(100)])
        parts = session.execute("SELECT count(), uniqExact(_part) FROM t")
    assert parts == [(100, 1)]


def test_hidden_columns_are_written_only_where_that_is_allowed(
    standin: Standin, database: str
) -> None:
    make_table(standin, database)
    with client(standin, database=database) as session:
        with pytest.raises(errors.ServerException) as refused:
            session.execute("INSERT INTO t (a, s, o) VALUES", [(1, "a", 5)])
        assert refused.value.code == 44
        session.execute(
            "INSERT INTO t (a, s, o) VALUES",
            [(1, "a", 5)],
            settings={"insert_allow_materialized_columns": 1},
        )
        session.execute("INSERT INTO t (a, s) VALUES", [(2, "b")])
        assert session.execute("SELECT a, o FROM t ORDER BY a") == [(1, 5), (2, -1)]
        assert session.execute("SELECT * FROM t ORDER BY a") == [(1, "a"), (2, "b")]


def test_a_query_over_the_data_that_is_sent_decides_what_is_stored(
    standin: Standin, database: str
) -> None:
    make_table(standin, database)
    sql = "INSERT INTO t (a, s) SELECT x + 1, upper(y) FROM input('x Int32, y String') FORMAT "
    with client(standin, database=database) as session:
        session.execute(f"{sql}Native", [(1, "a"), (2, "b")])
        with web(standin) as over_http:
            body = b'{"x":5,"y":"c"}'
            answer = over_http.post(
                "/", params={"database": database, "query": f"{sql}JSONEachRow"}, content=body
            )
        assert answer.status_code == 200, answer.text
        assert session.execute("SELECT a, s FROM t ORDER BY a") == [(2, "A"), (3, "B"), (6, "C")]


REFUSED = [
    ("INSERT INTO t (a, s) VALUES", [(1, "a"), (5000, "b")], 469, "small"),
    ("INSERT INTO nowhere (a) VALUES", [(1,)], 60, "nowhere"),
    ("INSERT INTO t (nope) VALUES", [(1,)], 16, "nope"),
    ("SELECT * FROM nowhere", None, 60, "nowhere"),
    ("SELECT nope", None, 47, "nope"),
    ("SELEC 1", None, 62, "Syntax error"),
    ("SELECT throwIf(number = 5) FROM numbers(10)", None, 395, "throwIf"),
]


@pytest.mark.parametrize(("sql", "rows", "code", "word"), REFUSED)
def test_a_refusal_has_the_code_and_leaves_the_connection_usable(
    standin: Standin, database: str, sql: str, rows: Any, code: int, word: str
) -> None:
    make_table(standin, database)
    with client(standin, database=database) as session:
        with pytest.raises(errors.ServerException) as refused:
            session.execute(sql, rows)
        assert refused.value.code == code
        assert word in refused.value.message
        assert session.execute("SELECT count() FROM t") == [(0,)]
        assert session.connection.connected


def test_an_unknown_setting_is_ignored_unless_it_is_important(standin: Standin) -> None:
    with client(standin) as session:
        assert session.execute("SELECT 1", settings={"no_such_setting": 1}) == [(1,)]
    with client(standin, settings_is_important=True) as session:
        with pytest.raises(errors.ServerException) as refused:
            session.execute("SELECT 1", settings={"no_such_setting": 1})
        assert refused.value.code == 115


def test_a_wrong_password_is_refused_on_both_interfaces(standin: Standin) -> None:
    with pytest.raises(errors.ServerException) as refused:
        client(standin, password="wrong").execute("SELECT 1")
    assert refused.value.code == 516
    with web(standin, ("admin", "wrong")) as session:
        answer = session.post("/", content="SELECT 1")
    assert answer.status_code == 403
    assert answer.headers["X-ClickHouse-Exception-Code"] == "516"


def test_a_read_only_user_cannot_write_and_a_strict_one_cannot_set(
    standin: Standin, database: str
) -> None:
    make_table(standin, database)
    reader = {"user": "reader", "password": "reader-secret", "database": database}
    with client(standin, **reader) as session:
        assert session.execute("SELECT 1", settings={"max_threads": 1}) == [(1,)]
        for sql, rows in (("INSERT INTO t (a, s) VALUES", [(1, "a")]), ("DROP TABLE t", None)):
            with pytest.raises(errors.ServerException) as refused:
                session.execute(sql, rows)
            assert refused.value.code == 164
    with web(standin, ("strict_reader", "reader-secret")) as session:
        assert session.post("/", content="SELECT 1").text == "1\n"
        assert session.post("/?max_threads=1", content="SELECT 1").status_code == 500


def test_http_answers_in_the_format_asked_for_with_parameters_and_a_summary(
    standin: Standin,
) -> None:
    with web(standin) as session:
        answer = session.post(
            "/",
            params={
                "query": "SELECT {n:UInt8} AS n, {s:String} AS s",
                "param_n": "7",
                "param_s": "a\\tb",
                "default_format": "JSONEachRow",
                "query_id": "mine",
            },
        )
    assert answer.json() == {"n": 7, "s": "a\tb"}
    assert answer.headers["X-ClickHouse-Query-Id"] == "mine"
    assert answer.headers["X-ClickHouse-Format"] == "JSONEachRow"
    assert answer.headers["Content-Type"].startswith("application/x-ndjson")
    assert json.loads(answer.headers["X-ClickHouse-Summary"])["read_rows"] == "1"


@pytest.mark.parametrize(
    ("sql", "status", "code"),
    [("SELECT * FROM nowhere", 404, 60), ("SELEC 1 2", 400, 62), ("SELECT throwIf(1)", 500, 395)],
)
def test_http_refuses_with_status_code_and_text(
    standin: Standin, sql: str, status: int, code: int
) -> None:
    with web(standin) as session:
        answer = session.post("/", content=sql)
    assert answer.status_code == status
    assert answer.headers["X-ClickHouse-Exception-Code"] == str(code)
    assert answer.text.startswith(f"Code: {code}. DB::Exception: ")
    assert " (version " in answer.text


def test_http_takes_data_of_any_format_and_get_does_not_write(
    standin: Standin, database: str
) -> None:
    make_table(standin, database)
    sql = f"INSERT INTO {database}.t (a, s)"
    with web(standin) as session:
        for query, body in (
            (f"{sql} FORMAT JSONEachRow", b'{"a":1,"s":"x"}\n'),
            (f"{sql} VALUES", b"(2, 'y')"),
            ("", f"{sql} FORMAT CSV\n3,z\n".encode()),
        ):
            answer = session.post("/", params={"query": query} if query else None, content=body)
            assert answer.status_code == 200, answer.text
        assert session.get("/", params={"query": f"{sql} VALUES (4, 'n')"}).status_code == 500
        found = session.get("/", params={"query": f"SELECT a, s FROM {database}.t ORDER BY a"})
    assert found.text == "1\tx\n2\ty\n3\tz\n"


def test_an_error_after_the_first_byte_breaks_the_answer_off(standin: Standin) -> None:
    sql = "SELECT toString(number), throwIf(number = 2000000) FROM numbers(3000000)"
    received = b""
    with (
        web(standin) as session,
        pytest.raises(httpx.RemoteProtocolError),
        session.stream("POST", "/", params={"max_block_size": 1000}, content=sql) as answer,
    ):
        assert answer.status_code == 200
        tag = answer.headers["X-ClickHouse-Exception-Tag"]
        for chunk in answer.iter_bytes():
            received += chunk
    _, frame = received.split(f"\r\n__exception__\r\n{tag}\r\n".encode())
    message, tail = frame.split(b"\n", 1)
    assert message.startswith(b"Code: 395. DB::Exception: ")
    assert tail == f"{len(message) + 1} {tag}\r\n__exception__\r\n".encode()


def test_http_compresses_when_asked_to(standin: Standin) -> None:
    with web(standin) as session:
        answer = session.post(
            "/?enable_http_compression=1",
            content="SELECT number FROM numbers(1000)",
            headers={"Accept-Encoding": "gzip"},
        )
    assert answer.headers["Content-Encoding"] == "gzip"
    assert len(answer.text.splitlines()) == 1000


def running(standin: Standin, query_id: str) -> int:
    sql = "SELECT count() FROM system.processes WHERE query_id = {id:String}"
    with web(standin) as session:
        return int(session.post("/", params={"query": sql, "param_id": query_id}).text)


def until_running(standin: Standin, query_id: str) -> None:
    while not running(standin, query_id):
        pass


@pytest.mark.parametrize("condition", ["query_id = 'long-1'", "query_id LIKE 'long-%'"])
def test_a_running_query_is_seen_and_killed_by_its_id(standin: Standin, condition: str) -> None:
    def run() -> int:
        with client(standin) as session, pytest.raises(errors.ServerException) as killed:
            session.execute(ENDLESS, query_id="long-1")
        return int(killed.value.code)

    with ThreadPoolExecutor(1) as pool, client(standin) as admin:
        outcome = pool.submit(run)
        until_running(standin, "long-1")
        killed = admin.execute(f"KILL QUERY WHERE {condition} SYNC")
        assert [row[:2] for row in killed] == [("finished", "long-1")]
        assert outcome.result(timeout=30) == 394
        assert running(standin, "long-1") == 0


def test_a_second_query_under_the_same_id_is_refused(standin: Standin, database: str) -> None:
    make_table(standin, database)
    standin.fault("hang", table="t")
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(insert, standin, database, "k", [(1, "a")], query_id="same")
        until_running(standin, "same")
        with pytest.raises(errors.ServerException) as refused:
            insert(standin, database, "k", [(1, "a")], query_id="same")
        assert refused.value.code == 216
        standin.clear_faults()
        assert first.result(timeout=30) == 1


def test_a_query_ends_with_its_http_client_where_it_asked_for_that(standin: Standin) -> None:
    with socket.create_connection(("127.0.0.1", standin.http_port)) as sock:
        sock.sendall(
            b"POST /?query_id=gone&cancel_http_readonly_queries_on_client_close=1&user=admin"
            b"&password=admin-secret HTTP/1.1\r\nContent-Length: %d\r\n\r\n%s"
            % (len(ENDLESS), ENDLESS.encode())
        )
        until_running(standin, "gone")
    while running(standin, "gone"):
        pass


def test_refusals_are_switched_on_for_one_table_and_a_number_of_times(
    standin: Standin, database: str
) -> None:
    make_table(standin, database)
    standin.fault("refuse", table=f"{database}.t", times=2, code=252, name="TOO_MANY_PARTS")
    for _ in range(2):
        with pytest.raises(errors.ServerException) as refused:
            insert(standin, database, "k", [(1, "a")])
        assert refused.value.code == 252
        assert "Too many parts" in refused.value.message
    assert insert(standin, database, "k", [(1, "a")]) == 1
    assert counted(standin, f"{database}.t") == 1
    assert standin.faults()[-1]["hits"] == 2


@pytest.mark.parametrize(("at", "stored"), [("query", 0), ("data", 0), ("before", 0), ("after", 1)])
@pytest.mark.parametrize("action", ["cut", "reset"])
def test_a_connection_is_cut_before_or_after_the_insert_took_effect(
    standin: Standin, database: str, at: str, stored: int, action: str
) -> None:
    make_table(standin, database)
    standin.fault(action, at=at, table="t")
    with pytest.raises((EOFError, OSError)):
        insert(standin, database, "k", [(1, "a")])
    assert counted(standin, f"{database}.t") == stored
    insert(standin, database, "k", [(1, "a")])
    assert counted(standin, f"{database}.t") == 1
    assert counted(standin, f"{database}.v") == 1


def test_a_hanging_insert_is_seen_and_killed_and_a_released_one_takes_effect_late(
    standin: Standin, database: str
) -> None:
    make_table(standin, database)
    standin.fault("hang", table="t", times=2)
    with ThreadPoolExecutor(2) as pool, client(standin) as admin:
        killed = pool.submit(insert, standin, database, "k", [(1, "a")], query_id="h-1")
        until_running(standin, "h-1")
        admin.execute("KILL QUERY WHERE query_id = 'h-1' SYNC")
        with pytest.raises(errors.ServerException):
            killed.result(timeout=30)
        zombie = pool.submit(insert, standin, database, "k", [(1, "a")], query_id="h-2")
        until_running(standin, "h-2")
        assert counted(standin, f"{database}.t") == 0
        standin.clear_faults()
        assert zombie.result(timeout=30) == 1
    assert counted(standin, f"{database}.t") == 1


def test_http_inserts_meet_the_same_faults(standin: Standin, database: str) -> None:
    make_table(standin, database)
    standin.fault("cut", at="after", table="t")
    with web(standin) as session, pytest.raises(httpx.HTTPError):
        session.post("/", content=f"INSERT INTO {database}.t (a, s) VALUES (1, 'x')")
    assert counted(standin, f"{database}.t") == 1


BOOT = "SELECT toString(uuid) FROM system.tables WHERE database = 'system' AND name = 'one'"


@pytest.mark.parametrize(("at", "stored"), [("before", 0), ("after", 1)])
def test_data_survives_a_death_and_the_boot_id_changes(
    tmp_path: Path, at: str, stored: int
) -> None:
    with Standin(tmp_path) as standin:
        with client(standin) as admin:
            admin.execute("CREATE DATABASE w ENGINE = Atomic")
            boot = admin.execute(BOOT)
            assert admin.execute(BOOT) == boot
            server = admin.execute("SELECT serverUUID(), uptime() < 60")
        make_table(standin, "w")
        insert(standin, "w", "kept", [(1, "a"), (2, "b")])
        standin.fault("die", at=at, table="t")
        with pytest.raises((EOFError, OSError)):
            insert(standin, "w", "k", [(3, "c")])
        assert standin.wait() == -9
        ports = (standin.port, standin.http_port)
        standin.start()
        assert (standin.port, standin.http_port) == ports
        assert counted(standin, "w.t") == 2 + stored
        insert(standin, "w", "k", [(3, "c")])
        assert counted(standin, "w.t") == counted(standin, "w.v") == 3
        with client(standin) as admin:
            assert admin.execute(BOOT) != boot
            assert admin.execute("SELECT serverUUID(), uptime() < 60") == server


def test_many_connections_work_at_once(standin: Standin, database: str) -> None:
    make_table(standin, database)
    with ThreadPoolExecutor(8) as pool:
        done = [
            pool.submit(insert, standin, database, f"k{n % 20}", [(n % 20, "a")]) for n in range(40)
        ]
        assert sum(future.result(timeout=60) for future in done) == 40
    assert counted(standin, f"{database}.t") == 20


def test_the_proxy_loses_an_answer_after_the_insert_took_effect(
    standin: Standin, database: str
) -> None:
    make_table(standin, database)
    with Proxy("127.0.0.1", standin.port) as proxy:
        with client(standin, port=proxy.port, database=database) as writer:
            assert writer.execute("SELECT 1") == [(1,)]
            standin.fault("delay", at="after", table="t", seconds=0.3)
            cutter = threading.Thread(target=_cut_once_stored, args=(standin, database, proxy))
            cutter.start()
            with pytest.raises((EOFError, OSError)):
                writer.execute("INSERT INTO t (a, s) VALUES", [(1, "a")])
            cutter.join()
        proxy.refuse()
        with pytest.raises(errors.NetworkError):
            client(standin, port=proxy.port).execute("SELECT 1")
    assert counted(standin, f"{database}.t") == 1


def _cut_once_stored(standin: Standin, database: str, proxy: Proxy) -> None:
    while not counted(standin, f"{database}.t"):
        pass
    proxy.cut(reset=True)


def test_users_of_an_installation_can_do_what_they_were_granted_and_no_more(
    tmp_path: Path,
) -> None:
    with Standin(tmp_path) as standin:
        with client(standin) as admin:
            accounts = users("shop", {"writer": "w'1", "reader": "r1", "deployer": "d1"})
            for _ in range(2):
                for sql in statements("shop", accounts):
                    admin.execute(sql)
        standin.restart()
        with login(standin, "shop_deployer", "d1") as deployer:
            deployer.execute(
                "CREATE TABLE shop.t (a Int32, s String) ENGINE = MergeTree ORDER BY a"
            )
            assert denied(deployer, "CREATE TABLE default.x (a Int8) ENGINE = Memory") == 497
            assert denied(deployer, "CREATE USER x IDENTIFIED BY 'y'") == 497
        with login(standin, "shop_writer", "w'1") as writer:
            writer.execute("INSERT INTO shop.t (a, s) VALUES", [(1, "x")])
            assert writer.execute("SELECT count() FROM shop.t") == [(1,)]
            assert denied(writer, "DROP TABLE shop.t") == 497
        with login(standin, "shop_reader", "r1") as reader:
            assert reader.execute("SELECT a FROM shop.t") == [(1,)]
            assert denied(reader, "INSERT INTO shop.t (a) VALUES", [(1,)]) in (164, 497)
            assert denied(reader, "SELECT * FROM pipehouse_scratch.x") == 497
            with pytest.raises(errors.ServerException) as refused:
                reader.execute("SELECT 1", settings={"max_execution_time": 10_000})
            assert refused.value.code == 452
            assert reader.execute("SELECT currentUser()") == [("shop_reader",)]


def login(standin: Standin, name: str, password: str) -> Any:
    return client(standin, user=name, password=password, database="shop")


def denied(session: Any, sql: str, rows: Any = None) -> int:
    with pytest.raises(errors.ServerException) as refused:
        session.execute(sql, rows)
    return int(refused.value.code)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("certificate")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    paths = (folder / "certificate.pem", folder / "key.pem")
    paths[0].write_bytes(made.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return paths


def test_both_interfaces_speak_tls_with_a_given_certificate(
    tmp_path: Path, certificate: tuple[Path, Path]
) -> None:
    options = ("--certificate", str(certificate[0]), "--key", str(certificate[1]))
    with Standin(tmp_path, options=options, secure=True) as standin:
        session = driver.Client(
            "localhost",
            port=standin.port,
            user=ADMIN[0],
            password=ADMIN[1],
            secure=True,
            ca_certs=str(certificate[0]),
        )
        with session:
            assert session.execute("SELECT sum(number) FROM numbers(300000)") == [(44999850000,)]
        trusted = ssl.create_default_context(cafile=str(certificate[0]))
        with httpx.Client(verify=trusted, auth=ADMIN) as over_tls:
            url = f"https://localhost:{standin.http_port}/"
            assert over_tls.post(url, content="SELECT 1").text == "1\n"
        standin.fault("refuse", at="query", kind="select")
        assert standin.faults()[0]["action"] == "refuse"


def test_it_can_pose_as_an_older_release(tmp_path: Path) -> None:
    options = ("--version", "24.3.1")
    with Standin(tmp_path, options=options) as standin, client(standin) as session:
        assert session.execute("SELECT version()") == [("24.3.1.1",)]
        assert session.connection.server_info.version_tuple() == (24, 3, 1)


def orphan(folder: Path) -> None:
    """Take a part away and leave its deduplication entry, as a crash can."""
    (log,) = folder.glob("store/*/*/deduplication_logs/*.txt")
    (part,) = {line.split("\t")[1] for line in log.read_text().splitlines()}
    shutil.rmtree(log.parent.parent / part)


@pytest.mark.parametrize(("options", "stored"), [((), 0), (("--repair-orphans",), 1)])
def test_orphans_of_the_deduplication_log_are_repaired_only_when_asked_to(
    tmp_path: Path, options: tuple[str, ...], stored: int
) -> None:
    with Standin(tmp_path, options=options) as standin:
        with client(standin) as admin:
            admin.execute("CREATE DATABASE w ENGINE = Atomic")
            admin.execute(
                f"CREATE TABLE w.t (a Int32, s String) ENGINE = MergeTree ORDER BY a {WINDOW}"
            )
        insert(standin, "w", "k", [(1, "a")])
        standin.kill()
        orphan(tmp_path)
        standin.start()
        insert(standin, "w", "k", [(1, "a")])
        assert counted(standin, "w.t") == stored


def test_a_client_in_another_process_works_beside_this_one(standin: Standin, database: str) -> None:
    make_table(standin, database)
    script = (
        "import sys; from clickhouse_driver import Client\n"
        "client = Client('127.0.0.1', port=int(sys.argv[1]), user='admin',"
        " password='admin-secret', database=sys.argv[2])\n"
        "for n in range(20): client.execute('INSERT INTO t (a, s) VALUES', [(n, 'other')])\n"
    )
    other = subprocess.Popen([sys.executable, "-c", script, str(standin.port), database])
    for number in range(20):
        insert(standin, database, f"k{number}", [(500 + number, "this")])
    assert other.wait(60) == 0
    assert counted(standin, f"{database}.t") == counted(standin, f"{database}.v") == 40
