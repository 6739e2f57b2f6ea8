"""A running server as its users meet it: a process, an address and a token."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

ROOT = Path(__file__).parents[2]
PROJECTS = ROOT / "deploy" / "projects"
PROJECT_NAMES = ("clickstream", "marketing", "messaging", "mobile", "user_behavior")

_READY = "Pipehouse serves "
_START_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = 30.0


def wait_for(check: Callable[[], bool], what: str, timeout_s: float = 10.0) -> float:
    """Ask until the answer is yes; returns how long that took in seconds."""
    started_s = time.monotonic()
    while not check():
        if time.monotonic() - started_s > timeout_s:
            pytest.fail(f"Not within {timeout_s:g} s: {what}")
        time.sleep(0.02)
    return time.monotonic() - started_s


def clean_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment without settings of whoever runs the tests."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("PIPEHOUSE_")}
    return {**kept, "PIPEHOUSE_LOG_FORMAT": "json", **(extra or {})}


def run_command(
    *arguments: str | Path, environ: Mapping[str, str] | None = None, timeout_s: float = 60.0
) -> subprocess.CompletedProcess[str]:
    """A ``pipehouse`` command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "deploy.cli", *map(str, arguments)],
        cwd=ROOT,
        env=clean_environment(environ),
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


class Server:
    """``pipehouse dev`` in a process of its own.

    Args:
        folders: The projects.
        data: The data folder, kept when the server stops.
        options: More options of the command.
    """

    def __init__(self, folders: list[Path], data: Path, *options: str) -> None:
        self.data = data
        data.mkdir(parents=True, exist_ok=True)
        # Beside the data folder and appended to, so that a restart leaves the earlier lines.
        self._out_path = data.with_suffix(".out")
        self._err_path = data.with_suffix(".err")
        command = [sys.executable, "-m", "deploy.cli", "dev", *map(str, folders)]
        command += ["--port", "0", "--data", str(data), *options]
        with self._out_path.open("w") as out, self._err_path.open("a") as err:
            self.process = subprocess.Popen(
                command, cwd=ROOT, env=clean_environment(), stdout=out, stderr=err
            )
        try:
            wait_for(self._is_ready, "the server is ready", _START_TIMEOUT_S)
        except BaseException:
            self.process.kill()
            self.process.wait()
            raise
        first = next(line for line in self.out().splitlines() if line.startswith(_READY))
        self.url = first.removeprefix(_READY).strip()
        self.token = (data / "admin_token").read_text().strip()
        self.client = httpx.Client(
            base_url=self.url, headers={"Authorization": f"Bearer {self.token}"}, timeout=30
        )

    def _is_ready(self) -> bool:
        if self.process.poll() is not None:
            pytest.fail(f"The server ended with {self.process.returncode}: {self.err()}")
        # The line is whole and what follows it is printed in one go.
        return any(line.startswith(_READY) for line in self.out().splitlines(keepends=True)[:-1])

    def out(self) -> str:
        """What it printed since its start."""
        return self._out_path.read_text()

    def err(self) -> str:
        """What it logged, runs before a restart included."""
        return self._err_path.read_text()

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Send a signal, and expect the exit code of a drain."""
        self.client.close()
        if self.process.poll() is None:
            self.process.send_signal(number)
        assert self.process.wait(_STOP_TIMEOUT_S) == 128 + number, self.err()
        assert "Traceback" not in self.err()

    def send(self, name: str, content: bytes | str, **params: str) -> httpx.Response:
        """POST events."""
        return self.client.post("/v0/events", params={"name": name, **params}, content=content)

    def store(self, name: str, *events: dict[str, Any]) -> httpx.Response:
        """POST events and wait until they can be queried."""
        answer = self.send(name, b"\n".join(map(msgspec.json.encode, events)), wait="true")
        assert answer.status_code == 200, answer.text
        return answer

    def pipe(self, name: str, **params: str) -> httpx.Response:
        """An endpoint as JSON."""
        return self.client.get(f"/v0/pipes/{name}.json", params=params)

    def pipe_rows(self, name: str, **params: str) -> list[dict[str, Any]]:
        """The rows of an endpoint."""
        answer = self.pipe(name, **params)
        assert answer.status_code == 200, answer.text
        rows: list[dict[str, Any]] = answer.json()["data"]
        return rows

    def query(self, sql: str) -> list[dict[str, Any]]:
        """The rows of free SQL."""
        answer = self.client.get("/v0/sql", params={"q": f"{sql} FORMAT JSON"})
        assert answer.status_code == 200, answer.text
        rows: list[dict[str, Any]] = answer.json()["data"]
        return rows

    def count(self, table: str) -> int:
        """The rows of a table."""
        return int(self.query(f"SELECT count() AS n FROM {table}")[0]["n"])

    def wait_for_rows(self, table: str, rows: int, timeout_s: float = 10.0) -> float:
        """Ask until the table has that many rows; returns how long that took in seconds."""
        return wait_for(lambda: self.count(table) >= rows, f"{table} has {rows} rows", timeout_s)


@pytest.fixture(scope="module")
def module_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for what the tests of a module share."""
    return tmp_path_factory.mktemp("module")


@pytest.fixture(scope="module")
def five(module_path: Path) -> Iterator[Server]:
    """The five example projects, with empty tables at the start of the module."""
    server = Server([PROJECTS / name for name in PROJECT_NAMES], module_path / "five")
    yield server
    server.stop()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Start servers of the test's own; what still runs at its end is stopped."""
    started: list[Server] = []

    def run(folders: list[Path], *options: str, data: str = "data") -> Server:
        server = Server(folders, tmp_path / data, *options)
        started.append(server)
        return server

    yield run
    for server in started:
        if server.process.poll() is None:
            server.stop()


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A small project that tests may edit."""
    folder = tmp_path / "shop"
    shutil.copytree(PROJECTS / "marketing", folder)
    return folder
