"""An error as a ClickHouse server reports it, taken from the engine's text; pure."""

from __future__ import annotations

import re

_HEAD = re.compile(r"\s*Code: (\d+)\.\s*DB::(?:\w*)Exception: ", re.DOTALL)
_TAIL = re.compile(
    r"\s*(?:\(([A-Z][A-Z0-9_]{2,})\)|\(version [^()]*(?:\([^()]*\))?[^()]*\))\.?\s*\Z"
)
_BARE_CODE = re.compile(r"Code: (\d+)")
_MARKER = re.compile(r"\s*-- standin:\d+")

# What a server answers over HTTP; everything else is 500.
_HTTP_STATUS: dict[int, int] = {
    **dict.fromkeys((6, 25, 26, 27, 32, 38, 41, 53, 62, 72, 117, 167, 168, 321, 376), 400),
    **dict.fromkeys((46, 47, 50, 56, 60, 63, 73, 78, 81, 115, 152, 336), 404),
    **dict.fromkeys((192, 193, 516), 403),
    **dict.fromkeys((76, 209), 503),
    48: 501,
    67: 413,
    159: 408,
    194: 401,
}


class ServerError(Exception):
    """What a server sends instead of an answer.

    Args:
        code: The error number.
        name: The error's name, for instance ``UNKNOWN_TABLE``.
        text: The message, without code, name and version.
    """

    def __init__(self, code: int, name: str, text: str) -> None:
        super().__init__(f"{code} {name}: {text}")
        self.code = code
        self.name = name
        self.text = text

    @property
    def http_status(self) -> int:
        """The status of an answer that has not begun yet."""
        return _HTTP_STATUS.get(self.code, 500)

    def over_http(self, version: str) -> str:
        """The text of an HTTP answer."""
        return (
            f"Code: {self.code}. DB::Exception: {self.text}. ({self.name})"
            f" (version {version} (official build))\n"
        )


def server_error(text: str) -> ServerError:
    """The error in a text of the embedded engine, which may wrap it in itself."""
    code, body = 1002, _MARKER.sub("", text)
    while (head := _HEAD.match(body)) is not None:
        code, body = int(head.group(1)), body[head.end() :]
    if code == 1002 and (bare := _BARE_CODE.search(body)) is not None:
        code = int(bare.group(1))
    name = "UNKNOWN_EXCEPTION"
    while (tail := _TAIL.search(body)) is not None:
        name = tail.group(1) or name
        body = body[: tail.start()]
    return ServerError(code, name, body.removesuffix("."))
