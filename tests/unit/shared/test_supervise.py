import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable

import pytest

from shared.clock import Deadline
from shared.errors import ClickHouseUnavailableError, ConfigError
from shared.supervise import Service, run_service


def run(main: Callable[[Service], Awaitable[None]], shutdown_timeout_s: float = 5.0) -> int:
    return run_service(main, shutdown_timeout_s=shutdown_timeout_s)


def note(closed: list[str], name: str) -> Callable[[Deadline], Awaitable[None]]:
    async def close(_deadline: Deadline) -> None:
        closed.append(name)

    return close


def test_what_was_opened_last_is_closed_first() -> None:
    closed: list[str] = []

    async def main(service: Service) -> None:
        service.on_close("engine", note(closed, "engine"))
        service.on_close("http", note(closed, "http"))
        service.stop()

    assert run(main) == 0
    assert closed == ["http", "engine"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_closes_everything_and_gives_its_exit_code(number: int, code: int) -> None:
    closed: list[str] = []

    async def main(service: Service) -> None:
        service.on_close("engine", note(closed, "engine"))
        os.kill(os.getpid(), number)

    assert run(main) == code
    assert closed == ["engine"]


def test_a_signal_while_starting_closes_what_is_open() -> None:
    closed: list[str] = []

    async def main(service: Service) -> None:
        service.on_close("engine", note(closed, "engine"))
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.Event().wait()

    assert run(main) == 143
    assert closed == ["engine"]


def test_an_error_while_starting_closes_what_is_open_and_gives_its_exit_code() -> None:
    closed: list[str] = []

    async def main(service: Service) -> None:
        service.on_close("engine", note(closed, "engine"))
        raise ConfigError("Port 1 is in use.")

    assert run(main) == 4
    assert closed == ["engine"]


@pytest.mark.parametrize(
    ("error", "code"), [(ClickHouseUnavailableError("gone"), 5), (ValueError("ours"), 1)]
)
def test_a_failing_background_task_stops_the_process(error: Exception, code: int) -> None:
    closed: list[str] = []

    async def main(service: Service) -> None:
        async def work() -> None:
            raise error

        service.on_close("engine", note(closed, "engine"))
        service.background("worker", work())

    assert run(main) == code
    assert closed == ["engine"]


def test_a_background_task_that_ends_does_not_stop_the_process() -> None:
    stopped_early: list[bool] = []

    async def main(service: Service) -> None:
        ended = asyncio.Event()

        async def work() -> None:
            ended.set()

        async def look() -> None:
            await ended.wait()
            await asyncio.sleep(0)
            stopped_early.append(service.stopping.is_set())
            service.stop()

        service.background("work", work())
        service.background("look", look())

    assert run(main) == 0
    assert stopped_early == [False]


def test_background_tasks_are_cancelled_in_their_place_of_the_order() -> None:
    closed: list[str] = []

    async def main(service: Service) -> None:
        async def work() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                closed.append("worker")

        service.on_close("engine", note(closed, "engine"))
        service.background("worker", work())
        service.on_close("http", note(closed, "http"))
        await asyncio.sleep(0)
        service.stop()

    assert run(main) == 0
    assert closed == ["http", "worker", "engine"]


def test_a_step_that_hangs_or_fails_does_not_keep_the_others_from_closing() -> None:
    closed: list[str] = []

    async def hang(_deadline: Deadline) -> None:
        await asyncio.Event().wait()

    async def fail(_deadline: Deadline) -> None:
        raise ValueError("broken")

    async def main(service: Service) -> None:
        service.on_close("engine", note(closed, "engine"))
        service.on_close("hangs", hang)
        service.on_close("fails", fail)
        service.stop()

    assert run(main, shutdown_timeout_s=0.01) == 0
    assert closed == ["engine"]


def test_all_steps_draw_from_one_deadline() -> None:
    left: list[float] = []

    async def main(service: Service) -> None:
        async def close(deadline: Deadline) -> None:
            left.append(deadline.remaining_s)

        service.on_close("first", close)
        service.on_close("second", close)
        service.stop()

    run(main, shutdown_timeout_s=7.0)
    assert 7.0 >= left[0] > left[1] > 6.0


def test_a_second_signal_ends_the_process_at_once() -> None:
    program = """
import asyncio, os, signal
from shared.supervise import Service, run_service

async def main(service: Service) -> None:
    async def close(deadline: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.sleep(60)
    service.on_close("slow", close)
    os.kill(os.getpid(), signal.SIGTERM)

raise SystemExit(run_service(main, shutdown_timeout_s=60))
"""
    ended = subprocess.run(
        [sys.executable, "-c", program], timeout=20, check=False, capture_output=True
    )
    assert ended.returncode == -signal.SIGTERM


def test_a_signal_stops_a_process_whose_log_nobody_reads_any_more() -> None:
    program = """
import os, signal
from shared.logs import configure_logging
from shared.supervise import Service, run_service

async def main(service: Service) -> None:
    os.kill(os.getpid(), signal.SIGTERM)

configure_logging()
raise SystemExit(run_service(main, shutdown_timeout_s=5))
"""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        ended = subprocess.run(
            [sys.executable, "-c", program], timeout=20, check=False, stderr=writing
        )
    finally:
        os.close(writing)
    assert ended.returncode == 143
