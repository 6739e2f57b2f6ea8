from __future__ import annotations

from typing import Any, cast

import pytest
from litestar.types import Scope

from shared.web.cors import Cors, parse_origins

APP = b"https://app.example"


def request(**headers: bytes) -> Scope:
    named = [(name.replace("_", "-").encode(), value) for name, value in headers.items()]
    return cast(Scope, cast(Any, {"headers": named}))


def test_every_origin_is_answered_with_a_star() -> None:
    answered = dict(Cors().answer_headers(request(origin=APP)))
    assert answered[b"access-control-allow-origin"] == b"*"
    assert b"x-request-id" in answered[b"access-control-expose-headers"]
    assert Cors().answer_headers(request()) == ()


def test_a_listed_origin_is_repeated_and_others_get_nothing() -> None:
    cors = Cors(["https://app.example/", "http://localhost:3000"])
    for origin in (APP, b"http://localhost:3000"):
        answered = dict(cors.answer_headers(request(origin=origin)))
        assert answered[b"access-control-allow-origin"] == origin
        assert answered[b"vary"] == b"Origin"
    assert cors.answer_headers(request(origin=b"https://evil.example")) == ((b"vary", b"Origin"),)
    assert cors.answer_headers(request()) == ((b"vary", b"Origin"),)


def test_a_preflight_allows_the_headers_that_are_asked_for() -> None:
    asked = request(
        origin=APP,
        access_control_request_method=b"POST",
        access_control_request_headers=b"x-own, authorization",
    )
    allowed = dict(Cors().preflight_headers(asked) or ())
    assert allowed[b"access-control-allow-headers"] == b"x-own, authorization"
    assert b"POST" in allowed[b"access-control-allow-methods"]
    assert Cors().preflight_headers(request(origin=APP)) is None


@pytest.mark.parametrize(
    ("text", "origins"),
    [
        ("*", ("*",)),
        ("https://a.example, https://b.example ,", ("https://a.example", "https://b.example")),
        ("none", ()),
        ("", ()),
    ],
)
def test_origins_are_a_list_with_commas(text: str, origins: tuple[str, ...]) -> None:
    assert parse_origins(text) == origins
