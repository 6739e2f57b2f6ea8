"""What is wrong with a server is one clear line and the right exit code, before anything runs."""

from __future__ import annotations

import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from shared.clickhouse.contract import Statement
from shared.clickhouse.server import open_server
from shared.errors import AppError, ClickHouseUnavailableError, ConfigError
from tests.standin.process import Standin


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Standin]:
    with Standin(tmp_path_factory.mktemp("plain")) as standin:
        yield standin


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A self-made certificate for localhost and its key."""
    folder = tmp_path_factory.mktemp("tls")
    certificate, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
            *("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"),
            *("-keyout", str(key), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
    )
    return certificate, key


@pytest.fixture(scope="module")
def secure(
    tmp_path_factory: pytest.TempPathFactory, certificate: tuple[Path, Path]
) -> Iterator[Standin]:
    file, key = certificate
    options = ("--certificate", str(file), "--key", str(key))
    with Standin(tmp_path_factory.mktemp("secure"), options=options, secure=True) as standin:
        yield standin


def _has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


@pytest.mark.skipif(not _has_ipv6(), reason="this machine has no ::1")
async def test_a_server_at_an_ipv6_address_is_written_to_and_read(tmp_path: Path) -> None:
    with Standin(tmp_path, options=("--host", "::1")) as standin:
        url = standin.url().replace("127.0.0.1", "[::1]")
        engine = await open_server(url)
        try:
            await engine.execute(Statement(sql="CREATE DATABASE six"))
            await engine.execute(Statement(sql="CREATE TABLE six.t ENGINE = Log AS SELECT 6 AS n"))
            found = await engine.fetch(Statement(sql="SELECT n FROM six.t", format="TSV"))
            assert found.body == b"6\n"
        finally:
            await engine.close()
        free = _free_port()
        problem = await _problem(url.replace(f"]:{standin.port}/", f"]:{free}/"))
        assert f"[::1]:{free}" in str(problem)


async def _problem(url: str, *, writes: bool = True) -> AppError:
    with capture_logs() as lines, pytest.raises(AppError) as caught:
        await open_server(url, writes=writes)
    assert lines == [], "more than the one line"
    assert "\n" not in str(caught.value)
    assert "Traceback" not in str(caught.value)
    return caught.value


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


CASES: list[tuple[str, Callable[[Standin], str], str, int]] = [
    ("password", lambda s: s.url(password="wrong"), "wrong password", 4),
    ("user", lambda s: s.url("nobody"), "user 'nobody'", 4),
    ("database", lambda s: s.url(database="missing"), "database 'missing' does not exist", 4),
    ("reader", lambda s: s.url("reader"), "'reader' is read-only", 4),
    ("host", lambda s: s.url().replace("127.0.0.1", "no-such-host.invalid"), "no-such-host", 5),
    ("port", lambda s: s.url().replace(f":{s.port}/", f":{_free_port()}/"), "Nothing listens", 5),
    (
        "http port",
        lambda s: s.url().replace(f"http_port={s.http_port}", f"http_port={_free_port()}"),
        "http_port",
        5,
    ),
    (
        "ports of HTTP and of the native protocol mixed up",
        lambda s: s.url().replace(f":{s.port}/", f":{s.http_port}/"),
        "does not speak the native protocol. The port behind the host",
        5,
    ),
    (
        "native port for HTTP",
        lambda s: s.url().replace(f"http_port={s.http_port}", f"http_port={s.port}"),
        "http_port",
        4,
    ),
    ("tls on a plain port", lambda s: s.url().replace("secure=0", "secure=1"), "does not speak", 4),
]


@pytest.mark.parametrize(("wrong", "url", "says", "exit_code"), CASES, ids=[c[0] for c in CASES])
async def test_what_is_wrong_is_said(
    plain: Standin, wrong: str, url: Callable[[Standin], str], says: str, exit_code: int
) -> None:
    problem = await _problem(url(plain))
    assert says in str(problem)
    assert problem.exit_code == exit_code
    assert "secret" not in str(problem)


async def test_a_reader_is_enough_for_reading(plain: Standin) -> None:
    engine = await open_server(plain.url("reader"), writes=False)
    await engine.ping()
    await engine.close()


async def test_a_reader_who_may_not_choose_settings_is_refused(plain: Standin) -> None:
    problem = await _problem(plain.url("strict_reader"), writes=False)
    assert "readonly = 1" in str(problem)
    assert problem.exit_code == 4


async def test_plain_text_on_a_tls_port_is_said(secure: Standin) -> None:
    problem = await _problem(secure.url().replace("secure=1", "secure=0"))
    assert "speaks TLS" in str(problem)
    assert isinstance(problem, ConfigError)


async def test_a_certificate_that_nobody_vouches_for_is_refused(
    secure: Standin, certificate: tuple[Path, Path]
) -> None:
    base = secure.url().partition("?")[0] + f"?http_port={secure.http_port}&secure=1"
    problem = await _problem(base)
    assert "not trusted" in str(problem)
    assert "ca=" in str(problem)
    assert problem.exit_code == 4
    for options in (f"&ca={certificate[0]}", "&verify=0"):
        engine = await open_server(base + options)
        await engine.ping()
        await engine.close()


async def test_too_old_a_server_is_refused(tmp_path: Path) -> None:
    with Standin(tmp_path / "old", options=("--version", "25.3.1")) as old:
        problem = await _problem(old.url())
    assert "25.3" in str(problem)
    assert "25.8" in str(problem)
    assert problem.exit_code == 4


async def test_a_server_that_says_nothing_is_out_of_reach() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        problem = await _problem(f"clickhouse://127.0.0.1:{port}/d?timeout_s=0.3")
    assert isinstance(problem, ClickHouseUnavailableError)
    assert problem.exit_code == 5


async def test_something_else_on_the_port_is_said() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            for _ in range(2):
                sock, _ = listener.accept()
                with sock:
                    sock.recv(1000)
                    sock.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        problem = await _problem(f"clickhouse://127.0.0.1:{listener.getsockname()[1]}/d")
        thread.join(5)
    assert problem.exit_code == 5


def test_the_certificate_of_the_tests_can_be_read(certificate: tuple[Path, Path]) -> None:
    context = ssl.create_default_context(cafile=str(certificate[0]))
    assert context.get_ca_certs()
