"""The URL of a ClickHouse server: text in, a value with every default filled in out; pure.

    clickhouse://user:password@host1:9000,host2:9000/database?http_port=8123&secure=0

Names and passwords with reserved characters are percent-encoded. Several hosts are replicas of one
data set: the next one is asked when the one before does not answer.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal
from urllib.parse import parse_qsl, quote, unquote

from msgspec import Struct

from shared.errors import ConfigError

Compression = Literal["none", "lz4", "zstd"]

_SCHEME = "clickhouse://"
_FORM = "clickhouse://user:password@host:9000/database?http_port=8123&secure=0"
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::([0-9]{1,5}))?\Z")
_NATIVE_PORTS = (9000, 9440)
_HTTP_PORTS = (8123, 8443)
_FLAGS = {"0": False, "false": False, "no": False, "1": True, "true": True, "yes": True}


class Host(Struct, frozen=True, order=True):
    """One server: its name or address, and the ports of its two interfaces."""

    name: str
    native_port: int
    http_port: int

    def __str__(self) -> str:
        return self.at(self.native_port)

    def at(self, port: int) -> str:
        """The host and one of its ports, as they stand in a URL."""
        shown = f"[{self.name}]" if ":" in self.name else self.name
        return f"{shown}:{port}"


class ServerUrl(Struct, frozen=True, kw_only=True):
    """Where a server is and how it is talked to; ``str`` leaves the password out.

    ``timeout_s`` is the longest silence on a connection, and how long an insert may take; it has to
    stay below the longest pause that a consumer may make between two polls. ``insert_connections``
    and ``http_connections`` bound what this process opens.
    """

    hosts: tuple[Host, ...]
    user: str = "default"
    password: str = ""
    database: str = "default"
    secure: bool = False
    verify: bool = True
    ca: Path | None = None
    compression: Compression = "none"
    connect_timeout_s: float = 5.0
    timeout_s: float = 120.0
    insert_connections: int = 4
    http_connections: int = 64

    def __str__(self) -> str:
        hosts = ",".join(map(str, self.hosts))
        return f"{_SCHEME}{quote(self.user, safe='')}@{hosts}/{quote(self.database, safe='')}"

    __repr__ = __str__


def parse_url(text: str) -> ServerUrl:
    """Read the URL of a server.

    Raises:
        ConfigError: Says which part of it is wrong and what is expected; never the password.
    """
    if not text.startswith(_SCHEME):
        raise _bad(f"it does not start with {_SCHEME}")
    rest, _, query = text.removeprefix(_SCHEME).partition("?")
    rest, _, database = rest.partition("/")
    if "@" in database or ("@" in query and "@" not in rest):
        # The end of a password: what stands here must not be shown as a host or an option.
        raise _bad("'/', '?' and '@' in a user name or password have to be percent-encoded")
    login, _, hosts = rest.rpartition("@")
    user, _, password = login.partition(":")
    options = _options(query)
    secure = _flag(options, "secure", False)
    chosen = {
        "hosts": _hosts(hosts, secure, options.get("http_port", "")),
        "user": unquote(user) or "default",
        "password": unquote(password),
        "database": unquote(database.rstrip("/")) or "default",
        "secure": secure,
        "verify": _flag(options, "verify", True),
        "ca": _file(options),
        "compression": _choice(options),
    }
    for name, low, high in _NUMBERS:
        if name in options:
            chosen[name] = _number(name, options[name], low, high)
    return ServerUrl(**chosen)  # type: ignore[arg-type]  # each value was read for its field


_NUMBERS: tuple[tuple[str, float, float], ...] = (
    ("connect_timeout_s", 0.01, 600),
    ("timeout_s", 0.1, 3600),
    ("insert_connections", 1, 64),
    ("http_connections", 1, 1024),
)
_OPTIONS = ("http_port", "secure", "verify", "ca", "compression", *(name for name, *_ in _NUMBERS))


def _bad(reason: str) -> ConfigError:
    return ConfigError(f"The URL of ClickHouse cannot be used: {reason}.", hint=f"Expected {_FORM}")


def _options(query: str) -> Mapping[str, str]:
    options = dict(parse_qsl(query, keep_blank_values=True))
    for name in options:
        if name not in _OPTIONS:
            raise _bad(f"it has no option '{name}', only {', '.join(_OPTIONS)}")
    return options


def _hosts(text: str, secure: bool, http_ports: str) -> tuple[Host, ...]:
    if not text:
        raise _bad("it names no host")
    named = [_HOST.match(part.strip()) for part in text.split(",")]
    for part, match in zip(text.split(","), named, strict=True):
        if match is None:
            raise _bad(f"'{part}' is not a host or host:port")
    ports = [_port(part) for part in http_ports.split(",")] if http_ports else []
    if len(ports) <= 1:
        ports = [ports[0] if ports else _HTTP_PORTS[secure]] * len(named)
    if len(ports) != len(named):
        raise _bad(f"it has {len(named)} hosts and {len(ports)} HTTP ports")
    return tuple(
        Host(m.group(1).strip("[]"), _port(m.group(2) or str(_NATIVE_PORTS[secure])), http_port)
        for m, http_port in zip(named, ports, strict=True)
        if m is not None
    )


def _port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 0 < int(text) < 65536:
        raise _bad(f"'{text}' is not a port")
    return int(text)


def _flag(options: Mapping[str, str], name: str, default: bool) -> bool:
    text = options.get(name, "")
    if not text:
        return default
    if text.lower() not in _FLAGS:
        raise _bad(f"{name} is '{text}', not 0 or 1")
    return _FLAGS[text.lower()]


def _file(options: Mapping[str, str]) -> Path | None:
    text = options.get("ca", "")
    if not text:
        return None
    path = Path(text).expanduser()
    if not path.is_file():
        raise _bad(f"the file '{path}' with certificates (ca) does not exist")
    return path


def _choice(options: Mapping[str, str]) -> Compression:
    match options.get("compression", "none").lower():
        case "" | "none":
            return "none"
        case "lz4":
            return "lz4"
        case "zstd":
            return "zstd"
        case text:
            raise _bad(f"compression is '{text}', not none, lz4 or zstd")


def _number(name: str, text: str, low: float, high: float) -> float | int:
    read: Callable[[str], float | int] = float if name.endswith("_s") else int
    try:
        value = read(text)
    except ValueError:
        raise _bad(f"{name} is '{text}', not a number") from None
    if not low <= value <= high:
        raise _bad(f"{name} is {text}, not from {low:g} to {high:g}")
    return value
