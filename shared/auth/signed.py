"""JWTs: tokens that carry what they allow, signed with a key of this installation; pure.

Only HS256. A token has ``exp`` and ``scopes`` and may have ``name``, ``nbf``, ``workspace_id`` and
``limits``; it allows no more than reading pipes and data sources and appending events.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jwt
import msgspec
from msgspec import Struct

from shared.auth.scopes import JWT_SCOPE_TYPES, ScopeObject, scope_from_object, scope_object
from shared.auth.tokens import Grant, GrantLimits, Scope
from shared.errors import AuthenticationError, BadRequestError, ConfigError

_ALGORITHM = "HS256"
_MAX_BYTES = 16 << 10
_MIN_KEY_BYTES = 32
_MAX_TIME_S = 253_402_300_799  # the end of the year 9999

# Times are compared with the clock of the process, which the library does not know.
_OPTIONS: Any = {
    "verify_exp": False,
    "verify_nbf": False,
    "verify_iat": False,
    "verify_sub": False,
    "verify_jti": False,
}


class Signed(Struct, frozen=True, kw_only=True):
    """What a good JWT says; times are seconds since 1970."""

    grant: Grant
    expires_at_s: float


class _Claims(Struct, frozen=True, kw_only=True):
    exp: float
    scopes: tuple[ScopeObject, ...]
    name: str = "jwt"
    nbf: float = 0.0
    workspace_id: str | None = None
    limits: GrantLimits | None = None


class JwtKey:
    """Signs and verifies.

    Args:
        key: The secret that signs.
        workspace_id: The workspace whose tokens these are; of another one they are refused.
    """

    def __init__(self, key: str, workspace_id: str) -> None:
        self._key = key.encode()
        self._workspace_id = workspace_id

    def __repr__(self) -> str:
        return "JwtKey(***)"

    @property
    def is_strong(self) -> bool:
        """Whether the key is long enough; whoever holds a JWT could find a short one by trying."""
        return len(self._key) >= _MIN_KEY_BYTES

    def sign(self, grant: Grant, expires_at_s: int) -> str:
        """A JWT for what the grant allows.

        Raises:
            BadRequestError: A JWT cannot allow that, or the key is too short.
        """
        if not self.is_strong:
            raise BadRequestError(
                f"JWTs need a key of at least {_MIN_KEY_BYTES} bytes.",
                hint="Set PIPEHOUSE_JWT_KEY, or a longer admin token.",
            )
        if not 0 < expires_at_s <= _MAX_TIME_S:
            raise BadRequestError("The expiration time is not in seconds since 1970.")
        _check_scopes(grant.scopes)
        payload: dict[str, object] = {
            "workspace_id": self._workspace_id,
            "name": grant.name,
            "exp": expires_at_s,
            "scopes": [scope_object(scope) for scope in grant.scopes],
        }
        limits = limits_object(grant.limits)
        if limits:
            payload["limits"] = limits
        return jwt.encode(payload, self._key, algorithm=_ALGORITHM)

    def verify(self, token: bytes, now_s: float) -> Signed:
        """What the token says, where it is one of ours and valid now.

        Raises:
            AuthenticationError: It is not.
        """
        claims = self._claims(token)
        if claims.workspace_id not in (None, self._workspace_id):
            raise AuthenticationError(
                f"The token is for another workspace, this one is {self._workspace_id}."
            )
        if not claims.exp <= _MAX_TIME_S:
            raise AuthenticationError("The token's expiry is not in seconds since 1970.")
        if not claims.exp > now_s:
            raise AuthenticationError("The token is expired.")
        if not claims.nbf <= now_s:
            raise AuthenticationError("The token is not valid yet.")
        try:
            scopes = tuple(scope_from_object(scope) for scope in claims.scopes)
            _check_scopes(scopes)
            limits = checked_limits(claims.limits or GrantLimits())
        except BadRequestError as error:
            raise AuthenticationError(f"The token is not valid: {error}") from error
        grant = Grant(name=claims.name, scopes=scopes, limits=limits)
        return Signed(grant=grant, expires_at_s=claims.exp)

    def _claims(self, token: bytes) -> _Claims:
        # The size first: what follows costs in proportion to it.
        if not self.is_strong or len(token) > _MAX_BYTES or token.count(b".") != 2:
            raise AuthenticationError("The token is not known.")
        try:
            payload = jwt.decode(token, self._key, algorithms=[_ALGORITHM], options=_OPTIONS)
        except (jwt.PyJWTError, ValueError, RecursionError) as error:
            raise AuthenticationError("The token is not known.") from error
        try:
            return msgspec.convert(payload, _Claims)
        except (msgspec.ValidationError, RecursionError) as error:
            raise AuthenticationError(f"The token is not valid: {error}.") from error


def checked_key(key: str) -> str:
    """A key from the settings, where it is long enough.

    Raises:
        ConfigError: It is not.
    """
    if len(key.encode()) < _MIN_KEY_BYTES:
        raise ConfigError(
            f"PIPEHOUSE_JWT_KEY has {len(key.encode())} bytes, expected at least {_MIN_KEY_BYTES}."
        )
    return key


def limits_object(limits: GrantLimits) -> Mapping[str, object]:
    """The limits that are set, by name."""
    found: dict[str, object] = msgspec.to_builtins(limits)
    return {name: value for name, value in found.items() if value is not None}


def checked_limits(limits: GrantLimits) -> GrantLimits:
    """The limits, where each is more than nothing.

    Raises:
        BadRequestError: One is not.
    """
    for name, value in limits_object(limits).items():
        # "Not more than", so that NaN is refused too.
        if not (isinstance(value, int | float) and 0 < value < float("inf")):
            raise BadRequestError(f"The limit {name} is {value}, expected more than 0.")
    return limits


def _check_scopes(scopes: tuple[Scope, ...]) -> None:
    if not scopes:
        raise BadRequestError("A JWT needs at least one scope.")
    for scope in scopes:
        if scope.type not in JWT_SCOPE_TYPES:
            raise BadRequestError(
                f"A JWT cannot have the scope {scope.type}.",
                hint=f"It can have {', '.join(sorted(JWT_SCOPE_TYPES))}.",
            )
