"""The headers that tell a caller how its rate limit stands, on every answer to a limited token."""

from __future__ import annotations

from litestar.types import Scope

from shared.auth.tokens import Rate

_STATE_KEY = "rate"

Headers = tuple[tuple[bytes, bytes], ...]


def remember_rate(scope: Scope, rate: Rate) -> None:
    """Have the answer to this request say how the limit stands."""
    scope.setdefault("state", {})[_STATE_KEY] = rate


def rate_headers(scope: Scope) -> Headers:
    """``X-RateLimit-*`` of an answer that is about to start, nothing where there is no limit."""
    rate = scope["state"].get(_STATE_KEY)
    if rate is None:
        return ()
    return (
        (b"x-ratelimit-limit", b"%d" % rate.limit),
        (b"x-ratelimit-remaining", b"%d" % rate.remaining),
        (b"x-ratelimit-reset", b"%d" % rate.reset_s),
    )
