"""A stand-in as a process of its own, for tests."""

from __future__ import annotations

import json
import os
import signal
import ssl
import subprocess
import sys
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

ROOT = Path(__file__).parents[2]

ADMIN = ("admin", "admin-secret")
_STOP_S = 10.0
_USERS: Mapping[str, Mapping[str, object]] = {
    "default": {},
    ADMIN[0]: {"password": ADMIN[1]},
    "writer": {"password": "writer-secret"},
    "reader": {"password": "reader-secret", "readonly": 2},
    "strict_reader": {"password": "reader-secret", "readonly": 1},
}


class Standin:
    """A stand-in on a data folder. Its ports stay the same when it is started again.

    Args:
        folder: Where the data lies; made when missing.
        options: More options of ``python -m tests.standin``.
        users: Name to ``{"password": …, "readonly": 0|1|2}``.
        secure: Whether ``options`` name a certificate.
    """

    def __init__(
        self,
        folder: Path,
        *,
        options: Sequence[str] = (),
        users: Mapping[str, Mapping[str, object]] = _USERS,
        secure: bool = False,
    ) -> None:
        self._folder = folder
        self._options = list(options)
        self._users = users
        self._secure = secure
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0
        self.http_port = 0
        self.version = ""

    def __enter__(self) -> Standin:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """The process that runs."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it and wait until it answers."""
        self._end(signal.SIGKILL)
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-m", "tests.standin", "--until-end-of-input"),
                *("--folder", str(self._folder), "--users", json.dumps(self._users)),
                *("--port", str(self.port), "--http-port", str(self.http_port)),
                *self._options,
            ],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"The stand-in ended with {self._process.wait()}.")
        ready = json.loads(line)
        self.port, self.http_port = ready["port"], ready["http_port"]
        self.version = ready["version"]

    def stop(self) -> None:
        """End it properly; harmless when it does not run."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it with ``kill -9``."""
        self._end(signal.SIGKILL)

    def restart(self, *, kill: bool = False) -> None:
        """Stop or kill it and start it again on the same ports."""
        self._end(signal.SIGKILL if kill else signal.SIGTERM)
        self.start()

    def wait(self, timeout_s: float = 30.0) -> int:
        """Wait until it has ended, as with the fault ``die``; returns its exit status."""
        assert self._process is not None
        status = self._process.wait(timeout_s)
        self._end(signal.SIGKILL)
        return status

    def pause(self) -> None:
        """Stop the process with SIGSTOP: it holds its ports and answers nothing."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let a paused process go on."""
        os.kill(self.pid, signal.SIGCONT)

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(number)
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()

    def url(
        self, user: str = ADMIN[0], *, database: str = "default", password: str | None = None
    ) -> str:
        """Where a client finds it, as ``PIPEHOUSE_CLICKHOUSE_URL`` takes it."""
        if password is None:
            password = str(self._users.get(user, {}).get("password", ""))
        return (
            f"clickhouse://{user}:{quote(password, safe='')}@127.0.0.1:{self.port}/{database}"
            f"?http_port={self.http_port}&secure={int(self._secure)}"
        )

    def fault(self, action: str, **fields: Any) -> None:
        """Switch a fault on; see ``Fault`` in faults.py for the fields."""
        self._control("POST", json.dumps({"action": action, **fields}).encode())

    def clear_faults(self) -> None:
        """Switch all faults off; what hangs goes on."""
        self._control("DELETE")

    def faults(self) -> list[dict[str, Any]]:
        """All faults with how often each was hit."""
        return self._control("GET")

    def _control(self, method: str, body: bytes | None = None) -> list[dict[str, Any]]:
        scheme = "https" if self._secure else "http"
        request = urllib.request.Request(
            f"{scheme}://127.0.0.1:{self.http_port}/_faults", data=body, method=method
        )
        trusting = ssl.create_default_context()
        trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
        with urllib.request.urlopen(request, timeout=10, context=trusting) as answer:
            return list(json.load(answer))
