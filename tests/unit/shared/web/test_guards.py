from urllib.parse import parse_qsl

import pytest
from hypothesis import given
from hypothesis import strategies as st
from litestar.types import Scope

from shared.auth.tokens import ADMIN, AdminTokenStore
from shared.errors import AuthenticationError
from shared.web.guards import authenticate, query_pairs, query_parameters, url_pairs

STORE = AdminTokenStore("p.the-only-token-é")
RIGHT = "p.the-only-token-é".encode()


def scope(query: bytes = b"", authorization: bytes | None = None) -> Scope:
    headers = [] if authorization is None else [(b"authorization", authorization)]
    return {"type": "http", "query_string": query, "headers": headers}  # type: ignore[return-value]


@pytest.mark.parametrize(
    "request_scope",
    [
        scope(b"token=p.the-only-token-%C3%A9"),
        scope(b"token=p.the-only-token-\xc3\xa9"),
        scope(authorization=b"Bearer " + RIGHT),
        scope(authorization=b"bearer   " + RIGHT + b" "),
        scope(b"token=", b"Bearer " + RIGHT),
        scope(b"token=p.the-only-token-%C3%A9", b"Bearer wrong"),
    ],
)
def test_a_token_is_taken_from_the_query_string_first_and_then_from_the_header(
    request_scope: Scope,
) -> None:
    assert authenticate(request_scope, STORE).allows(ADMIN)


@pytest.mark.parametrize(
    "request_scope",
    [
        scope(),
        scope(b"token"),
        scope(authorization=b"Basic " + RIGHT),
        scope(authorization=RIGHT),
        scope(authorization=b"Bearer"),
        scope(authorization=b"Bearer wrong"),
        scope(b"token=wrong", b"Bearer " + RIGHT),
        scope(b"token=%FF%FE"),
    ],
)
def test_a_missing_or_wrong_token_is_refused(request_scope: Scope) -> None:
    with pytest.raises(AuthenticationError):
        authenticate(request_scope, STORE)


@pytest.mark.parametrize(
    ("query", "parameters"),
    [
        (b"", {}),
        (b"name=a%20b&wait", {"name": "a b", "wait": ""}),
        (b"name=a+b", {"name": "a b"}),
        (b"name=a&name=b", {"name": "b"}),
        (b"name=%ff", {"name": "�"}),
        (b"name=\xff", {"name": "�"}),
    ],
)
def test_query_strings_of_any_bytes_are_read(query: bytes, parameters: dict[str, str]) -> None:
    assert query_parameters(query) == parameters


def test_pairs_keep_their_order_and_repetitions() -> None:
    assert query_pairs(b"b=1&a=&b=2") == [("b", "1"), ("a", ""), ("b", "2")]


@given(
    st.binary()
    | st.lists(st.sampled_from(["a", "=", "&", "%41", "+", "%", "%ff", "é", ";", "%2B"]))
    .map("".join)
    .map(str.encode)
)
def test_a_query_string_is_read_as_the_standard_library_reads_it(text: bytes) -> None:
    decoded = text.decode("utf-8", "replace")
    expected = parse_qsl(decoded, keep_blank_values=True, errors="replace")
    assert query_pairs(text) == expected == list(url_pairs(text))
