"""Servers in processes of their own, HTTP load on them, and the CPU they spend.

The load comes from ``wrk`` where it is installed, else from a client in this process; both send
the same bytes, prepared beforehand, and a run with any answer but 2xx is no measurement.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from litestar import Litestar, Request, asgi, post
from litestar.types import ASGIApp, Receive, Scope, Send
from msgspec import Struct

from shared.supervise import Service, run_service
from shared.web.server import listen, serve_http

ROOT = Path(__file__).parent.parent.parent
HOST = "127.0.0.1"
TOKEN = "a-token-for-measurements"
STOP_TIMEOUT_S = 60

_URL = re.compile(rf"http://{re.escape(HOST)}:(\d+)")
# Each request is a line with its length and then its bytes. The answer is one line of figures.
_WRK_SCRIPT = """
local requests, next_one = {}, 0

function init(args)
  local file = assert(io.open(args[1], "rb"))
  local size = file:read("*n")
  while size do
    file:read(1)
    requests[#requests + 1] = file:read(size)
    size = file:read("*n")
  end
  file:close()
end

function request()
  next_one = next_one % #requests + 1
  return requests[next_one]
end

function done(summary, latency)
  local e = summary.errors
  local failed = e.connect + e.read + e.write + e.status + e.timeout
  io.write(string.format("figures %d %d %d %d\\n",
    summary.requests, summary.duration, failed, latency:percentile(50)))
end
"""


class Load(Struct, frozen=True, kw_only=True):
    """What a run of load saw: answers, its length, and the median time of one answer."""

    requests: int
    elapsed_s: float
    p50_s: float


class Server(Struct, frozen=True, kw_only=True):
    """A server that answers."""

    pid: int
    port: int

    @property
    def url(self) -> str:
        """Where it answers, without a slash at the end."""
        return f"http://{HOST}:{self.port}"

    def cpu_s(self) -> float:
        """CPU seconds of all its threads so far, in steps of about 0.01."""
        stat = Path(f"/proc/{self.pid}/stat")
        if stat.exists():
            # The process name before the bracket may hold spaces.
            fields = stat.read_text(encoding="utf-8").rpartition(")")[2].split()
            return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        shown = subprocess.run(
            ["ps", "-o", "cputime=", "-p", str(self.pid)],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        days, _, clock = shown.strip().rpartition("-")
        seconds = 0.0
        for part in clock.split(":"):
            seconds = seconds * 60 + float(part)
        return int(days or 0) * 86_400 + seconds


# Servers ------------------------------------------------------------------------------------------


@contextlib.contextmanager
def running(
    module: str, *arguments: str, environ: Mapping[str, str] | None = None
) -> Iterator[Server]:
    """A module that serves and prints its URL, until the end of the block.

    Args:
        module: What is run.
        arguments: Its command line.
        environ: Variables that it gets besides those of every server.

    Raises:
        RuntimeError: It did not start, or ended before the block; with what it had to say.
    """
    # Nothing that happens to be set here may change what is measured.
    clean = {n: v for n, v in os.environ.items() if not n.startswith("PIPEHOUSE_")}
    clean |= {"PIPEHOUSE_ADMIN_TOKEN": TOKEN, "PIPEHOUSE_WAIT_TIMEOUT_S": "120"}
    clean |= environ or {}
    port = None
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            cwd=ROOT,
            env=clean,
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
        )
        try:
            port = _port(process)
            if port is not None:
                yield Server(pid=process.pid, port=port)
        finally:
            ended = process.poll()
            process.terminate()
            process.communicate(timeout=STOP_TIMEOUT_S)
            if port is None or ended is not None:
                said.seek(0)
                # This replaces an error of the block: a refused connection is its consequence.
                raise RuntimeError(
                    f"{module} ended by itself ({process.returncode}):\n{said.read().decode()}"
                )


def _port(process: subprocess.Popen[str]) -> int | None:
    assert process.stdout is not None
    for line in process.stdout:
        if found := _URL.search(line):
            return int(found[1])
    return None


@contextlib.contextmanager
def dev_server(project: str, data: Path, *flags: str) -> Iterator[Server]:
    """``pipehouse dev`` with one of the example projects."""
    folder = str(ROOT / "deploy" / "projects" / project)
    options = ("--port", "0", "--data", str(data), "--no-watch", *flags)
    with running("deploy.cli", "dev", folder, *options) as server:
        yield server


@contextlib.contextmanager
def bare_server() -> Iterator[Server]:
    """Handlers that read and drop the body: ``/handler``, and ``/asgi`` below the framework."""
    with running("tests.bench.load") as server:
        yield server


async def serve(app: ASGIApp, service: Service) -> None:
    """Serve an app with the product's own server on a free port, and print the URL."""
    listener = listen(HOST, 0)
    await serve_http(service, app, listener)
    print(f"http://{HOST}:{listener.getsockname()[1]}", flush=True)


@post("/handler")
async def bare_handler(request: Request[Any, Any, Any]) -> None:
    await request.body()


@asgi("/asgi", copy_scope=False)
async def bare_asgi(scope: Scope, receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        if message["type"] != "http.request" or not message["more_body"]:
            break
    headers = [(b"content-length", b"0")]
    await send({"type": "http.response.start", "status": 201, "headers": headers})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def _serve_bare() -> None:
    app = Litestar([bare_handler, bare_asgi], openapi_config=None, logging_config=None)
    sys.exit(run_service(lambda service: serve(app, service), shutdown_timeout_s=5))


# Load ---------------------------------------------------------------------------------------------


def http_request(method: str, path: str, body: bytes = b"") -> bytes:
    """A request as it goes over the wire, with the token of the measurements."""
    head = (
        f"{method} {path} HTTP/1.1\r\nHost: {HOST}\r\nAuthorization: Bearer {TOKEN}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def load(server: Server, requests: Sequence[bytes], connections: int, seconds: float) -> Load:
    """Send the requests round and round over connections that stay open.

    Args:
        server: Who is asked.
        requests: Whole requests, see ``http_request``.
        connections: How many requests are under way at a time.
        seconds: For how long; wrk takes whole seconds.

    Raises:
        RuntimeError: Some answer was not 2xx.
    """
    wrk = shutil.which("wrk")
    if wrk is None:
        return asyncio.run(_ask(server, requests, connections, seconds))
    return _wrk(wrk, server, requests, connections, seconds)


def _wrk(
    wrk: str, server: Server, requests: Sequence[bytes], connections: int, seconds: float
) -> Load:
    with tempfile.TemporaryDirectory() as folder:
        script, sent = Path(folder) / "load.lua", Path(folder) / "requests"
        script.write_text(_WRK_SCRIPT, encoding="utf-8")
        sent.write_bytes(b"".join(b"%d\n%b" % (len(r), r) for r in requests))
        shape = ("-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--timeout", "30s")
        done = subprocess.run(
            [wrk, *shape, "-s", str(script), server.url, str(sent)],
            capture_output=True,
            text=True,
            check=True,
        )
    found = re.search(r"^figures (\d+) (\d+) (\d+) (\d+)$", done.stdout, re.MULTILINE)
    if found is None:
        raise RuntimeError(f"wrk gave no figures:\n{done.stdout}{done.stderr}")
    answered, elapsed_us, failed, p50_us = map(int, found.groups())
    if failed or not answered:
        raise RuntimeError(f"{failed} of {answered} requests failed.")
    return Load(requests=answered, elapsed_s=elapsed_us / 1e6, p50_s=p50_us / 1e6)


async def _ask(server: Server, requests: Sequence[bytes], connections: int, seconds: float) -> Load:
    started_s = time.perf_counter()
    took_s = await asyncio.gather(
        *(
            _connection(server, requests[number % len(requests) :], started_s + seconds)
            for number in range(connections)
        )
    )
    elapsed_s = time.perf_counter() - started_s
    every = [one for each in took_s for one in each]
    return Load(requests=len(every), elapsed_s=elapsed_s, p50_s=statistics.median(every))


async def _connection(server: Server, requests: Sequence[bytes], until_s: float) -> list[float]:
    reader, writer = await asyncio.open_connection(HOST, server.port)
    took_s: list[float] = []
    while (began_s := time.perf_counter()) < until_s:
        writer.write(requests[len(took_s) % len(requests)])
        head = await reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 2"):
            raise RuntimeError(f"The server answered {head.splitlines()[0].decode()}.")
        await _body(reader, head)
        took_s.append(time.perf_counter() - began_s)
    writer.close()
    await writer.wait_closed()
    return took_s


async def _body(reader: asyncio.StreamReader, head: bytes) -> None:
    length = re.search(rb"(?i)^content-length: *(\d+)", head, re.MULTILINE)
    if length is not None:
        await reader.readexactly(int(length[1]))
        return
    while size := int(await reader.readuntil(b"\r\n"), 16):
        await reader.readexactly(size + 2)
    await reader.readexactly(2)


def spread(values: Sequence[float]) -> str:
    """The median of ratios, with the lowest and the highest."""
    median = statistics.median(values)
    return f"{median:.2f}x (from {min(values):.2f} to {max(values):.2f})"


if __name__ == "__main__":
    _serve_bare()
