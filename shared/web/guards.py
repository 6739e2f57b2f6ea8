"""From a request to what its caller may do."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from urllib.parse import unquote

from litestar.types import Scope

from shared.auth.rates import RateLimitedError
from shared.auth.tokens import Grant, TokenStore
from shared.errors import AuthenticationError
from shared.web.limits import remember_rate


def authenticate(scope: Scope, tokens: TokenStore) -> Grant:
    """What the caller may do, from ``?token=`` or else from ``Authorization: Bearer``.

    Called once a request, because uses of a token are counted.

    Raises:
        AuthenticationError: No token, or one that is unknown or expired.
        RateLimitedError: The token has been used too often.
    """
    token = query_parameters(scope["query_string"]).get("token")
    found = token.encode() if token else bearer_token(scope)
    if not found:
        raise AuthenticationError(
            "The request has no token.", hint="Send ?token=… or Authorization: Bearer …."
        )
    try:
        grant = tokens.grant(found)
    except RateLimitedError as error:
        remember_rate(scope, error.rate)
        raise
    if grant.rate is not None:
        remember_rate(scope, grant.rate)
    return grant


def bearer_token(scope: Scope) -> bytes:
    """The token of the Authorization header, empty where there is none."""
    for name, value in scope["headers"]:
        if name == b"authorization" and value[:7].lower() == b"bearer ":
            return value[7:].strip()
    return b""


def query_pairs(text: bytes) -> list[tuple[str, str]]:
    """The parameters of a query string or form, in order; what is not UTF-8 is replaced."""
    found = []
    for part in text.decode("utf-8", "replace").split("&"):
        if part:
            name, _, value = part.partition("=")
            found.append((_unquoted(name), _unquoted(value)))
    return found


def _unquoted(text: str) -> str:
    # Most texts have nothing to be unquoted, and looking is cheap.
    if "+" in text:
        text = text.replace("+", " ")
    return unquote(text, errors="replace") if "%" in text else text


@lru_cache(maxsize=256)
def url_pairs(query_string: bytes) -> tuple[tuple[str, str], ...]:
    """As ``query_pairs``, remembered: a request looks at its query string more than once."""
    return tuple(query_pairs(query_string))


@lru_cache(maxsize=256)
def query_parameters(query_string: bytes) -> Mapping[str, str]:
    """The parameters of a query string by name; of one that comes twice, the last.

    The result is remembered, because producers send the same query string again and again.
    """
    return dict(url_pairs(query_string))
