"""The id that ties an answer to its log lines, on every answer as ``X-Request-Id``."""

from __future__ import annotations

import os
import re

from litestar.types import Scope

HEADER = b"x-request-id"
_STATE_KEY = "request_id"
_VALID = re.compile(rb"[A-Za-z0-9._-]{1,128}\Z")


def request_id(scope: Scope) -> str:
    """The request's id: the caller's where it sent a valid one, else a new one.

    Valid is 1 to 128 letters, digits, dots, underscores and dashes.
    """
    state = scope["state"]
    known = state.get(_STATE_KEY)
    if known is None:
        known = state[_STATE_KEY] = _sent(scope) or os.urandom(12).hex()
    return str(known)


def _sent(scope: Scope) -> str | None:
    for name, value in scope["headers"]:
        if name == HEADER and _VALID.match(value):
            return value.decode("ascii")
    return None
