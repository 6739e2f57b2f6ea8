"""``make stack``: a whole installation on this machine, without containers.

A Kafka broker, a ClickHouse server, the deployment of the projects, two ``ingest``, one ``events``
and two ``query``, each a process of its own, as ``compose.yaml`` has them. The server is that of
``PIPEHOUSE_CLICKHOUSE_URL``, else the tests' stand-in; the broker that of
``PIPEHOUSE_KAFKA_BOOTSTRAP_SERVERS``, else one of Java artifacts. Data goes with it.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from msgspec import Struct

from deploy.kafka.broker import open_broker
from shared.errors import AppError
from tests.standin.process import Standin

ROOT = Path(__file__).parents[1]
DATABASE = "workspace"
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 30.0

# Role, number, port. A number of its own for each, so that all can run on one machine.
PROCESSES = (
    ("ingest", 1, 7184),
    ("ingest", 2, 7185),
    ("events", 1, 7183),
    ("query", 1, 7181),
    ("query", 2, 7182),
)


class Stack(Struct, frozen=True, kw_only=True):
    """What runs: where each process answers, and how commands are pointed at it."""

    urls: Mapping[str, str]
    environ: Mapping[str, str]
    processes: Mapping[str, subprocess.Popen[bytes]]


class StackError(Exception):
    """A part did not start; the text names its log."""


@contextlib.contextmanager
def stack(
    projects: Sequence[Path],
    folder: Path,
    *,
    usual_ports: bool = True,
    environ: Mapping[str, str] = os.environ,
) -> Iterator[Stack]:
    """Start everything; it is stopped in order at the end.

    Args:
        projects: What is deployed.
        folder: For data and logs.
        usual_ports: Else each process picks a free one.
        environ: May name a broker and a server, and have more settings for the processes.

    Raises:
        StackError: A part did not start.
        ConfigError: There is no Java for a broker.
    """
    with contextlib.ExitStack() as parts:
        environ = {
            **environ,
            "PIPEHOUSE_ADMIN_TOKEN": secrets.token_hex(32),
            "PIPEHOUSE_SECRET": secrets.token_hex(32),
            "PIPEHOUSE_DATA": str(folder / "data"),
            "PIPEHOUSE_LOG_FORMAT": "json",
            "PIPEHOUSE_KAFKA_BOOTSTRAP_SERVERS": parts.enter_context(_broker(folder, environ)),
            "PIPEHOUSE_CLICKHOUSE_URL": parts.enter_context(_server(folder, environ)),
        }
        done = subprocess.run(
            [sys.executable, "-m", "deploy.cli", "deploy", *map(str, projects)],
            cwd=ROOT,
            env=environ,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise StackError(f"deploy ended with {done.returncode}: {done.stderr}{done.stdout}")
        processes: dict[str, subprocess.Popen[bytes]] = {}
        parts.callback(_stop, processes)
        urls = {}
        for role, number, port in PROCESSES:
            name = f"{role}-{number}"
            chosen = port if usual_ports else 0
            processes[name], log = _start(folder, role, name, chosen, environ)
            urls[name] = _address(processes[name], log, role)
        for name, url in urls.items():
            _wait_until_ready(url, processes[name], folder / f"{name}.log")
        yield Stack(urls=urls, environ=environ, processes=processes)


@contextlib.contextmanager
def _broker(folder: Path, environ: Mapping[str, str]) -> Iterator[str]:
    if given := environ.get("PIPEHOUSE_KAFKA_BOOTSTRAP_SERVERS"):
        yield given
        return
    data = folder / "kafka"
    data.mkdir(parents=True)
    broker = open_broker(data)
    try:
        broker.start()
        yield broker.bootstrap_servers
    finally:
        broker.stop()


@contextlib.contextmanager
def _server(folder: Path, environ: Mapping[str, str]) -> Iterator[str]:
    if given := environ.get("PIPEHOUSE_CLICKHOUSE_URL"):
        yield given
        return
    with Standin(folder / "clickhouse") as standin:
        request = urllib.request.Request(
            f"http://127.0.0.1:{standin.http_port}/",
            data=f"CREATE DATABASE IF NOT EXISTS {DATABASE}".encode(),
            headers={"X-ClickHouse-User": "admin", "X-ClickHouse-Key": "admin-secret"},
        )
        urllib.request.urlopen(request, timeout=30).read()
        yield standin.url(database=DATABASE)


def _start(
    folder: Path, role: str, name: str, port: int, environ: Mapping[str, str]
) -> tuple[subprocess.Popen[bytes], Path]:
    log = folder / f"{name}.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "deploy.cli", role, "--port", str(port)],
            cwd=ROOT,
            env=dict(environ),
            stdout=out,
            stderr=subprocess.STDOUT,
            # Ctrl-C is for us: we stop them in order.
            start_new_session=True,
        )
    return process, log


def _address(process: subprocess.Popen[bytes], log: Path, role: str) -> str:
    start = f"Pipehouse {role} serves "
    end_s = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < end_s:
        for line in log.read_text().splitlines(keepends=True):
            if line.startswith(start) and line.endswith("\n"):
                return line.removeprefix(start).strip()
        if process.poll() is not None:
            break
        time.sleep(0.05)
    raise StackError(f"{role} does not start: {log.read_text()[-2000:]}")


def _wait_until_ready(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    end_s = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < end_s and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{url}/ready", timeout=5):
                return
        except urllib.error.HTTPError as error:
            error.close()
        except OSError:
            pass
        time.sleep(0.1)
    raise StackError(f"{url} does not get ready: {log.read_text()[-2000:]}")


def _stop(processes: Mapping[str, subprocess.Popen[bytes]]) -> None:
    for process in processes.values():
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
    for process in processes.values():
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def main() -> int:
    """Run until Ctrl-C."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.stack", description="A whole installation on this machine."
    )
    parser.add_argument("projects", nargs="+", type=Path, metavar="FOLDER", help="what is deployed")
    projects: list[Path] = parser.parse_args().projects
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    say = sys.stdout.write
    with tempfile.TemporaryDirectory(prefix="pipehouse-stack-") as folder:
        try:
            with stack(projects, Path(folder)) as running:
                for name, url in running.urls.items():
                    say(f"  {name:<9} {url}\n")
                say(f"  logs      {folder}\n\nIn another terminal:\n")
                for name in ("ADMIN_TOKEN", "SECRET", "CLICKHOUSE_URL", "KAFKA_BOOTSTRAP_SERVERS"):
                    say(f"  export PIPEHOUSE_{name}='{running.environ[f'PIPEHOUSE_{name}']}'\n")
                say(
                    "  .venv/bin/pipehouse generate clickstream_events --project"
                    " deploy/projects/clickstream --rows 1000 |\n"
                    f"    curl '{running.urls['events-1']}/v0/events?name=clickstream_events"
                    '&wait=true\' -H "Authorization: Bearer $PIPEHOUSE_ADMIN_TOKEN"'
                    " --data-binary @-\n  .venv/bin/pipehouse sql"
                    " 'SELECT count() FROM clickstream_events'\n\nStop with Ctrl-C.\n"
                )
                sys.stdout.flush()
                while all(process.poll() is None for process in running.processes.values()):
                    time.sleep(0.2)
                ended = [n for n, p in running.processes.items() if p.poll() is not None]
                sys.stderr.write(f"{', '.join(ended)} ended.\n")
                return 5
        except (AppError, StackError) as error:
            sys.stderr.write(f"{error}\n")
            return 5
        except KeyboardInterrupt:
            return 0


if __name__ == "__main__":
    sys.exit(main())
