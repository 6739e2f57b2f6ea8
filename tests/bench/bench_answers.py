"""Answers of endpoints: kept ones against a bare handler, and large ones in flat memory.

The endpoint is ``events_by_channel`` of the marketing project over a few thousand rows, served by
``pipehouse dev`` with every answer cached and without a cache, beside a bare Litestar handler that
returns the same bytes. All three run at the same time and are asked in turn.

The large answer is one of 100 MB. What the server holds while it is sent is the highest resident
memory seen above what it had before.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
from litestar import Litestar, Response, get
from msgspec import Struct

from deploy.cli import main as command
from shared.supervise import run_service
from tests.bench.load import ROOT, TOKEN, Server, http_request, load, running, serve, spread

PROJECT = ROOT / "deploy" / "projects" / "marketing"
ENDPOINT = "events_by_channel"
FIXTURE = PROJECT / "fixtures" / "marketing_events.ndjson"
COPIES = 20
CONNECTIONS = (1, 8, 64)
ROUNDS = 2
SECONDS = 1
LARGE_BYTES = 100_000_000
LARGE_SQL = "SELECT number, repeat('x', 180) AS text FROM numbers(500000)"
BEARER = {"Authorization": f"Bearer {TOKEN}"}


class Run(Struct, frozen=True, kw_only=True):
    """One server under load: answers a second, median seconds and CPU seconds of one."""

    per_s: float
    p50_s: float
    cpu_s: float


def _run(server: Server, path: str, connections: int) -> Run:
    before_s = server.cpu_s()
    done = load(server, [http_request("GET", path)], connections, SECONDS)
    return Run(
        per_s=done.requests / done.elapsed_s,
        p50_s=done.p50_s,
        cpu_s=(server.cpu_s() - before_s) / done.requests,
    )


def _show(connections: int, runs: dict[str, list[Run]]) -> None:
    ratios = [
        kept.per_s / bare.per_s for kept, bare in zip(runs["kept"], runs["bare"], strict=True)
    ]
    print(f"hot endpoint, connections: {connections} (must 0.4x, aim 0.6x of bare)")
    for name, each in runs.items():
        print(
            f"  {name:<9} {statistics.median(r.per_s for r in each):>9,.0f} requests/s"
            f"  {statistics.median(r.p50_s for r in each) * 1e3:>7.3f} ms"
            f"  {statistics.median(r.cpu_s for r in each) * 1e6:>6,.0f} us CPU a request"
        )
    print(f"  kept against bare: {spread(ratios)}")


def _fill(server: Server) -> bytes:
    """Put rows in; returns what the endpoint answers then."""
    sent = httpx.post(
        f"{server.url}/v0/events?name=marketing_events&wait=true",
        content=FIXTURE.read_bytes() * COPIES,
        headers=BEARER,
        timeout=130,
    )
    sent.raise_for_status()
    return httpx.get(f"{server.url}/v0/pipes/{ENDPOINT}.json", headers=BEARER).content


def _hot(folder: Path) -> None:
    with _dev(folder / "a", cache_all=True) as kept, _dev(folder / "b") as plain:
        body = folder / "body"
        body.write_bytes(_fill(kept))
        _fill(plain)
        with running("tests.bench.bench_answers", "bare", str(body)) as bare:
            asked = f"/v0/pipes/{ENDPOINT}.json"
            servers = {"bare": (bare, "/"), "kept": (kept, asked), "queried": (plain, asked)}
            for number in CONNECTIONS:
                runs: dict[str, list[Run]] = {name: [] for name in servers}
                for turn in range(ROUNDS + 1):
                    for name, (server, path) in servers.items():
                        done = _run(server, path, number)
                        if turn:
                            runs[name].append(done)
                _show(number, runs)


def _large(folder: Path) -> None:
    with _dev(folder / "c") as server, httpx.Client(headers=BEARER, timeout=60) as client:
        url = f"{server.url}/v0/sql"

        def received(rows: int) -> int:
            sql = LARGE_SQL.replace("500000", str(rows)) + " FORMAT JSONEachRow"
            with client.stream("GET", url, params={"q": sql}) as response:
                response.raise_for_status()
                return sum(len(piece) for piece in response.iter_bytes(1 << 20))

        received(20_000)
        started_s = time.perf_counter()
        with _highest_rss(server.pid) as highest:
            size = received(LARGE_BYTES // 216)
        took_s = time.perf_counter() - started_s
    grown = (highest[-1] - highest[0]) / (1 << 20)
    print(f"an answer of {size / 1e6:.0f} MB (flat memory)")
    print(f"  {size / took_s / 1e6:,.0f} MB/s, the server grew by {grown:.1f} MiB meanwhile")


@contextlib.contextmanager
def _highest_rss(pid: int) -> Iterator[list[int]]:
    """Resident bytes of a process: at first, and at the end of the block the highest as well."""
    seen = [_rss(pid)]
    done = threading.Event()

    def watch() -> None:
        highest = seen[0]
        while not done.wait(0.01):
            highest = max(highest, _rss(pid))
        seen.append(highest)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        done.set()
        thread.join()


def _rss(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="utf-8").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        _hot(Path(folder))
        _large(Path(folder))


# The processes that are asked ---------------------------------------------------------------------


@contextlib.contextmanager
def _dev(data: Path, *, cache_all: bool = False) -> Iterator[Server]:
    kept = "true" if cache_all else "false"
    with running("tests.bench.bench_answers", "dev", str(data), kept) as server:
        yield server


def _serve_dev(data: str, cache_all: str) -> None:
    os.environ["PIPEHOUSE_CACHE_ALL"] = cache_all
    command(["dev", str(PROJECT), "--port", "0", "--data", data, "--no-watch"])


def _serve_bare(path: str) -> None:
    body = Path(path).read_bytes()

    @get("/", sync_to_thread=False)
    def handler() -> Response[bytes]:
        return Response(body, media_type="application/json")

    app = Litestar([handler], openapi_config=None, logging_config=None)
    sys.exit(run_service(lambda service: serve(app, service), shutdown_timeout_s=5))


if __name__ == "__main__":
    if sys.argv[1:2] == ["bare"]:
        _serve_bare(*sys.argv[2:])
    elif sys.argv[1:2] == ["dev"]:
        _serve_dev(*sys.argv[2:])
    else:
        main()
