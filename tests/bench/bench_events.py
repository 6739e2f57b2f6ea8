"""The Events API over HTTP, against bare Litestar handlers that read and drop the same bodies.

The server is ``pipehouse dev``, whose pipeline stores events in the same process, so its CPU is
read in two ways: *until stored* runs on until the last accepted event can be queried, and nothing
is hidden; *requests only* is the same route and the same log in a process without a pipeline, as
where the Events API is deployed alone. Merges after the last event are in neither. All servers
stand on the same HTTP server with the same settings. Rounds alternate.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import httpx
from msgspec import Struct, structs

from ingest.decode import Decoder
from ingest.http.events import EventsServices, events_route, events_settings
from ingest.log.local import open_local_log
from shared.auth.tokens import AdminTokenStore
from shared.catalog import StaticCatalog
from shared.clock import Deadline
from shared.logs import configure_logging
from shared.model.workspace import Workspace
from shared.observe.metrics import Metrics
from shared.settings import load_settings
from shared.supervise import Service, run_service
from shared.web.app import create_app
from tests.bench.bench_decode import clickstream
from tests.bench.load import (
    TOKEN,
    Server,
    bare_server,
    dev_server,
    http_request,
    load,
    running,
    serve,
    spread,
)

NAME = "clickstream_events"
PATH = f"/v0/events?name={NAME}"
ROUNDS = 3
SECONDS = 2
BODIES = 20
HEADERS = {"Authorization": f"Bearer {TOKEN}"}


class Case(Struct, frozen=True, kw_only=True):
    """One shape of load."""

    title: str
    rows: int
    connections: int
    bodies: Sequence[bytes]


class Spent(Struct, frozen=True, kw_only=True):
    """One run: answers a second, and requests for each CPU second of the server."""

    per_s: float
    per_cpu_s: float


def _run(server: Server, path: str, case: Case, wait: Callable[[int], int]) -> Spent:
    requests = [http_request("POST", path, body) for body in case.bodies]
    wait(0)
    before_s = server.cpu_s()
    done = load(server, requests, case.connections, SECONDS)
    # Requests under way when the load ended were served too, and cost CPU.
    served = wait(done.requests * case.rows) / case.rows
    return Spent(
        per_s=done.requests / done.elapsed_s, per_cpu_s=served / (server.cpu_s() - before_s)
    )


def _stored(server: Server, case: Case) -> Callable[[int], int]:
    """Waits until everything is stored; returns how many rows came since the last time."""
    last = 0

    def wait(accepted: int) -> int:
        nonlocal last
        event = case.bodies[0].partition(b"\n")[0]
        with httpx.Client(base_url=server.url, headers=HEADERS, timeout=130) as client:
            client.post(f"{PATH}&wait=true", content=event).raise_for_status()
            answer = client.get(
                "/v0/sql", params={"q": f"SELECT count() AS n FROM {NAME} FORMAT JSON"}
            )
        now = int(answer.raise_for_status().json()["data"][0]["n"])
        came, last = now - last - 1, now
        if came < accepted:
            raise RuntimeError(f"{accepted} rows were accepted and {came} are stored.")
        return came

    return wait


def _accepted(rows: int) -> int:
    return rows


def _measure(case: Case, bare: Server, alone: Server, dev: Server) -> None:
    handler, below, requests, stored = [], [], [], []
    for _ in range(1 + ROUNDS):
        handler.append(_run(bare, "/handler", case, _accepted))
        below.append(_run(bare, "/asgi", case, _accepted))
        requests.append(_run(alone, PATH, case, _accepted))
        stored.append(_run(dev, PATH, case, _stored(dev, case)))
    print(case.title)
    shown = {
        "bare handler": handler,
        "bare, plain ASGI": below,
        "requests only": requests,
        "until stored": stored,
    }
    base = handler[1:]
    for name, (_warm_up, *runs) in shown.items():
        per_s = statistics.median(run.per_s for run in runs)
        per_cpu_s = statistics.median(run.per_cpu_s for run in runs)
        rows = f"  {per_cpu_s * case.rows:>9,.0f} rows/s a core" if case.rows > 1 else ""
        ratio = spread([r.per_cpu_s / h.per_cpu_s for r, h in zip(runs, base, strict=True)])
        print(
            f"  {name:<17}{per_s:>7,.0f} requests/s  {1e6 / per_cpu_s:>9,.1f} us CPU a request"
            f"{rows}  {ratio}"
        )


def _cases() -> list[Case]:
    _, _, values = clickstream(BODIES * 1000)
    thousands = [b"\n".join(values[i * 1000 : (i + 1) * 1000]) for i in range(BODIES)]
    return [
        Case(
            title="Events API, one event a request, 32 connections;"
            " requests a CPU second against the bare handler's (must 0.4x, aim 0.6x)",
            rows=1,
            connections=32,
            bodies=values[:1000],
        ),
        Case(
            title="Events API, 1,000 rows a request, 4 connections (aim 100,000 rows/s a core)",
            rows=1000,
            connections=4,
            bodies=thousands,
        ),
    ]


def main() -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        bare_server() as bare,
        running("tests.bench.bench_events", f"{folder}/alone") as alone,
        dev_server("clickstream", Path(folder) / "dev") as dev,
    ):
        for case in _cases():
            _measure(case, bare, alone, dev)


def _serve_alone(folder: Path) -> None:
    configure_logging(form="json", level="warning")
    _, datasource, _ = clickstream(1)
    datasource = structs.replace(datasource, name=NAME)

    async def start(service: Service) -> None:
        log = open_local_log(folder)

        async def close(deadline: Deadline) -> None:
            await log.close()

        service.on_close("log", close)
        services = EventsServices(
            topic_of=lambda datasource: "events." + datasource.name,
            tokens=AdminTokenStore(TOKEN),
            catalog=StaticCatalog(Workspace(datasources={NAME: datasource})),
            log=log,
            checker=Decoder,
            metrics=Metrics(),
        )
        app = create_app([events_route(services, events_settings(load_settings({})))])
        await serve(app, service)

    sys.exit(run_service(start, shutdown_timeout_s=5))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        _serve_alone(Path(sys.argv[1]))
    else:
        main()
