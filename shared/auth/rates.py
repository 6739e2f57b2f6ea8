"""How often a token may be used: one bucket a token, in the memory of this process.

A bucket holds as many requests as the limit allows in one second, at least one, and fills at that
rate. A process on its own counts what it serves; several of them allow several times the limit.
"""

from __future__ import annotations

import math
from collections import OrderedDict

from shared.auth.tokens import Rate
from shared.clock import Clock
from shared.errors import SaturatedError

# Part of a request: a wait that is over must not be followed by another for a rounded time.
_ROUNDING = 1e-3


class RateLimitedError(SaturatedError):
    """The token has been used more often than its limit allows.

    Args:
        message: What the limit is.
        retry_after_s: When there will be a request left.
        rate: How the limit stands, for the headers of the answer.
    """

    code = "rate_limited"

    def __init__(self, message: str, *, retry_after_s: float, rate: Rate) -> None:
        super().__init__(message, retry_after_s=retry_after_s)
        self.rate = rate


class TokenBucket:
    """Requests that may go out at once, filling with time.

    Args:
        rps: Requests a second, more than 0.
        now_s: The monotonic time it begins at, full.
    """

    def __init__(self, rps: float, now_s: float) -> None:
        self.rps = rps
        self.capacity = max(1.0, rps)
        self._level = self.capacity
        self._at_s = now_s

    def take(self, now_s: float) -> float:
        """Take one request out; returns 0, or the seconds until there will be one."""
        self._level = min(self.capacity, self._level + (now_s - self._at_s) * self.rps)
        self._at_s = now_s
        if self._level >= 1.0 - _ROUNDING:
            self._level -= 1.0
            return 0.0
        return (1.0 - self._level) / self.rps

    def rate(self) -> Rate:
        """How it stands since the last ``take``."""
        return Rate(
            limit=math.floor(self.capacity),
            remaining=max(0, math.floor(self._level)),
            reset_s=math.ceil((self.capacity - self._level) / self.rps - 1e-9),
        )


class Rates:
    """Buckets by key; those longest unused are forgotten, which only fills them.

    Args:
        clock: Where time comes from.
        max_buckets: How many are remembered.
    """

    def __init__(self, clock: Clock, *, max_buckets: int = 10_000) -> None:
        self._clock = clock
        self._max_buckets = max_buckets
        self._buckets: OrderedDict[str, TokenBucket] = OrderedDict()

    def take(self, key: str, rps: float) -> Rate:
        """Count one request.

        Raises:
            RateLimitedError: There is none left; it says when there will be.
        """
        now_s = self._clock.monotonic()
        bucket = self._buckets.get(key)
        if bucket is None or bucket.rps != rps:
            bucket = self._buckets[key] = TokenBucket(rps, now_s)
            if len(self._buckets) > self._max_buckets:
                self._buckets.popitem(last=False)
        self._buckets.move_to_end(key)
        wait_s = bucket.take(now_s)
        if wait_s > 0.0:
            raise RateLimitedError(
                f"The token may be used {rps:g} times a second.",
                retry_after_s=wait_s,
                rate=bucket.rate(),
            )
        return bucket.rate()
