"""What a request's token stands for: the administrator's, a kept one, or a JWT; no I/O.

A look-up is one dictionary access: tokens that were good once are remembered by their bytes, JWTs
until they expire, and all are forgotten when anything changes.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable

from msgspec import Struct, structs

from shared.auth.cipher import TokenCipher
from shared.auth.rates import Rates
from shared.auth.records import ADMIN_NAME, Details, Origin, TokenRecord
from shared.auth.signed import JwtKey
from shared.auth.tokens import ADMIN, Grant, Scope
from shared.clock import Clock
from shared.errors import AuthenticationError

_MAX_REMEMBERED = 10_000


class _Known(Struct, frozen=True):
    """A token that was good; ``expires_at_ms`` and ``rps`` are 0 where there is no such limit."""

    grant: Grant
    expires_at_ms: float
    rps: float
    rate_key: str


class TokenLookup:
    """A ``TokenStore`` over tokens that are handed to it.

    Args:
        cipher: Makes the digests that tokens are found by.
        admin_token: The administrator's, which is not kept.
        jwt_key: What verifies JWTs.
        clock: Where time comes from.
        default_rps: Requests a second of a token without a limit of its own, 0 for no limit.
    """

    def __init__(
        self,
        cipher: TokenCipher,
        *,
        admin_token: str,
        jwt_key: JwtKey,
        clock: Clock,
        default_rps: float = 0.0,
    ) -> None:
        self.jwt_key = jwt_key
        self.admin_token = admin_token
        self.admin = TokenRecord(
            id=cipher.derived_id(ADMIN_NAME),
            name=ADMIN_NAME,
            digest="",
            sealed="",
            details=Details(scopes=(Scope(type=ADMIN),), origin=Origin("ADMIN")),
        )
        self._admin_bytes = admin_token.encode()
        self._cipher = cipher
        self._clock = clock
        self._default_rps = default_rps
        self._rates = Rates(clock)
        self._by_digest: dict[str, TokenRecord] = {}
        self._known: dict[bytes, _Known] = {}

    def __repr__(self) -> str:
        return f"<TokenLookup {len(self._by_digest)} tokens, {len(self._known)} remembered>"

    def replace(self, records: Iterable[TokenRecord]) -> None:
        """Know these tokens and no others beside the administrator's and JWTs."""
        self._by_digest = {record.digest: record for record in records}
        self._known = {}

    def grant(self, token: bytes) -> Grant:
        """See ``TokenStore``."""
        known = self._known.get(token)
        if known is None:
            known = self._look_up(token)
        if known.expires_at_ms and known.expires_at_ms <= self._clock.now_ms():
            self._known.pop(token, None)
            raise AuthenticationError("The token is expired.")
        if known.rps:
            rate = self._rates.take(known.rate_key, known.rps)
            return structs.replace(known.grant, rate=rate)
        return known.grant

    def _look_up(self, token: bytes) -> _Known:
        record = self._by_digest.get(self._cipher.digest(token))
        if hmac.compare_digest(token, self._admin_bytes):
            grant = structs.replace(self.admin.grant, name="admin")
            known = _Known(grant, 0, 0, "")
        elif record is not None:
            known = self._limited(record.grant, 0, f"id {record.id}")
        else:
            signed = self.jwt_key.verify(token, self._clock.now_ms() / 1000)
            known = self._limited(
                signed.grant, signed.expires_at_s * 1000, f"jwt {signed.grant.name}"
            )
        if len(self._known) >= _MAX_REMEMBERED:
            self._known.clear()
        self._known[token] = known
        return known

    def _limited(self, grant: Grant, expires_at_ms: float, rate_key: str) -> _Known:
        own_rps = grant.limits.rps
        rps = self._default_rps if own_rps is None else own_rps
        # Tokens of one name and different limits would fill each other's bucket.
        key = f"{rate_key} {rps:g}"
        return _Known(grant, expires_at_ms, 0 if grant.allows(ADMIN) else rps, key)
