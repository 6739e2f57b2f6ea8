from collections.abc import Sequence

import pytest
from httpx import ASGITransport, AsyncClient, Response
from litestar import asgi
from litestar.types import Receive, Scope, Send

from shared.auth.rates import Rates
from shared.auth.tokens import ADMIN, Grant, Rate
from shared.auth.tokens import Scope as TokenScope
from shared.clock import ManualClock
from shared.web.app import create_app
from shared.web.guards import authenticate
from shared.web.limits import rate_headers, remember_rate

CLOCK = ManualClock()


class Limited:
    """Every token may be used twice a second, "free" as often as one likes."""

    def __init__(self) -> None:
        self._rates = Rates(CLOCK)

    def grant(self, token: bytes) -> Grant:
        rate = None if token == b"free" else self._rates.take(token.decode(), 2)
        return Grant(name="x", scopes=(TokenScope(type=ADMIN),), rate=rate)


STORE = Limited()


@asgi("/thing", is_mount=False, copy_scope=False)
async def thing(scope: Scope, receive: Receive, send: Send) -> None:
    authenticate(scope, STORE)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"{}", "more_body": False})


async def ask(tokens: Sequence[str]) -> list[Response]:
    transport = ASGITransport(create_app([thing]))  # type: ignore[arg-type]
    async with AsyncClient(transport=transport, base_url="http://test") as client:
        return [await client.get("/thing", params={"token": token}) for token in tokens]


def shown(answer: Response) -> list[str | None]:
    names = ("x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset", "retry-after")
    return [answer.headers.get(name) for name in names]


async def test_every_answer_says_how_the_limit_stands_and_the_last_one_when_to_try_again() -> None:
    first, second, third = await ask(["a", "a", "a"])
    assert [first.status_code, second.status_code, third.status_code] == [200, 200, 429]
    assert shown(first) == ["2", "1", "1", None]
    assert shown(second) == ["2", "0", "1", None]
    assert shown(third) == ["2", "0", "1", "1"]
    assert third.json()["code"] == "rate_limited"
    CLOCK.advance(float(third.headers["retry-after"]))
    assert (await ask(["a"]))[0].status_code == 200


async def test_without_a_limit_there_are_no_headers() -> None:
    assert shown((await ask(["free"]))[0]) == [None] * 4


@pytest.mark.parametrize("state", [{}, {"state": {}}])
def test_what_is_remembered_is_shown(state: dict[str, object]) -> None:
    scope: Scope = dict(state)  # type: ignore[assignment]
    remember_rate(scope, Rate(limit=3, remaining=2, reset_s=1))
    assert rate_headers(scope) == (
        (b"x-ratelimit-limit", b"3"),
        (b"x-ratelimit-remaining", b"2"),
        (b"x-ratelimit-reset", b"1"),
    )
