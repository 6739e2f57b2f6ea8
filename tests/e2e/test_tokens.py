"""Tokens of a running server: from datafiles, from the API, after a crash, with another secret."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import httpx

from tests.e2e.conftest import Server, run_command, wait_for

PIPE = "endpoints/total_events.pipe"
DATASOURCE = "datasources/marketing_events.datasource"


def token_of(server: Server, name: str) -> str:
    answer = server.client.get(f"/v0/tokens/{name}")
    assert answer.status_code == 200, answer.text
    return str(answer.json()["token"])


def reads(server: Server, token: str) -> int:
    return httpx.get(f"{server.url}/v0/pipes/total_events.json?token={token}").status_code


def appends(server: Server, token: str) -> int:
    url = f"{server.url}/v0/events?name=marketing_events&token={token}"
    return httpx.post(url, content=b'{"a": 1}').status_code


def prepend(path: Path, line: str) -> None:
    path.write_text(f"{line}\n\n{path.read_text()}")


def test_tokens_of_datafiles_live_as_their_lines_do_and_outlive_a_crash(
    start: Callable[..., Server], shop: Path, tmp_path: Path
) -> None:
    prepend(shop / PIPE, "TOKEN dashboard READ")
    prepend(shop / DATASOURCE, "TOKEN tracker APPEND")
    server = start([shop])
    dashboard, tracker = token_of(server, "dashboard"), token_of(server, "tracker")
    assert (reads(server, dashboard), appends(server, dashboard)) == (200, 403)
    assert (reads(server, tracker), appends(server, tracker)) == (403, 202)
    made = server.client.post("/v0/tokens?name=mine&scope=PIPES:READ:total_events").json()

    server.client.close()
    server.process.send_signal(signal.SIGKILL)
    server.process.wait()
    assert_a_wrong_secret_is_one_line(shop, server.data)

    again = start([shop])
    assert token_of(again, "tracker") == tracker
    assert reads(again, made["token"]) == reads(again, dashboard) == 200
    assert appends(again, tracker) == 202

    pipe = shop / PIPE
    pipe.write_text(pipe.read_text().replace("TOKEN dashboard READ", ""))
    wait_for(lambda: reads(again, dashboard) == 403, "the token has lost its scope")
    assert appends(again, tracker) == 202
    assert reads(again, made["token"]) == 200


def assert_a_wrong_secret_is_one_line(project: Path, data: Path) -> None:
    options = ("--port", "0", "--data", str(data))
    secret = {"PIPEHOUSE_SECRET": "not-the-secret-of-this-folder"}
    ended = run_command("dev", project, *options, environ=secret)
    assert ended.returncode == 4, ended.stderr
    said = [line for line in ended.stderr.splitlines() if "another secret" in line]
    assert len(said) == 1, ended.stderr
    assert "PIPEHOUSE_SECRET" in said[0]
    assert "Traceback" not in ended.stderr
    assert secret["PIPEHOUSE_SECRET"] not in ended.stderr + ended.stdout
