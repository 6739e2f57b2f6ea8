from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from deploy.client import ServerClient, find_token
from shared.errors import (
    AppError,
    BadRequestError,
    ConfigError,
    NotFoundError,
    PermissionDeniedError,
    SaturatedError,
    UnavailableError,
)
from shared.settings import Settings


def answering(status: int, content: bytes) -> ServerClient:
    transport = httpx.MockTransport(lambda request: httpx.Response(status, content=content))
    return ServerClient("http://server:1", "token", transport=transport)


def failing(error: Exception) -> ServerClient:
    def fail(request: httpx.Request) -> httpx.Response:
        raise error

    return ServerClient("http://server:1", "token", transport=httpx.MockTransport(fail))


@pytest.mark.parametrize(
    ("status", "kind", "exit_code"),
    [
        (400, BadRequestError, 1),
        (403, PermissionDeniedError, 1),
        (404, NotFoundError, 1),
        (429, SaturatedError, 5),
        (500, AppError, 1),
        (503, UnavailableError, 5),
    ],
)
def test_a_refusal_is_the_error_of_its_status_in_the_words_of_the_server(
    status: int, kind: type[AppError], exit_code: int
) -> None:
    with pytest.raises(kind) as caught:
        answering(status, b'{"error": "No such thing."}').call("GET", "/x")
    assert str(caught.value) == "No such thing."
    assert caught.value.exit_code == exit_code


def test_a_refusal_that_is_not_ours_is_shown_by_its_first_line() -> None:
    with pytest.raises(BadRequestError, match=r"answered 405: <html>$"):
        answering(405, b"\n<html>\n<body>").call("GET", "/x")


def test_an_answer_that_is_not_ours_is_told() -> None:
    with pytest.raises(UnavailableError, match="is not Pipehouse"):
        answering(200, b"<html>").call("GET", "/x")


def test_no_server_is_one_line_that_says_what_to_do() -> None:
    with pytest.raises(UnavailableError) as caught:
        failing(httpx.ConnectError("refused")).call("GET", "/x")
    assert str(caught.value).startswith("No server answers at http://server:1. Start one with")
    assert caught.value.exit_code == 5


def test_a_broken_answer_is_told() -> None:
    with pytest.raises(UnavailableError, match="broke off its answer: cut"):
        failing(httpx.ReadError("cut")).read("GET", "/x")


def test_what_is_sent_has_the_token_and_the_parameters_in_order() -> None:
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, content=b"{}")

    client = ServerClient("http://server:1/", "secret", transport=httpx.MockTransport(answer))
    client.call("POST", "/x", params=[("a", "1"), ("a", "2 &")], body={"q": "é"})
    assert str(seen[0].url) == "http://server:1/x?a=1&a=2+%26"
    assert seen[0].headers["authorization"] == "Bearer secret"
    assert seen[0].content == '{"q":"é"}'.encode()


def test_the_token_of_the_settings_wins_over_that_of_the_data_folder(tmp_path: Path) -> None:
    (tmp_path / "admin_token").write_text("of the folder\n")
    assert find_token(Settings(data=tmp_path)) == "of the folder"
    assert find_token(Settings(data=tmp_path, admin_token="admin")) == "admin"
    assert find_token(Settings(data=tmp_path, admin_token="admin", token="own")) == "own"


def test_the_token_of_the_data_folder_stays_on_this_machine(tmp_path: Path) -> None:
    (tmp_path / "admin_token").write_text("of the folder\n")
    with pytest.raises(ConfigError, match="PIPEHOUSE_TOKEN"):
        find_token(Settings(data=tmp_path, url="https://elsewhere.example"))


@pytest.mark.parametrize("url", ["http://[", "http://host:port", "http://", "http://h:99999"])
def test_an_address_that_is_no_url_is_told(url: str) -> None:
    with pytest.raises(ConfigError, match="PIPEHOUSE_URL"):
        ServerClient(url, "token")
