"""What the commands of an installation say when a service is not as it should be."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import PROJECTS, run_command
from tests.standin.process import Standin

PROJECT = PROJECTS / "marketing"
TOKEN = {
    "PIPEHOUSE_ADMIN_TOKEN": "0123456789abcdef0123456789abcdef",
    "PIPEHOUSE_SECRET": "fedcba9876543210fedcba9876543210",
}


@pytest.fixture(scope="module")
def server(module_path: Path) -> Iterator[Standin]:
    """A server that is well, with users who may do different things."""
    with Standin(module_path / "clickhouse") as standin:
        yield standin


def said(done_text: str) -> str:
    """The one line that a command ended with."""
    lines = [line for line in done_text.splitlines() if line.strip()]
    assert len(lines) == 1, done_text
    assert "Traceback" not in done_text
    return lines[0]


def refuse(tmp_path: Path, command: str, url: str, **environ: str) -> tuple[int, str]:
    arguments = [command, str(PROJECT)] if command == "deploy" else [command, "--port", "0"]
    environ = {
        **TOKEN,
        "PIPEHOUSE_CLICKHOUSE_URL": url,
        "PIPEHOUSE_DATA": str(tmp_path / "data"),
        **environ,
    }
    done = run_command(*arguments, environ=environ)
    assert "secret" not in done.stderr, "a password was printed"
    return done.returncode, said(done.stderr)


@pytest.mark.parametrize("command", ["query", "deploy"])
@pytest.mark.parametrize(
    ("change", "exit_code", "text"),
    [
        (("admin-secret", "wrong"), 4, r"user 'admin'.*password"),
        (("admin:", "nobody:"), 4, r"user 'nobody'"),
        (("/default?", "/nowhere?"), 4, r"database 'nowhere' does not exist"),
        (("127.0.0.1", "no-such-host.invalid"), 5, r"no-such-host\.invalid"),
        (("secure=0", "secure=1"), 4, r"TLS"),
        (("clickhouse://", "http://"), 4, r"clickhouse://"),
    ],
)
def test_a_server_that_cannot_be_used_is_one_line_and_an_exit_code(
    tmp_path: Path,
    server: Standin,
    command: str,
    change: tuple[str, str],
    exit_code: int,
    text: str,
) -> None:
    code, line = refuse(tmp_path, command, server.url().replace(*change))
    assert re.search(text, line), line
    assert code == exit_code, line


def test_a_port_where_nobody_listens_is_told(tmp_path: Path, server: Standin) -> None:
    url = re.sub(r"@127\.0\.0\.1:\d+", "@127.0.0.1:1", server.url())
    code, line = refuse(tmp_path, "query", url)
    assert code == 5 and "127.0.0.1:1" in line


def test_a_reader_may_not_deploy_and_is_told_before_anything_is_done(
    tmp_path: Path, server: Standin
) -> None:
    code, line = refuse(tmp_path, "deploy", server.url("reader"))
    assert code == 4 and "read-only" in line


def test_a_server_that_is_too_old_is_told_with_the_version_that_is_needed(tmp_path: Path) -> None:
    with Standin(tmp_path / "old", options=["--version", "24.3.1"]) as old:
        code, line = refuse(tmp_path, "query", old.url())
    assert code == 4 and "24.3" in line and "25.8" in line


@pytest.mark.parametrize("command", ["ingest", "events", "serve"])
def test_a_process_that_needs_kafka_says_so(tmp_path: Path, server: Standin, command: str) -> None:
    code, line = refuse(tmp_path, command, server.url())
    assert code == 4 and "PIPEHOUSE_KAFKA_BOOTSTRAP_SERVERS" in line


def test_kafka_that_does_not_answer_ends_a_process_with_5(tmp_path: Path, server: Standin) -> None:
    nobody = {"PIPEHOUSE_KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1"}
    code, line = refuse(tmp_path, "events", server.url(), **nobody)
    assert code == 5 and "127.0.0.1:1" in line


@pytest.mark.parametrize("command", ["ingest", "events", "query", "serve", "deploy"])
def test_without_a_server_the_way_out_is_named(tmp_path: Path, command: str) -> None:
    arguments = [command, str(PROJECT)] if command == "deploy" else [command, "--port", "0"]
    done = run_command(*arguments, environ={"PIPEHOUSE_DATA": str(tmp_path)})
    assert done.returncode == 4
    assert "PIPEHOUSE_CLICKHOUSE_URL" in said(done.stderr)


@pytest.mark.parametrize(
    "token", ["short", "an-example-token-that-is-long-enough", "changeme" * 4, "password" * 5]
)
def test_a_public_address_needs_a_token_that_cannot_be_guessed(tmp_path: Path, token: str) -> None:
    done = run_command(
        *("query", "--host", "0.0.0.0", "--port", "0"),
        environ={"PIPEHOUSE_ADMIN_TOKEN": token, "PIPEHOUSE_DATA": str(tmp_path)},
    )
    assert done.returncode == 4
    line = said(done.stderr)
    assert "0.0.0.0" in line and "openssl rand" in line and token not in line


def test_bootstrap_makes_users_who_can_do_their_work_and_no_more(
    tmp_path: Path, server: Standin
) -> None:
    environ = {
        **TOKEN,
        "PIPEHOUSE_CLICKHOUSE_URL": server.url(database="boot"),
        "PIPEHOUSE_DATA": str(tmp_path / "data"),
    }
    done = run_command("deploy", "--bootstrap", environ=environ)
    assert done.returncode == 0, done.stderr
    urls = dict(
        zip(
            ("writer", "reader", "deployer"),
            re.findall(r"PIPEHOUSE_CLICKHOUSE_URL='([^']+)'", done.stdout),
            strict=True,
        )
    )
    deployed = run_command(
        "deploy", PROJECT, environ={**environ, "PIPEHOUSE_CLICKHOUSE_URL": urls["deployer"]}
    )
    assert deployed.returncode == 0, deployed.stderr + deployed.stdout
    for role in ("reader", "writer"):
        refused = run_command(
            "deploy",
            PROJECTS / "mobile",
            environ={**environ, "PIPEHOUSE_CLICKHOUSE_URL": urls[role]},
        )
        assert refused.returncode != 0, role
        assert "Traceback" not in refused.stderr
    again = run_command("deploy", "--bootstrap", environ=environ)
    assert again.stdout.count("its password was left as it is") == 3
