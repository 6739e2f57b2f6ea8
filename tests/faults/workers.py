"""The worker processes of a round, and how they are started, killed, suspended and replaced."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from pathlib import Path

from msgspec import Struct

from tests.faults.world import ROOT, Place

STOP_TIMEOUT_S = 40.0
# What a process ends with that cannot reach a service when it starts; who runs it starts it again.
EXIT_UNAVAILABLE = 5


class Worker(Struct, kw_only=True):
    """One process; mutable, because it may be told to die, or be suspended."""

    process: subprocess.Popen[bytes]
    log: Path
    may_die: bool = False
    is_suspended: bool = False


class Workers:
    """Keeps as many as are wanted alive."""

    def __init__(self, place: Place, rng: random.Random) -> None:
        self._place = place
        self._rng = rng
        self._count = 0
        self.alive: list[Worker] = []
        self.steps_reached = 0

    def start(self, *crash: str) -> Worker:
        """One more; with ``crash`` one that ends itself there."""
        self._count += 1
        log = self._place.folder / f"worker-{self._count}.log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.faults.victim", *crash],
                cwd=ROOT,
                env=dict(self._place.environ(proxied=True)),
                stdout=out,
                stderr=subprocess.STDOUT,
            )
        worker = Worker(process=process, log=log, may_die=bool(crash))
        self.alive.append(worker)
        return worker

    def replace_dead(self) -> None:
        """Start a new one for each that died at its step, or found no service when it started.

        Raises:
            AssertionError: One ended for another reason.
        """
        for worker in list(self.alive):
            status = worker.process.poll()
            if status is None:
                continue
            self.alive.remove(worker)
            if worker.may_die and status == -signal.SIGKILL:
                self.steps_reached += 1
            else:
                _require(worker, status, _found_no_service(worker, status))
            self.start()

    def any(self) -> Worker | None:
        """One that runs."""
        awake = [w for w in self.alive if not w.is_suspended]
        return self._rng.choice(awake) if awake else None

    def kill(self, worker: Worker) -> None:
        worker.process.kill()
        worker.process.wait()
        self.alive.remove(worker)

    def suspend(self, worker: Worker) -> None:
        worker.is_suspended = True
        worker.process.send_signal(signal.SIGSTOP)

    def resume(self, worker: Worker) -> None:
        worker.is_suspended = False
        if worker.process.poll() is None:
            worker.process.send_signal(signal.SIGCONT)

    def stop(self, worker: Worker) -> None:
        """As operators do.

        Raises:
            AssertionError: It does not end in time, or not as it should.
        """
        self.alive.remove(worker)
        worker.process.send_signal(signal.SIGTERM)
        status = worker.process.wait(STOP_TIMEOUT_S)
        # Before its first line the interpreter was still starting, and nobody minds the signal.
        was_starting = status == -signal.SIGTERM and not worker.log.read_text()
        is_dead = worker.may_die and status == -signal.SIGKILL
        is_stopped = status == 128 + signal.SIGTERM
        no_service = _found_no_service(worker, status)
        _require(worker, status, is_stopped or was_starting or is_dead or no_service)

    def end(self) -> None:
        """Leave no process behind."""
        for worker in self.alive:
            worker.process.kill()
            worker.process.wait()
        self.alive.clear()

    def said(self, event: str) -> list[str]:
        """The lines of all workers with an event."""
        wanted = f'"event": "{event}"', f'"event":"{event}"'
        return [
            line
            for log in sorted(self._place.folder.glob("worker-*.log"))
            for line in log.read_text(errors="replace").splitlines()
            if any(text in line for text in wanted)
        ]


def _found_no_service(worker: Worker, status: int) -> bool:
    return status == EXIT_UNAVAILABLE and "cannot start" in worker.log.read_text()


def _require(worker: Worker, status: int, is_right: bool) -> None:
    if not is_right:
        text = worker.log.read_text()[-3000:]
        raise AssertionError(f"a worker ended with {status}: {text}")
