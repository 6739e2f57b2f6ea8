import jwt
import pytest
from msgspec import structs

from shared.auth.cipher import TokenCipher
from shared.auth.lookup import TokenLookup
from shared.auth.rates import RateLimitedError
from shared.auth.records import Details, TokenRecord
from shared.auth.signed import JwtKey
from shared.auth.tokens import ADMIN, PIPES_READ, GrantLimits, Rate, Scope, TokenStore
from shared.clock import ManualClock
from shared.errors import AuthenticationError

ADMIN_TOKEN = "p.the-admin-token-of-these-tests-é"
CIPHER = TokenCipher("a-secret-for-tests")
READ = Scope(type=PIPES_READ, resource="top")


def record(token: str, name: str = "reader", **details: object) -> TokenRecord:
    return TokenRecord(
        id=f"id-{name}",
        name=name,
        digest=CIPHER.digest(token.encode()),
        sealed=CIPHER.encrypt(token, f"id-{name}"),
        details=Details(scopes=(READ,), **details),  # type: ignore[arg-type]
    )


def lookup(clock: ManualClock, *records: TokenRecord, default_rps: float = 0.0) -> TokenLookup:
    made = TokenLookup(
        CIPHER,
        admin_token=ADMIN_TOKEN,
        jwt_key=JwtKey(ADMIN_TOKEN, "workspace"),
        clock=clock,
        default_rps=default_rps,
    )
    made.replace(records)
    return made


def signed(clock: ManualClock, for_s: float, name: str = "jwt", rps: float | None = None) -> bytes:
    claims: dict[str, object] = {
        "name": name,
        "exp": clock.now_ms() / 1000 + for_s,
        "scopes": [{"type": PIPES_READ, "resource": "top"}],
    }
    if rps is not None:
        claims["limits"] = {"rps": rps}
    return jwt.encode(claims, ADMIN_TOKEN, algorithm="HS256").encode()


def test_the_administrator_kept_tokens_and_jwts_are_known_at_first_and_at_later_sight() -> None:
    clock = ManualClock()
    store: TokenStore = lookup(clock, record("p.one"))
    for _ in range(2):
        assert store.grant(ADMIN_TOKEN.encode()).allows(ADMIN)
        assert store.grant(b"p.one").name == "reader"
        assert store.grant(b"p.one").id == "id-reader"
        assert store.grant(signed(clock, 60)).allows(PIPES_READ, "top")


@pytest.mark.parametrize("token", [b"", b"p.two", b"\xff", ADMIN_TOKEN.encode()[:-1], b"a.b.c"])
def test_other_tokens_are_refused_again_and_again(token: bytes) -> None:
    store = lookup(ManualClock(), record("p.one"))
    for _ in range(2):
        with pytest.raises(AuthenticationError):
            store.grant(token)


def test_the_digest_of_a_token_is_no_token() -> None:
    kept = record("p.one")
    with pytest.raises(AuthenticationError):
        lookup(ManualClock(), kept).grant(kept.digest.encode())


def test_a_jwt_that_is_remembered_expires_all_the_same() -> None:
    clock = ManualClock()
    store = lookup(clock)
    token = signed(clock, 10)
    store.grant(token)
    clock.advance(9.9)
    store.grant(token)
    clock.advance(0.1)
    for _ in range(2):
        with pytest.raises(AuthenticationError, match="expired"):
            store.grant(token)


def test_what_is_gone_or_changed_is_forgotten_at_once() -> None:
    store = lookup(ManualClock(), record("p.one"))
    store.grant(b"p.one")
    changed = structs.replace(record("p.one"), details=Details())
    store.replace([changed])
    assert not store.grant(b"p.one").allows(PIPES_READ, "top")
    store.replace([])
    with pytest.raises(AuthenticationError):
        store.grant(b"p.one")


def test_a_limit_is_counted_by_token_and_for_jwts_by_name() -> None:
    clock = ManualClock()
    store = lookup(clock, record("p.one", limits=GrantLimits(rps=2)))
    assert store.grant(b"p.one").rate == Rate(limit=2, remaining=1, reset_s=1)
    assert store.grant(b"p.one").rate == Rate(limit=2, remaining=0, reset_s=1)
    with pytest.raises(RateLimitedError):
        store.grant(b"p.one")
    store.grant(signed(clock, 60, "a", rps=1))
    with pytest.raises(RateLimitedError):
        store.grant(signed(clock, 61, "a", rps=1))
    store.grant(signed(clock, 60, "b", rps=1))
    clock.advance(1)
    store.grant(b"p.one")


def test_a_reload_does_not_fill_the_buckets() -> None:
    kept = record("p.one", limits=GrantLimits(rps=1))
    store = lookup(ManualClock(), kept)
    store.grant(b"p.one")
    store.replace([kept])
    with pytest.raises(RateLimitedError):
        store.grant(b"p.one")


def test_the_general_limit_is_for_all_but_administrators_and_a_tokens_own_goes_first() -> None:
    own = record("p.two", "other", limits=GrantLimits(rps=3))
    store = lookup(ManualClock(), record("p.one"), own, default_rps=1)
    store.grant(b"p.one")
    with pytest.raises(RateLimitedError):
        store.grant(b"p.one")
    for _ in range(3):
        store.grant(b"p.two")
        store.grant(ADMIN_TOKEN.encode())
    with pytest.raises(RateLimitedError):
        store.grant(b"p.two")


def test_without_a_limit_nothing_is_counted() -> None:
    store = lookup(ManualClock(), record("p.one"))
    assert {store.grant(b"p.one").rate for _ in range(100)} == {None}


def test_no_token_is_shown() -> None:
    assert "p." not in repr(lookup(ManualClock(), record("p.one")))


def test_tokens_of_one_name_do_not_fill_the_bucket_of_each_other() -> None:
    clock = ManualClock()
    store = lookup(clock)
    slow, fast = signed(clock, 60, rps=1), signed(clock, 60, rps=5)
    store.grant(slow)
    store.grant(fast)
    with pytest.raises(RateLimitedError):
        store.grant(slow)
