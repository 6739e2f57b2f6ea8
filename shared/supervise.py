"""One process: signals, background tasks, and an ordered shutdown within one time budget.

``run_service`` is the frame around every long-running command:

1. ``main`` opens things; each says how it is closed.
2. The process waits for SIGINT or SIGTERM, for ``Service.stop``, or for a background task to fail.
3. What was opened is closed, the last first, all of it within one ``Deadline``.

A second signal ends the process at once, without closing anything.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import structlog
import uvloop

from shared.clock import Clock, Deadline, SystemClock
from shared.errors import AppError

Close = Callable[[Deadline], Awaitable[None]]

_EXIT_BUG = 1
_EXIT_SIGNAL_BASE = 128
# What a step gets when the steps before it have used up the budget: enough to close a file.
_LAST_CHANCE_S = 0.2

_log = structlog.get_logger(__name__)


class Service:
    """What ``main`` is handed: where to register what has to be closed, and how to stop."""

    def __init__(self) -> None:
        self.stopping = asyncio.Event()
        self.exit_code = 0
        self._steps: list[tuple[str, Close]] = []

    def on_close(self, name: str, close: Close) -> None:
        """Close this at the end, before everything registered earlier.

        ``close`` is handed the deadline of the whole shutdown and is cancelled when it is over.
        """
        self._steps.append((name, close))

    def background(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        """Run beside everything else; a failure stops the process, a normal end does not.

        At shutdown the task is cancelled and awaited, in the order of ``on_close``. Work that has
        to be finished instead of cancelled gets a step of its own, registered after this call.
        """
        task = asyncio.create_task(work, name=name)
        task.add_done_callback(self._task_ended)

        async def cancel(_deadline: Deadline) -> None:
            task.cancel()
            await asyncio.wait([task])

        self.on_close(name, cancel)

    def stop(self, exit_code: int = 0) -> None:
        """Begin the shutdown; the first exit code that is not 0 stays."""
        self.exit_code = self.exit_code or exit_code
        self.stopping.set()

    async def close(self, deadline: Deadline) -> None:
        """Close everything, the last registered first; a step that fails does not stop the rest."""
        while self._steps:
            name, close = self._steps.pop()
            try:
                async with asyncio.timeout(max(deadline.remaining_s, _LAST_CHANCE_S)):
                    await close(deadline)
            except TimeoutError:
                _log.warning("not closed in time", step=name)
            except Exception:  # noqa: BLE001 - the remaining steps must run whatever this one did
                _log.exception("not closed", step=name)

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self.stop(_report("background task failed", error, task=task.get_name()))


def run_service(
    main: Callable[[Service], Awaitable[None]],
    *,
    shutdown_timeout_s: float,
    clock: Clock | None = None,
) -> int:
    """Run a process until it is told to stop, and close it in order.

    Args:
        main: Opens what the process consists of and returns once it serves.
        shutdown_timeout_s: The budget of the whole shutdown.
        clock: Where the budget's time comes from.

    Returns:
        The exit code: 0 after ``Service.stop()``, 128 plus the number of the signal after a
        shutdown by signal, the error's own code when starting or a background task failed.
    """
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_supervise(main, shutdown_timeout_s, clock or SystemClock()))


async def _supervise(
    main: Callable[[Service], Awaitable[None]], shutdown_timeout_s: float, clock: Clock
) -> int:
    service = Service()
    _install_signals(service)
    starting = asyncio.ensure_future(main(service))
    stopped = asyncio.create_task(service.stopping.wait())
    await asyncio.wait([starting, stopped], return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():
        starting.cancel()
        await asyncio.wait([starting])
    if not starting.cancelled() and (error := starting.exception()) is not None:
        service.stop(_report("cannot start", error))
    await stopped
    await service.close(Deadline(clock, shutdown_timeout_s))
    return service.exit_code


def _install_signals(service: Service) -> None:
    loop = asyncio.get_running_loop()

    def on_signal(number: signal.Signals) -> None:
        if service.stopping.is_set():
            # Dying by the signal itself tells the parent process what happened.
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        service.stop(_EXIT_SIGNAL_BASE + number)
        _log.info("stopping", signal=number.name)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal, number)


def _report(event: str, error: BaseException, **context: object) -> int:
    """Log why the process ends, and return its exit code."""
    if isinstance(error, AppError):
        _log.error(event, error=str(error), code=error.code, **context)
        return error.exit_code
    _log.error(event, exc_info=error, **context)
    return _EXIT_BUG
