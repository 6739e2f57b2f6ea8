"""The running server, as commands ask it: one request at a time, our errors instead of HTTP's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import msgspec

from shared.errors import (
    AppError,
    BadRequestError,
    ConfigError,
    NotFoundError,
    PermissionDeniedError,
    QueryTimeoutError,
    SaturatedError,
    TooLargeError,
    UnavailableError,
)
from shared.settings import Settings

Params = Sequence[tuple[str, str]]

_CONNECT_TIMEOUT_S = 5.0
_MIN_READ_TIMEOUT_S = 30.0
_CHUNK_BYTES = 1 << 16
_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
_ERRORS: Mapping[int, type[AppError]] = {
    403: PermissionDeniedError,
    404: NotFoundError,
    408: QueryTimeoutError,
    413: TooLargeError,
    429: SaturatedError,
    503: UnavailableError,
}


class ServerClient:
    """A running server.

    Args:
        url: Where it is.
        token: Whom it is asked for.
        timeout_s: Longest silence of the server.
        transport: Where requests go instead of the network.

    Raises:
        ConfigError: The URL is none.
    """

    def __init__(
        self,
        url: str,
        token: str,
        *,
        timeout_s: float = _MIN_READ_TIMEOUT_S,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        host = _host(url)
        self.url = url.rstrip("/")
        self._client = httpx.Client(
            base_url=self.url,
            headers={"Authorization": f"Bearer {token}"},
            timeout=httpx.Timeout(timeout_s, connect=_CONNECT_TIMEOUT_S),
            transport=transport,
            # A proxy has no way to this machine.
            trust_env=host not in _LOOPBACK,
        )

    def __repr__(self) -> str:
        return f"ServerClient({self.url!r})"

    def close(self) -> None:
        """Let go of the connection."""
        self._client.close()

    def call(
        self, method: str, path: str, *, params: Params = (), body: object = None
    ) -> dict[str, Any]:
        """The JSON object that the server answers with.

        Raises:
            AppError: What the server refused, as an error of the same kind.
            UnavailableError: It does not answer, or is not ours.
        """
        content = self.read(method, path, params=params, body=body)
        try:
            return msgspec.json.decode(content, type=dict[str, Any])
        except msgspec.MsgspecError as error:
            raise UnavailableError(
                f"What answers at {self.url} is not Pipehouse.", hint="Check PIPEHOUSE_URL."
            ) from error

    def read(self, method: str, path: str, *, params: Params = (), body: object = None) -> bytes:
        """The whole answer; errors as in ``call``."""
        parts: list[bytes] = []
        self.stream(parts.append, method, path, params=params, body=body)
        return b"".join(parts)

    def stream(
        self,
        write: Callable[[bytes], object],
        method: str,
        path: str,
        *,
        params: Params = (),
        body: object = None,
    ) -> None:
        """Hand on the answer piece by piece as it arrives; errors as in ``call``."""
        with self._answer(method, path, params, body) as answer:
            if answer.status_code >= 400:
                answer.read()
                raise _refusal(answer)
            for chunk in answer.iter_bytes(_CHUNK_BYTES):
                write(chunk)

    @contextmanager
    def _answer(
        self, method: str, path: str, params: Params, body: object
    ) -> Iterator[httpx.Response]:
        content = None if body is None else msgspec.json.encode(body)
        headers = {} if body is None else {"Content-Type": "application/json"}
        try:
            with self._client.stream(
                method, path, params=list(params) or None, content=content, headers=headers
            ) as answer:
                yield answer
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise UnavailableError(
                f"No server answers at {self.url}.",
                hint="Start one with 'pipehouse dev FOLDER', or set PIPEHOUSE_URL.",
            ) from error
        except httpx.TransportError as error:
            reason = str(error) or type(error).__name__
            raise UnavailableError(
                f"The server at {self.url} broke off its answer: {reason}."
            ) from error


def connect(settings: Settings) -> ServerClient:
    """The server that the settings name.

    Raises:
        ConfigError: There is no token to send.
    """
    timeout_s = max(_MIN_READ_TIMEOUT_S, settings.query_timeout_s + 5)
    return ServerClient(settings.url, find_token(settings), timeout_s=timeout_s)


def find_token(settings: Settings) -> str:
    """The token to send: of the settings, else that of the data folder for a server next to it.

    Raises:
        ConfigError: There is none. The token of the folder is sent to this machine only.
    """
    token = settings.token or settings.admin_token
    if token:
        return token
    path = settings.data / "admin_token"
    if _host(settings.url) in _LOOPBACK and path.exists():
        return _read(path)
    raise ConfigError(
        "There is no token to send.",
        hint="Set PIPEHOUSE_TOKEN, or PIPEHOUSE_DATA to the data folder of a server here.",
    )


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"The token in {path} cannot be read: {error}.") from error


def _host(url: str) -> str:
    try:
        parts = urlsplit(url)
        # Reading it checks that it is a number that can be a port.
        _ = parts.port
    except ValueError as error:
        raise ConfigError(f"PIPEHOUSE_URL '{url}' is no URL: {error}.") from error
    if not parts.hostname or any(char.isspace() for char in url):
        raise ConfigError(f"PIPEHOUSE_URL '{url}' names no host.")
    return parts.hostname


def _refusal(answer: httpx.Response) -> AppError:
    """What the server said is wrong, as an error of ours."""
    default = BadRequestError if answer.status_code < 500 else AppError
    kind = _ERRORS.get(answer.status_code, default)
    try:
        said = msgspec.json.decode(answer.content, type=dict[str, Any]).get("error")
    except msgspec.MsgspecError:
        said = None
    if not isinstance(said, str):
        said = f"The server answered {answer.status_code}: {_first_line(answer.text)}"
    return kind(said)


def _first_line(text: str) -> str:
    return next((line.strip()[:200] for line in text.splitlines() if line.strip()), "nothing")
