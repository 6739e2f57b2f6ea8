"""What HTTP adds to a small aggregate: the endpoint against its own SQL on a chDB connection.

The endpoint is ``events_by_channel`` of the marketing project over a few thousand rows, served by
``pipehouse dev``. Its SQL, and ``SELECT 1``, run in a process of their own on a copy of the data
folder (a folder has one owner): the same rows in the same parts, a thread and a connection for each
HTTP connection, the settings the server reads with. Everything else the endpoint does (HTTP, token,
parameters, plan, limits, hand-over to a thread and back) is in the difference of the medians.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import chdb
import httpx
from msgspec import Struct

from deploy.compose import query_limits
from shared.clickhouse.lanes import _READ_SETTINGS
from shared.clickhouse.profile import limit_settings
from shared.clickhouse.session import settings_clause
from shared.datafile.project import load_project
from shared.settings import load_settings
from tests.bench.load import ROOT, TOKEN, Server, dev_server, http_request, load, spread

PROJECT = ROOT / "deploy" / "projects" / "marketing"
ENDPOINT = "events_by_channel"
FIXTURE = PROJECT / "fixtures" / "marketing_events.ndjson"
COPIES = 20
CONNECTIONS = (1, 8, 64)
ROUNDS = 3
SECONDS = 1
FLOOR = "SELECT 1"
Ask = Callable[[str, int], float]


class Round(Struct, frozen=True, kw_only=True):
    """Medians of one round, in seconds, and the CPU seconds of the server for each request."""

    http_s: float
    sql_s: float
    floor_s: float
    requests_per_s: float
    cpu_s: float

    @property
    def added_s(self) -> float:
        """What the endpoint takes beyond its SQL."""
        return self.http_s - self.sql_s


def _fill(data: Path) -> None:
    """A data folder with the fixtures and further copies of them, closed again."""
    with dev_server("marketing", data, "--fixtures") as server:
        answer = httpx.post(
            f"{server.url}/v0/events?name=marketing_events&wait=true",
            content=FIXTURE.read_bytes() * (COPIES - 1),
            headers={"Authorization": f"Bearer {TOKEN}"},
            timeout=130,
        )
        answer.raise_for_status()


def _sql() -> str:
    node = load_project([PROJECT], {}).workspace.pipe(ENDPOINT).endpoint
    assert node is not None
    assert not node.is_template
    return node.sql


@contextlib.contextmanager
def _connections(folder: Path) -> Iterator[Ask]:
    """A process that runs SQL over a folder; a call returns the median seconds of a query."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.bench.bench_endpoint", str(folder)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        asks, answers = process.stdin, process.stdout
        assert asks is not None
        assert answers is not None

        def ask(sql: str, threads: int) -> float:
            asks.write(json.dumps([sql, threads]) + "\n")
            asks.flush()
            return float(answers.readline())

        yield ask
        asks.close()


def _round(server: Server, ask: Ask, sql: str, connections: int) -> Round:
    request = http_request("GET", f"/v0/pipes/{ENDPOINT}.json")
    before_s = server.cpu_s()
    done = load(server, [request], connections, SECONDS)
    cpu_s = server.cpu_s() - before_s
    return Round(
        http_s=done.p50_s,
        sql_s=ask(sql, connections),
        floor_s=ask(FLOOR, connections),
        requests_per_s=done.requests / done.elapsed_s,
        cpu_s=cpu_s / done.requests,
    )


def _show(connections: int, rounds: list[Round]) -> None:
    def ms(values: Iterator[float]) -> str:
        return f"{statistics.median(values) * 1e3:>7.3f} ms"

    per_s = statistics.median(r.requests_per_s for r in rounds)
    cpu_us = statistics.median(r.cpu_s for r in rounds) * 1e6
    added = spread([r.added_s / r.floor_s for r in rounds])
    print(f"endpoint, small aggregate, connections: {connections} (must 2x, aim 1x)")
    print(f"  SELECT 1 on chDB  {ms(r.floor_s for r in rounds)}")
    print(f"  its SQL on chDB   {ms(r.sql_s for r in rounds)}")
    print(
        f"  over HTTP         {ms(r.http_s for r in rounds)}  {per_s:,.0f} requests/s"
        f"  {cpu_us:,.0f} us CPU a request"
    )
    print(f"  HTTP adds         {ms(r.added_s for r in rounds)}  {added} SELECT 1")


def main() -> None:
    sql = _sql()
    rounds: dict[int, list[Round]] = {number: [] for number in CONNECTIONS}
    with tempfile.TemporaryDirectory() as folder:
        data, copy = Path(folder) / "data", Path(folder) / "copy"
        _fill(data)
        shutil.copytree(data / "clickhouse", copy, symlinks=True)
        with dev_server("marketing", data) as server, _connections(copy) as ask:
            for number in CONNECTIONS:
                _round(server, ask, sql, number)
            for _ in range(ROUNDS):
                for number in CONNECTIONS:
                    rounds[number].append(_round(server, ask, sql, number))
    for number in CONNECTIONS:
        _show(number, rounds[number])


# The process with the connections -----------------------------------------------------------------


def _answer(folder: Path) -> None:
    # The engine lives as long as any connection to it.
    keeper = chdb.connect(str(folder))  # type: ignore[no-untyped-call]
    for line in sys.stdin:
        sql, threads = json.loads(line)
        print(_median_s(folder, f"{sql}\nFORMAT JSON", threads), flush=True)
    keeper.close()


def _median_s(folder: Path, sql: str, threads: int) -> float:
    took_s: list[float] = []
    ready = threading.Barrier(threads)

    def query() -> None:
        connection = chdb.connect(str(folder))  # type: ignore[no-untyped-call]
        settings = {**_READ_SETTINGS, **limit_settings(query_limits(load_settings({})))}
        connection.query("USE workspace")
        connection.query(f"SET {settings_clause(settings)}")
        connection.query("SET readonly = 2")
        connection.query(sql)
        ready.wait()
        until_s = time.perf_counter() + SECONDS
        while (began_s := time.perf_counter()) < until_s:
            connection.query(sql).bytes()
            took_s.append(time.perf_counter() - began_s)
        connection.close()

    running = [threading.Thread(target=query) for _ in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    return statistics.median(took_s)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        _answer(Path(sys.argv[1]))
    else:
        main()
