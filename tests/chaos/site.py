"""What a run of chaos works on: a data folder, perhaps a ClickHouse server, and their victims."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct

from shared.clickhouse.orphans import _complete_parts, without_orphans
from tests.standin.process import ADMIN, Standin

ROOT = Path(__file__).parents[2]
PROJECT = Path(__file__).parent / "project"
DATABASE = "chaos"
# What was lost is found out within seconds, not within minutes.
_SHORT = "&timeout_s=5&connect_timeout_s=2"


class Victim(Struct):
    """A server that will be killed; ``url`` is empty where it died before it answered."""

    process: asyncio.subprocess.Process
    url: str
    token: str


class Site(Struct, kw_only=True):
    """A data folder, and a server where the engine is a process of its own."""

    folder: Path
    standin: Standin | None = None

    @property
    def _environ(self) -> Mapping[str, str]:
        if self.standin is None:
            return os.environ
        url = self.standin.url(database=DATABASE) + _SHORT
        return {**os.environ, "PIPEHOUSE_CLICKHOUSE_URL": url}

    async def start(self, crash: tuple[str, str, int] | None = None) -> Victim:
        """Start a dev server, which ends itself at a step when one is named."""
        extra = [str(part) for part in crash] if crash else []
        log = self.folder / "victim.log"
        with log.open("wb") as errors:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "tests.chaos.victim", str(self.folder), str(PROJECT)),
                *extra,
                cwd=ROOT,
                env=self._environ,
                stdout=asyncio.subprocess.PIPE,
                stderr=errors,
            )
        assert process.stdout is not None
        line = (await process.stdout.readline()).decode().split()
        if len(line) == 2:
            return Victim(process, *line)
        # A crash point may lie in the recovery, before the server answers.
        await process.wait()
        if crash is None or process.returncode != -signal.SIGKILL:
            raise AssertionError(f"the server does not start: {log.read_text()[-2000:]}")
        return Victim(process, "", "")


def open_site(folder: Path, *, on_server: bool) -> Site:
    """A site on an empty folder; its server runs until ``close_site``."""
    folder.mkdir(parents=True)
    if not on_server:
        return Site(folder=folder)
    standin = Standin(folder / "server")
    standin.start()
    ask(standin, f"CREATE DATABASE {DATABASE} ENGINE = Atomic")
    return Site(folder=folder, standin=standin)


def close_site(site: Site) -> None:
    if site.standin is not None:
        site.standin.stop()


def ask(standin: Standin, sql: str) -> str:
    """One statement, as an administrator."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{standin.http_port}/",
        data=sql.encode(),
        headers={"X-ClickHouse-User": ADMIN[0], "X-ClickHouse-Key": ADMIN[1]},
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return str(answer.read().decode())


def orphans(folder: Path) -> dict[str, int]:
    """Tokens without their part by UUID of the table: what a crash of the engine left behind."""
    found = {}
    for table in sorted({log.parent.parent for log in folder.rglob("deduplication_logs/*.txt")}):
        lines = [
            line
            for log in sorted(table.glob("deduplication_logs/*.txt"))
            for line in log.read_text(errors="surrogateescape").splitlines()
        ]
        lost = len(lines) - len(without_orphans(lines, _complete_parts(table)))
        if lost:
            found[table.name] = lost
    return found


def wait_until_dead(standin: Standin, timeout_s: float) -> bool:
    """Whether a server ended by itself in that time."""
    try:
        standin.wait(timeout_s)
    except subprocess.TimeoutExpired:
        return False
    return True
