"""Which web pages may call us from a browser, and which headers of an answer they may read."""

from __future__ import annotations

from collections.abc import Iterable

from litestar.types import Scope

Headers = tuple[tuple[bytes, bytes], ...]

ANY_ORIGIN = "*"
_NONE = "none"

_METHODS = b"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"
_DEFAULT_REQUEST_HEADERS = (
    b"authorization, content-type, content-encoding, if-none-match, x-request-id"
)
_EXPOSED = (
    b"etag, retry-after, x-cache, x-data-as-of, x-db-exception-code, x-db-statistics, "
    b"x-ratelimit-limit, x-ratelimit-remaining, x-ratelimit-reset, x-request-id"
)
_PREFLIGHT_MAX_AGE_S = b"86400"


class Cors:
    """Answers preflights and adds what a browser asks for.

    Tokens never travel as cookies, so credentials are not allowed and ``*`` gives nothing away.

    Args:
        origins: Origins such as ``https://app.example.com``, or ``*`` for every one; none means
            that only pages of this very server may call.
    """

    def __init__(self, origins: Iterable[str] = (ANY_ORIGIN,)) -> None:
        self._origins = frozenset(origin.rstrip("/").lower().encode() for origin in origins)
        self._is_open = ANY_ORIGIN.encode() in self._origins
        self._open_headers: Headers = (
            (b"access-control-allow-origin", b"*"),
            (b"access-control-expose-headers", _EXPOSED),
        )

    def answer_headers(self, scope: Scope) -> Headers:
        """What every answer to this request carries; nothing where no browser asks."""
        origin = _header(scope, b"origin")
        if not origin:
            return () if self._is_open else ((b"vary", b"Origin"),)
        if self._is_open:
            return self._open_headers
        if origin.lower() not in self._origins:
            return ((b"vary", b"Origin"),)
        return (
            (b"access-control-allow-origin", origin),
            (b"access-control-expose-headers", _EXPOSED),
            (b"vary", b"Origin"),
        )

    def preflight_headers(self, scope: Scope) -> Headers | None:
        """The answer to a preflight beside ``answer_headers``; None when it is not one."""
        if not _header(scope, b"access-control-request-method"):
            return None
        asked = _header(scope, b"access-control-request-headers")
        return (
            (b"access-control-allow-methods", _METHODS),
            (b"access-control-allow-headers", asked or _DEFAULT_REQUEST_HEADERS),
            (b"access-control-max-age", _PREFLIGHT_MAX_AGE_S),
            (b"vary", b"Access-Control-Request-Headers"),
        )


def parse_origins(text: str) -> tuple[str, ...]:
    """The origins of a comma-separated list; the word ``none`` stands for an empty one."""
    origins = tuple(origin.strip() for origin in text.split(",") if origin.strip())
    return () if origins == (_NONE,) else origins


def _header(scope: Scope, name: bytes) -> bytes:
    for found, value in scope["headers"]:
        if found == name:
            return bytes(value)
    return b""
