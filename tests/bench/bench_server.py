"""The server engine: what a row costs going in, and what the query service adds coming out.

Rows: microseconds of CPU of this process a row, by stage, against the bare driver inserting columns
that are ready: text as str, DateTime as integers. The table is a Null one, so that the server has
little to do; what it does is not counted anyway.

Requests: an endpoint of a ``pipehouse query`` process at eight connections, against the same SQL
sent straight to the server's HTTP interface, in units of a ``SELECT 1`` there. On the stand-in that
unit is larger than on a real server: the figure is only good for real ones, named by
``PIPEHOUSE_TEST_CLICKHOUSE_URL``.
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import subprocess
import sys
import tempfile
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlencode

from clickhouse_driver import Client

from ingest.chunk import Chunk, Decoded, Partition
from ingest.decode import Decoder
from shared.clickhouse.contract import Identity, Insert, Statement
from shared.clickhouse.profile import ENGINE_PROFILE
from shared.clickhouse.server import open_server
from shared.clickhouse.serverengine import ServerClickHouse
from shared.clickhouse.url import parse_url
from tests.bench.bench_decode import clickstream
from tests.bench.bench_endpoint import ENDPOINT, PROJECT, _sql
from tests.bench.load import HOST, ROOT, Load, Server, http_request, load, running, spread
from tests.clickhouse_target import opened, targets

ROWS = 100_000
ROUNDS = 7
CONNECTIONS = 8
SECONDS = 2
ENDPOINT_ROUNDS = 5
DATABASE = "bench_server"


def _cpu_us(work: Callable[[], object], rows: int) -> tuple[float, object]:
    began_s = time.process_time()
    result = work()
    return (time.process_time() - began_s) / rows * 1e6, result


def _chunk(values: list[bytes]) -> Chunk:
    return Chunk(
        partition=Partition("t", 0),
        offsets=range(len(values)),
        values=values,
        timestamps_ms=[0] * len(values),
        next=len(values),
    )


class Rows:
    """One round after the other over the same rows."""

    def __init__(self, runner: asyncio.Runner, engine: ServerClickHouse, url: str) -> None:
        self._runner = runner
        self._engine = engine
        _, datasource, self._values = clickstream(ROWS)
        self._decoder = Decoder(datasource, columnar=True)
        self._table = "clickstream"
        columns = ", ".join(f"{c.name} {c.type}" for c in datasource.columns)
        self._run(f"CREATE DATABASE IF NOT EXISTS {DATABASE}")
        self._run(
            f"CREATE TABLE {DATABASE}.{self._table} ({columns}, __stream UInt64 MATERIALIZED 0,"
            " __partition Int32 MATERIALIZED 0, __offset Int64 MATERIALIZED 0) ENGINE = Null"
        )
        where = parse_url(url)
        self._bare = Client(
            where.hosts[0].name,
            where.hosts[0].native_port,
            user=where.user,
            password=where.password,
            settings={"insert_block_size": ROWS},
        )
        names = ", ".join(name for name, _ in self._decoder.columns)
        self._bare_sql = f"INSERT INTO {DATABASE}.{self._table} ({names}) VALUES"
        self._ready = self._ready_columns()

    def _run(self, sql: str) -> None:
        self._runner.run(self._engine.execute(Statement(sql=sql)))

    def _ready_columns(self) -> list[list[object]]:
        block = self._decoder.decode(_chunk(self._values)).block
        columns = [list(column) for column in block.columns()]  # type: ignore[attr-defined]
        place = [name for name, _ in self._decoder.columns].index("timestamp")
        columns[place] = [1_746_615_760 + n % 86_400 for n in range(ROWS)]
        return columns

    def _insert(self, decoded: Decoded, token: str) -> None:
        insert = Insert(
            database=DATABASE,
            table=self._table,
            columns=self._decoder.columns,
            block=decoded.block,
            defaults=self._decoder.defaults,
            token=token,
            query_id=token,
            identity=Identity(stream=1, partition=0, runs=decoded.runs),
        )
        self._runner.run(self._engine.insert(insert))

    def _insert_ready(self) -> None:
        self._bare.execute(self._bare_sql, self._ready, columnar=True)

    def round(self, number: int) -> dict[str, float]:
        """One measurement of every stage, in microseconds of CPU a row."""
        bare, _ = _cpu_us(
            lambda: self._bare.execute(self._bare_sql, self._ready, columnar=True), ROWS
        )
        decode, _ = _cpu_us(lambda: list(self._decoder._pieces(self._values)), ROWS)
        both, decoded = _cpu_us(lambda: self._decoder.decode(_chunk(self._values)), ROWS)
        assert isinstance(decoded, Decoded)
        send, _ = _cpu_us(lambda: self._insert(decoded, f"t{number}"), ROWS)
        return {
            "decode": decode,
            "transpose": both - decode,
            "encode and send": send,
            "all stages": both + send,
            "bare driver": bare,
        }

    def close(self) -> None:
        """Leave nothing behind."""
        self._bare.disconnect()
        self._run(f"DROP DATABASE {DATABASE} SYNC")


def _rows(url: str) -> None:
    with asyncio.Runner() as runner:
        engine = runner.run(open_server(url))
        rows = Rows(runner, engine, url)
        rows.round(-1)
        rounds = [rows.round(number) for number in range(ROUNDS)]
        rows.close()
        runner.run(engine.close())
    print(f"server, rows in: {ROWS:,} rows a block, 11 columns (must 3x, aim 2x)")
    for stage in rounds[0]:
        print(f"  {stage:16} {statistics.median(r[stage] for r in rounds):6.2f} us CPU a row")
    ratios = [r["all stages"] / r["bare driver"] for r in rounds]
    print(f"  all stages / bare driver: {spread(ratios)}")


# Requests -----------------------------------------------------------------------------------------


@contextlib.contextmanager
def _query_service(url: str, data: Path) -> Iterator[Server]:
    """The project deployed, and a process that answers for it."""
    environ = {"PIPEHOUSE_CLICKHOUSE_URL": url, "PIPEHOUSE_SECRET": "secret-of-the-bench"}
    subprocess.run(
        [sys.executable, "-m", "deploy.cli", "deploy", str(PROJECT)],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", **environ},
        check=True,
        stdout=subprocess.DEVNULL,
    )
    arguments = ("query", "--port", "0", "--data", str(data))
    with running("deploy.cli", *arguments, environ=environ) as server:
        yield server


def _straight(url: str, sql: str) -> bytes:
    """A query as it goes to the server's HTTP interface, under the settings the service sends."""
    where = parse_url(url)
    login = b64encode(f"{where.user}:{where.password}".encode()).decode()
    query = urlencode({**ENGINE_PROFILE, "database": where.database, "default_format": "JSON"})
    return (
        f"POST /?{query}&wait_end_of_query=1 HTTP/1.1\r\nHost: {HOST}\r\n"
        f"Authorization: Basic {login}\r\nContent-Length: {len(sql)}\r\n\r\n{sql}"
    ).encode()


def _requests(url: str) -> None:
    engine = Server(pid=0, port=parse_url(url).hosts[0].http_port)
    asked = {
        "SELECT 1, straight": (engine, _straight(url, "SELECT 1")),
        "its SQL, straight": (engine, _straight(url, _sql())),
    }
    took: dict[str, list[Load]] = {name: [] for name in (*asked, "the endpoint")}
    with tempfile.TemporaryDirectory() as folder, _query_service(url, Path(folder)) as service:
        asked["the endpoint"] = (service, http_request("GET", f"/v0/pipes/{ENDPOINT}.json"))
        for number in range(-1, ENDPOINT_ROUNDS):
            for name, (server, request) in asked.items():
                done = load(server, [request], CONNECTIONS, SECONDS)
                if number >= 0:
                    took[name].append(done)
    print(f"server, small aggregate, connections: {CONNECTIONS} (must 1x, aim 0.5x)")
    for name, loads in took.items():
        print(f"  {name:20} {statistics.median(done.p50_s for done in loads) * 1e3:7.3f} ms")
    floor, straight, served = took.values()
    added = [(s.p50_s - q.p50_s) / f.p50_s for f, q, s in zip(floor, straight, served, strict=True)]
    print(f"  the service adds {spread(added)} SELECT 1")


def main() -> None:
    """Print the figures."""
    for target in targets():
        with tempfile.TemporaryDirectory() as folder, opened(target, Path(folder)) as url:
            print(f"server: {target}")
            _rows(url)
            _requests(url)


if __name__ == "__main__":
    main()
