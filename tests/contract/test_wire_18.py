"""The wire of a real server, old as it is, beside the stand-in's: inserts, answers, refusals, ends.

Runs where Debian's ``clickhouse-server`` (18.16) is installed or unpacked; see
``PIPEHOUSE_TEST_CLICKHOUSE_18`` below.
"""

from __future__ import annotations

import datetime
import importlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec import Struct

from tests.standin.process import Standin

driver: Any = importlib.import_module("clickhouse_driver")
errors: Any = importlib.import_module("clickhouse_driver.errors")
protocol: Any = importlib.import_module("clickhouse_driver.protocol")

# The path of the program, where it is not on the PATH; its libraries by LD_LIBRARY_PATH.
ENVIRONMENT = "PIPEHOUSE_TEST_CLICKHOUSE_18"
PASSWORD = "secret"
_START_S = 20.0

CONFIGURATION = """<yandex>
<logger><level>error</level><console>1</console></logger>
<tcp_port>{port}</tcp_port><http_port>{http_port}</http_port><listen_host>127.0.0.1</listen_host>
<path>{folder}/data/</path><tmp_path>{folder}/tmp/</tmp_path><users_config>users.xml</users_config>
<default_profile>default</default_profile><default_database>default</default_database>
<mark_cache_size>67108864</mark_cache_size></yandex>
"""
USERS = f"""<yandex><profiles><default/></profiles><quotas><default/></quotas><users><default>
<password>{PASSWORD}</password><networks><ip>127.0.0.1</ip></networks><profile>default</profile>
<quota>default</quota></default></users></yandex>
"""


class Server(Struct, frozen=True):
    """Something that speaks the native protocol; ``pid`` can be killed."""

    name: str
    port: int
    pid: int

    def client(self, **options: Any) -> Any:
        options = {"port": self.port, "password": PASSWORD, **options}
        return driver.Client("127.0.0.1", **options)


def program() -> str | None:
    found = os.environ.get(ENVIRONMENT) or shutil.which(
        "clickhouse-server", path=f"{os.environ.get('PATH', '')}:/usr/sbin"
    )
    if found is None:
        return None
    return found


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


def until_answers(process: subprocess.Popen[bytes], port: int) -> None:
    until = time.monotonic() + _START_S
    while time.monotonic() < until:
        assert process.poll() is None, f"the server ended with {process.returncode}"
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except ConnectionRefusedError:
            continue
        return
    pytest.fail("the server did not answer in time")


@pytest.fixture
def debian(tmp_path: Path) -> Iterator[Server]:
    path = program()
    if path is None:
        pytest.skip(
            "Debian's clickhouse-server 18.16 is not installed (apt-get install clickhouse-server)"
        )
    folder = tmp_path / "clickhouse-18"
    for name in ("data", "tmp"):
        (folder / name).mkdir(parents=True)
    port = free_port()
    settings = CONFIGURATION.format(port=port, http_port=free_port(), folder=folder)
    (folder / "config.xml").write_text(settings)
    (folder / "users.xml").write_text(USERS)
    process = subprocess.Popen(
        [path, f"--config-file={folder / 'config.xml'}"],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        until_answers(process, port)
        yield Server("debian", port, process.pid)
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def standin(tmp_path: Path) -> Iterator[Server]:
    users = {"default": {"password": PASSWORD}}
    with Standin(tmp_path / "standin", users=users) as started:
        with driver.Client("127.0.0.1", port=started.port, password=PASSWORD) as client:
            client.execute("CREATE DATABASE IF NOT EXISTS w ENGINE = Atomic")
        yield Server("standin", started.port, started.pid)


@pytest.fixture(params=["debian", "standin"])
def server(request: pytest.FixtureRequest) -> Server:
    found: Server = request.getfixturevalue(request.param)
    return found


def prepare(server: Server, **options: Any) -> Any:
    # The stand-in's default database is not one to make tables in.
    database = "w" if server.name == "standin" else "default"
    session = server.client(database=database, **options)
    session.execute(
        "CREATE TABLE t (a Int32, s String, d DateTime, f Nullable(Float64), l Array(String),"
        " hidden Int64 MATERIALIZED 7) ENGINE = MergeTree ORDER BY a"
    )
    return session


COLUMNS = [
    [1, 2],
    [b"x", "ü".encode()],
    [1_700_000_000, 1_700_000_001],
    [None, 1.5],
    [[], [b"p", b"q"]],
]
INSERT = "INSERT INTO t (a, s, d, f, l) VALUES"


@pytest.mark.parametrize("compression", [False, "lz4", "zstd"])
def test_columns_as_our_engine_sends_them_arrive(server: Server, compression: Any) -> None:
    with prepare(server, compression=compression) as session:
        settings = {"strings_as_bytes": True, "insert_block_size": 1_048_576}
        inserted = session.execute(
            INSERT, COLUMNS, columnar=True, settings=settings, query_id="ours"
        )
        assert inserted == 2
        rows = session.execute("SELECT a, s, d, f, l, hidden FROM t ORDER BY a")
    seconds = [datetime.datetime(2023, 11, 14, 22, 13, 20 + n) for n in (0, 1)]  # noqa: DTZ001
    assert rows == [(1, "x", seconds[0], None, [], 7), (2, "ü", seconds[1], 1.5, ["p", "q"], 7)]


def packets(session: Any, sql: str) -> list[str]:
    """The kinds of packets that answer a query, in order, repeated ones and progress once."""
    connection = session.connection
    connection.force_connect()
    session.make_query_settings({})
    connection.send_query(sql)
    connection.send_external_tables(None)
    names: list[str] = []
    while not names or names[-1] not in ("EndOfStream", "Exception"):
        packet = connection.receive_packet()
        name = str(protocol.ServerPacketTypes.to_str(packet.type))
        if name == "Data":
            name = "Empty" if not packet.block.num_columns else "Data"
        if name != "Progress" and names[-1:] != [name]:
            names.append(name)
    connection.is_query_executing = False
    return names


def test_a_select_is_answered_by_the_same_packets(debian: Server, standin: Server) -> None:
    found = []
    for server in (debian, standin):
        with prepare(server) as session:
            session.execute(INSERT, [list(row) for row in zip(*COLUMNS, strict=True)])
            found.append(packets(session, "SELECT a, s FROM t"))
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("sql", "code"),
    [
        ("SELECT * FROM nowhere", 60),
        ("SELECT nope FROM t", 47),
        ("SELECT throwIf(a > 1) FROM t", 395),
        ("SELEC 1 2", 62),
    ],
)
def test_a_refused_select_is_an_exception_and_the_connection_goes_on(
    server: Server, sql: str, code: int
) -> None:
    with prepare(server) as session:
        session.execute("INSERT INTO t (a) VALUES", [(2,)])
        with pytest.raises(errors.ServerException) as refused:
            session.execute(sql)
        assert refused.value.code == code
        assert refused.value.message.startswith("DB::Exception: ")
        if code == 62 and server.name == "debian":
            return  # This release stumbles over what the client has sent behind such a query.
        # The driver closes its connection then; the server would have gone on with it.
        assert packets(session, sql)[-1] == "Exception"
        assert session.connection.ping()
        assert packets(session, "SELECT count() FROM t")[-1] == "EndOfStream"


@pytest.mark.parametrize(
    ("sql", "code"), [("INSERT INTO nowhere (a) VALUES", 60), ("INSERT INTO t (nope) VALUES", 16)]
)
def test_an_insert_is_refused_before_its_data_is_sent(server: Server, sql: str, code: int) -> None:
    with prepare(server) as session:
        with pytest.raises(errors.ServerException) as refused:
            session.execute(sql, [(1,)])
        assert refused.value.code == code
        assert session.execute("SELECT count() FROM t") == [(0,)]


def test_the_header_of_an_insert_names_its_columns_and_no_others(server: Server) -> None:
    with prepare(server) as session:
        connection = session.connection
        session.make_query_settings({})
        connection.send_query("INSERT INTO t (s, a) VALUES")
        connection.send_external_tables(None)
        header = session.receive_sample_block()
        assert header.columns_with_types == [("s", "String"), ("a", "Int32")]
        assert header.num_rows == 0
        connection.disconnect()


def test_what_was_not_sent_to_its_end_is_not_stored(standin: Server) -> None:
    # The old release may store the blocks it has; newer ones hold back what they squash.
    with prepare(standin) as session:
        connection = session.connection
        session.make_query_settings({})
        connection.send_query("INSERT INTO t (a) VALUES")
        connection.send_external_tables(None)
        header = session.receive_sample_block()
        block_class = importlib.import_module("clickhouse_driver.block").RowOrientedBlock
        connection.send_data(block_class(header.columns_with_types, [(1,)]))
        connection.disconnect()
        assert session.execute("SELECT count() FROM t") == [(0,)]


def test_a_killed_server_is_an_end_of_file_and_then_a_refused_connection(server: Server) -> None:
    with prepare(server) as session:
        os.kill(server.pid, signal.SIGKILL)
        with pytest.raises((EOFError, OSError, errors.NetworkError)):
            session.execute("SELECT 1")
        with pytest.raises((errors.NetworkError, EOFError)):
            session.execute("SELECT 1")


def test_a_wrong_password_is_refused_in_the_greeting(server: Server) -> None:
    with pytest.raises(errors.ServerException) as refused:
        server.client(password="wrong").execute("SELECT 1")
    # 193 until users came with SQL, 516 since.
    assert refused.value.code == {"debian": 193, "standin": 516}[server.name]
