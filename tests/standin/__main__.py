"""Runs a stand-in: ``python -m tests.standin --folder F --port 0 --http-port 0``.

Prints one line of JSON with its ports once it answers.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
from pathlib import Path

import msgspec

from tests.standin.answer import Watch
from tests.standin.engine import Engine
from tests.standin.faults import Faults
from tests.standin.server import listeners, tls_context
from tests.standin.service import Service
from tests.standin.users import User, Users


def main() -> None:
    """Serve until SIGTERM or the end of standard input."""
    options = _arguments().parse_args()
    engine = Engine(
        options.folder,
        repair_orphans=options.repair_orphans,
        release=options.version,
        replicated=options.replicated,
    )
    version = ".".join(engine.version.split(".")[:3])
    major, minor, patch = (int(part) for part in version.split("."))
    service = Service(
        engine=engine,
        users=Users(
            msgspec.json.decode(options.users, type=dict[str, User]),
            options.folder / "standin-access.json",
        ),
        faults=Faults(),
        watch=Watch(engine),
        name="ClickHouse",
        version=(major, minor, patch),
    )
    tls = tls_context(options.certificate, options.key) if options.certificate else None
    native, web = listeners(service, options.host, (options.port, options.http_port), tls)
    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    signal.signal(signal.SIGINT, lambda *_: stopped.set())
    native.start()
    web.start()
    ready = {"port": native.port, "http_port": web.port, "pid": os.getpid(), "version": version}
    sys.stdout.write(json.dumps(ready) + "\n")
    sys.stdout.flush()
    if options.until_end_of_input:
        threading.Thread(target=_wait_for_end_of_input, daemon=True).start()
    stopped.wait()
    native.close()
    web.close()
    engine.close()
    # Threads that serve connections would keep the interpreter from ending.
    os._exit(0)


def _wait_for_end_of_input() -> None:
    while sys.stdin.buffer.read(4096):
        pass
    os.kill(os.getpid(), signal.SIGKILL)


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.standin")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--http-port", type=int, default=0)
    parser.add_argument("--users", default='{"default":{}}', help="JSON: see README.md")
    parser.add_argument("--version", default="", help="three numbers, to pose as another release")
    parser.add_argument("--replicated", action="store_true", help="pose as one of several hosts")
    parser.add_argument("--certificate", type=Path)
    parser.add_argument("--key", type=Path)
    parser.add_argument("--keep-orphans", action="store_true", help="the default, as on a server")
    parser.add_argument("--repair-orphans", action="store_true")
    parser.add_argument("--until-end-of-input", action="store_true")
    return parser


main()
