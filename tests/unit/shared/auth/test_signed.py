"""JWTs: what one says, and everything that is none of ours."""

import base64
import json
import warnings
from typing import Any

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.auth.signed import JwtKey, checked_key
from shared.auth.tokens import Grant, GrantLimits, Scope
from shared.errors import AuthenticationError, BadRequestError, ConfigError

KEY = "p.the-key-of-these-tests-is-long-enough"
WORKSPACE = "0a1b2c3d-0000-0000-0000-000000000000"
NOW_S = 1_700_000_000.0
SIGNER = JwtKey(KEY, WORKSPACE)
READ = {"type": "PIPES:READ", "resource": "top"}
GOOD: dict[str, Any] = {
    "workspace_id": WORKSPACE,
    "name": "dashboard",
    "exp": int(NOW_S) + 60,
    "scopes": [READ],
}


def signed(claims: object, key: str = KEY, algorithm: str = "HS256", **header: object) -> bytes:
    payload = json.dumps(claims).encode()
    with warnings.catch_warnings():
        # Longer digests want longer keys than the one tried here.
        warnings.simplefilter("ignore")
        return jwt.api_jws.encode(
            payload, key, algorithm=algorithm, headers=header or None
        ).encode()


def part(value: object) -> bytes:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=")


def test_a_good_token_says_what_its_holder_may_do_and_until_when() -> None:
    claims = {
        **GOOD,
        "scopes": [
            {**READ, "fixed_params": {"tenant": 5}},
            {"type": "DATASOURCES:READ", "resource": "events", "filter": "a = 1"},
            {"type": "DATASOURCES:APPEND", "resource": "events"},
        ],
        "limits": {"rps": 10},
        "iat": NOW_S + 5,
        "sub": 7,
    }
    found = SIGNER.verify(signed(claims), NOW_S)
    assert found.expires_at_s == NOW_S + 60
    assert found.grant == Grant(
        name="dashboard",
        scopes=(
            Scope(type="PIPES:READ", resource="top", fixed_params={"tenant": 5}),
            Scope(type="DATASOURCES:READ", resource="events", filter="a = 1"),
            Scope(type="DATASOURCES:APPEND", resource="events"),
        ),
        limits=GrantLimits(rps=10),
    )


def test_what_is_signed_here_is_verified_here_and_by_any_library() -> None:
    grant = Grant(
        name="x",
        scopes=(Scope(type="PIPES:READ", resource="top", fixed_params={"tenant": ["a", 1]}),),
        limits=GrantLimits(rps=0.5, timeout_s=2.0, max_result_bytes=1000),
    )
    token = SIGNER.sign(grant, int(NOW_S) + 1)
    assert SIGNER.verify(token.encode(), NOW_S).grant == grant
    claims = jwt.decode(token, KEY, algorithms=["HS256"], options={"verify_exp": False})
    assert claims["workspace_id"] == WORKSPACE


def test_a_token_is_good_from_its_start_to_just_before_its_end() -> None:
    token = signed({**GOOD, "nbf": NOW_S, "exp": NOW_S + 60})
    for now_s in (NOW_S - 0.001, NOW_S + 60, NOW_S + 1e9):
        with pytest.raises(AuthenticationError, match=r"not valid yet|expired"):
            SIGNER.verify(token, now_s)
    for now_s in (NOW_S, NOW_S + 59.999):
        assert SIGNER.verify(token, now_s)


def test_a_token_without_a_workspace_is_ours_and_one_of_another_is_told_which_this_is() -> None:
    without = {name: value for name, value in GOOD.items() if name != "workspace_id"}
    assert SIGNER.verify(signed(without), NOW_S)
    with pytest.raises(AuthenticationError, match=f"another workspace, this one is {WORKSPACE}"):
        SIGNER.verify(signed({**GOOD, "workspace_id": "else"}), NOW_S)


header, payload, signature = signed(GOOD).split(b".")

ATTACKS: dict[str, bytes] = {
    "alg none": b".".join((part({"alg": "none", "typ": "JWT"}), payload, b"")),
    "alg None": b".".join((part({"alg": "None"}), payload, b"")),
    "alg none with the signature": b".".join((part({"alg": "none"}), payload, signature)),
    "no alg": b".".join((part({"typ": "JWT"}), payload, signature)),
    "alg of another type": b".".join((part({"alg": ["HS256"]}), payload, signature)),
    "alg in small letters": b".".join((part({"alg": "hs256"}), payload, signature)),
    "alg RS256": b".".join((part({"alg": "RS256"}), payload, signature)),
    "HS384": signed(GOOD, algorithm="HS384"),
    "HS512": signed(GOOD, algorithm="HS512"),
    "another key": signed(GOOD, key="q.the-key-of-these-tests-is-long-enough"),
    "an empty key": b".".join((header, payload, base64.urlsafe_b64encode(b"\0" * 32))),
    "no signature": b".".join((header, payload, b"")),
    "half a signature": b".".join((header, payload, signature[: len(signature) // 2])),
    "another payload": b".".join((header, part({**GOOD, "name": "admin"}), signature)),
    "another header": b".".join((part({"alg": "HS256", "x": 1}), payload, signature)),
    "two parts": b".".join((header, payload)),
    "four parts": b".".join((header, payload, signature, b"")),
    "dots": b"..",
    "no base64": b"!.!.!",
    "not ASCII": "é.é.é".encode(),
    "no UTF-8": b"\xff.\xfe.\xff",
    "a header that is no object": b".".join((part([1]), payload, signature)),
    "a header nested without end": b".".join(
        (base64.urlsafe_b64encode(b"[" * 9000), payload, signature)
    ),
    "too long": signed({**GOOD, "name": "x" * 20_000}),
    "critical extension": signed(GOOD, crit=["exp"]),
    "payload a list": signed([GOOD]),
    "payload a number": signed(1),
    "payload nested without end": b".".join(
        (header, base64.urlsafe_b64encode(b'{"a":' * 1500), signature)
    ),
    "for another audience": signed({**GOOD, "aud": "elsewhere"}),
    "no expiry": signed({k: v for k, v in GOOD.items() if k != "exp"}),
    "expiry null": signed({**GOOD, "exp": None}),
    "expiry a text": signed({**GOOD, "exp": str(NOW_S + 60)}),
    "expiry true": signed({**GOOD, "exp": True}),
    "expiry infinite": signed({**GOOD, "exp": float("inf")}),
    "expiry not a number": signed({**GOOD, "exp": float("nan")}),
    "expiry in milliseconds": signed({**GOOD, "exp": (NOW_S + 60) * 1000}),
    "expiry past": signed({**GOOD, "exp": NOW_S - 1}),
    "start not a number": signed({**GOOD, "nbf": float("nan")}),
    "no scopes": signed({k: v for k, v in GOOD.items() if k != "scopes"}),
    "scopes empty": signed({**GOOD, "scopes": []}),
    "scopes a text": signed({**GOOD, "scopes": "ADMIN"}),
    "scopes as texts": signed({**GOOD, "scopes": ["PIPES:READ:top"]}),
    "ADMIN": signed({**GOOD, "scopes": [{"type": "ADMIN"}]}),
    "ADMIN beside others": signed({**GOOD, "scopes": [READ, {"type": "ADMIN"}]}),
    "TOKENS": signed({**GOOD, "scopes": [{"type": "TOKENS"}]}),
    "WORKSPACE:READ_ALL": signed({**GOOD, "scopes": [{"type": "WORKSPACE:READ_ALL"}]}),
    "DATASOURCES:DROP": signed({**GOOD, "scopes": [{"type": "DATASOURCES:DROP", "resource": "a"}]}),
    "an unknown scope": signed({**GOOD, "scopes": [{"type": "X", "resource": "a"}]}),
    "a scope without a resource": signed({**GOOD, "scopes": [{"type": "PIPES:READ"}]}),
    "a filter on everything": signed(
        {**GOOD, "scopes": [{"type": "DATASOURCES:READ", "resource": "*", "filter": "0"}]}
    ),
    "a filter on a pipe": signed({**GOOD, "scopes": [{**READ, "filter": "0"}]}),
    "fixed_params a list": signed({**GOOD, "scopes": [{**READ, "fixed_params": [1]}]}),
    "rps 0": signed({**GOOD, "limits": {"rps": 0}}),
    "rps below 0": signed({**GOOD, "limits": {"rps": -1}}),
    "rps not a number": signed({**GOOD, "limits": {"rps": float("nan")}}),
    "limits a list": signed({**GOOD, "limits": []}),
    "name a number": signed({**GOOD, "name": 1}),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_is_refused_as_any_bad_token(attack: str) -> None:
    with pytest.raises(AuthenticationError) as caught:
        SIGNER.verify(ATTACKS[attack], NOW_S)
    assert KEY not in str(caught.value)


@given(st.binary() | st.builds(b".".join, st.lists(st.binary(), min_size=3, max_size=3)))
def test_any_bytes_are_refused_and_nothing_else_happens(token: bytes) -> None:
    with pytest.raises(AuthenticationError):
        SIGNER.verify(token, NOW_S)


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text(), st.lists))
def test_any_claims_are_taken_or_refused(value: object) -> None:
    for claim in (*GOOD, "limits", "nbf"):
        try:
            SIGNER.verify(signed({**GOOD, claim: value}), NOW_S)
        except AuthenticationError:
            continue


def test_a_short_key_signs_nothing_and_verifies_nothing() -> None:
    short = JwtKey("p.0123456789abcdef", WORKSPACE)
    with pytest.raises(BadRequestError, match="PIPEHOUSE_JWT_KEY"):
        short.sign(Grant(name="x", scopes=(Scope(type="PIPES:READ", resource="a"),)), 2**31)
    with pytest.raises(AuthenticationError):
        short.verify(signed(GOOD, key="p.0123456789abcdef"), NOW_S)
    with pytest.raises(ConfigError, match="18 bytes"):
        checked_key("p.0123456789abcdef")
    assert checked_key(KEY) == KEY


def test_nothing_is_signed_that_would_be_refused() -> None:
    for scopes in ((), (Scope(type="ADMIN"),)):
        with pytest.raises(BadRequestError):
            SIGNER.sign(Grant(name="x", scopes=scopes), int(NOW_S))
    read = (Scope(type="PIPES:READ", resource="a"),)
    with pytest.raises(BadRequestError, match="seconds"):
        SIGNER.sign(Grant(name="x", scopes=read), int(NOW_S * 1000))


def test_the_key_is_not_shown() -> None:
    assert KEY not in repr(SIGNER)
