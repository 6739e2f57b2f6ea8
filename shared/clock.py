"""Time, handed in instead of looked up, so that plain code can be tested without waiting."""

from __future__ import annotations

import time
from typing import Protocol, runtime_checkable

# Linux and macOS have one that goes on while the machine is suspended, under different names.
_STEADY_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def steady_s() -> float:
    """Seconds on a clock that is never set, and goes on while the machine is suspended."""
    return time.clock_gettime(_STEADY_CLOCK)


@runtime_checkable
class Clock(Protocol):
    """Two times: one for measuring and one for writing down."""

    def monotonic(self) -> float:
        """Seconds since some moment; only differences mean anything."""
        ...

    def now_ms(self) -> int:
        """Milliseconds since 1970-01-01 UTC."""
        ...


class SystemClock:
    """The machine's clock."""

    def monotonic(self) -> float:
        """See ``Clock``."""
        return time.monotonic()

    def now_ms(self) -> int:
        """See ``Clock``."""
        return time.time_ns() // 1_000_000


class ManualClock:
    """A clock that moves only when told to."""

    def __init__(self, now_s: float = 1_700_000_000.0) -> None:
        self._now_s = now_s

    def advance(self, seconds: float) -> None:
        """Move both times forward."""
        self._now_s += seconds

    def monotonic(self) -> float:
        """See ``Clock``."""
        return self._now_s

    def now_ms(self) -> int:
        """See ``Clock``."""
        return int(self._now_s * 1000)


class Deadline:
    """One time budget that every step of a shutdown draws from.

    Args:
        clock: Where time comes from.
        budget_s: How long everything together may take.
    """

    def __init__(self, clock: Clock, budget_s: float) -> None:
        self._clock = clock
        self._end_s = clock.monotonic() + budget_s

    @property
    def remaining_s(self) -> float:
        """Seconds left, never negative."""
        return max(0.0, self._end_s - self._clock.monotonic())

    @property
    def is_over(self) -> bool:
        """Whether nothing is left."""
        return self.remaining_s <= 0.0
