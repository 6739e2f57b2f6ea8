"""Every setting of the product: one Struct is the table of name, type, default and help.

Read once at the door (``load_settings``) and handed on as a value. A flag wins over the
environment, the environment over the default. The environment variable of a setting is
``PIPEHOUSE_`` and its name in capitals; its flag is the name with dashes.
"""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import NODEFAULT, Meta, Struct

from shared.errors import ConfigError

_PREFIX = "PIPEHOUSE_"
_SECRET = {"secret": True}
_URL_PASSWORD = re.compile(r"(://[^:/@\s]*:)[^@\s]+@")

_MIB = 1 << 20


class Settings(Struct, frozen=True, kw_only=True):
    """What the process was told; see ``SETTINGS`` for the table.

    ``repr`` shows what differs from the defaults, with secrets masked.
    """

    admin_token: Annotated[
        str | None,
        Meta(
            description="Token that may do everything; by default one is kept in the data folder.",
            extra=_SECRET,
        ),
    ] = None
    secret: Annotated[
        str | None,
        Meta(
            description="What tokens are encrypted with in ClickHouse, the same for all processes; "
            "by default one is kept in the data folder.",
            extra={"secret": True, "expected": "at least 16 characters without white space"},
        ),
    ] = None
    jwt_key: Annotated[
        str | None,
        Meta(
            description="Key that JWTs are signed with; by default the admin token.",
            extra={"secret": True, "expected": "at least 32 bytes"},
        ),
    ] = None
    token_rate_limit_rps: Annotated[
        float,
        Meta(
            ge=0,
            description="Requests a second of one token, in each process; 0 is no limit. A token's "
            "own limit goes first, and administrators have none.",
        ),
    ] = 0.0
    url: Annotated[
        str,
        Meta(
            pattern=r"^https?://",
            description="Where commands find the running server.",
            extra={"expected": "a URL that starts with http:// or https://"},
        ),
    ] = "http://127.0.0.1:7181"
    token: Annotated[
        str | None,
        Meta(
            description="Token that commands send to the server; by default the admin token.",
            extra=_SECRET,
        ),
    ] = None
    data: Annotated[Path, Meta(description="Folder of the embedded engine, log and token.")] = Path(
        ".pipehouse"
    )
    host: Annotated[str, Meta(min_length=1, description="Address the HTTP server listens on.")] = (
        "127.0.0.1"
    )
    port: Annotated[
        int, Meta(ge=0, le=65535, description="Port of the HTTP server; 0 picks a free one.")
    ] = 7181
    project: Annotated[Path | None, Meta(description="Folder of the project's datafiles.")] = None
    clickhouse_url: Annotated[
        Annotated[str, Meta(pattern=r"^clickhouse://")] | None,
        Meta(
            description="ClickHouse server, clickhouse://user:password@host:9000/database"
            "?http_port=8123&secure=0; without it the embedded engine is used.",
            extra={"secret": True, "expected": "a URL that starts with clickhouse://"},
        ),
    ] = None
    kafka_bootstrap_servers: Annotated[
        str | None,
        Meta(description="Kafka brokers, host:port,…; without them the embedded log is used."),
    ] = None
    topic_partitions: Annotated[
        int, Meta(ge=1, le=10_000, description="Partitions of a Kafka topic that is made here.")
    ] = 4
    topic_prefix: Annotated[
        str,
        Meta(
            pattern=r"^[A-Za-z0-9._-]*$",
            max_length=100,
            description="Put before a data source's name to make its topic.",
            extra={"expected": "letters, digits, '.', '_' and '-', at most 100"},
        ),
    ] = "events."
    group_prefix: Annotated[
        str,
        Meta(
            pattern=r"^[A-Za-z0-9._-]*$",
            max_length=100,
            description="Put before a data source's name to make its consumer group.",
            extra={"expected": "letters, digits, '.', '_' and '-', at most 100"},
        ),
    ] = "pipehouse."
    log_format: Annotated[
        Literal["json", "console"] | None,
        Meta(description="Form of log lines; by default console on a terminal, else json."),
    ] = None
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"],
        Meta(description="Least severe log lines that are written."),
    ] = "info"
    metrics_need_token: Annotated[
        bool, Meta(description="Whether /metrics asks for the admin token.")
    ] = False
    max_body_bytes: Annotated[
        int, Meta(ge=1, description="Largest request body as it is sent, compressed or not.")
    ] = 10 * _MIB
    max_decompressed_bytes: Annotated[
        int, Meta(ge=1, description="Largest request body after decompression.")
    ] = 100 * _MIB
    max_inflight_bytes: Annotated[
        int,
        Meta(ge=1, description="Request bodies held in memory at a time; more is answered 429."),
    ] = 512 * _MIB
    max_rows_per_request: Annotated[int, Meta(ge=1, description="Most events in one request.")] = (
        1_000_000
    )
    max_line_bytes: Annotated[int, Meta(ge=1, description="Largest single event.")] = 10 * _MIB
    wait_timeout_s: Annotated[
        float,
        Meta(gt=0, le=86_400, description="How long wait=true waits for events to be stored."),
    ] = 10.0
    batch_max_rows: Annotated[
        int, Meta(ge=1, le=1_000_000, description="Rows that close a batch.")
    ] = 100_000
    batch_max_bytes: Annotated[
        int, Meta(ge=1, le=200_000_000, description="Bytes that close a batch.")
    ] = 64 * _MIB
    batch_max_age_s: Annotated[
        float, Meta(gt=0, le=60, description="Age of its oldest row that closes a batch.")
    ] = 0.4
    max_quarantine_ratio: Annotated[
        float,
        Meta(
            ge=0,
            le=1,
            description="A data source's pipeline stops when a larger share of its latest 10,000 "
            "rows is bad; 1 never stops it.",
        ),
    ] = 0.5
    query_timeout_s: Annotated[
        float, Meta(gt=0, le=86_400, description="Longest run of one query.")
    ] = 10.0
    query_max_memory_bytes: Annotated[int, Meta(ge=1, description="Most memory of one query.")] = (
        2_000_000_000
    )
    query_max_result_bytes: Annotated[
        int, Meta(ge=1, description="Largest answer of one query.")
    ] = 100_000_000
    query_max_threads: Annotated[
        int, Meta(ge=0, description="Most threads of one query; 0 leaves it to the engine.")
    ] = 0
    strict_enums: Annotated[
        bool,
        Meta(
            description="Whether a value is refused that is not in the enum= of its parameter,"
            " which only describes otherwise."
        ),
    ] = False
    cache_max_bytes: Annotated[
        int,
        Meta(ge=0, description="Memory for answers of endpoints that ask for caching; 0 is none."),
    ] = 64 * _MIB
    cache_all: Annotated[
        bool,
        Meta(description="Whether answers are cached of endpoints that do not ask for it, too."),
    ] = False
    cors_origins: Annotated[
        str,
        Meta(
            description="Web pages that may call from a browser, https://a.example,…; * are all"
            " of them, none is none."
        ),
    ] = "*"
    shutdown_timeout_s: Annotated[
        float,
        Meta(
            gt=0, le=86_400, description="How long a shutdown may take to finish what is under way."
        ),
    ] = 15.0
    fsync: Annotated[
        bool,
        Meta(description="Whether log and tables survive the loss of power too; it costs time."),
    ] = False
    log_retention_s: Annotated[
        int, Meta(ge=60, description="How long the embedded log keeps events that are stored.")
    ] = 7 * 24 * 3600

    def __repr__(self) -> str:
        shown = (
            f"{setting.name}={setting.shown(getattr(self, setting.name))}"
            for setting in SETTINGS
            if getattr(self, setting.name) != setting.default
        )
        return f"Settings({', '.join(shown)})"


class Setting(Struct, frozen=True, kw_only=True):
    """One row of the table; ``expected`` says in words which values are accepted."""

    name: str
    expected: str
    default: object
    help: str
    secret: bool

    @property
    def variable(self) -> str:
        """The environment variable."""
        return _PREFIX + self.name.upper()

    @property
    def flag(self) -> str:
        """The command-line flag."""
        return "--" + self.name.replace("_", "-")

    def shown(self, value: object) -> str:
        """The value as it may be printed: secrets are masked, a URL keeps all but its password."""
        if isinstance(value, Path):
            return repr(str(value))
        if value is None or not self.secret:
            return repr(value)
        text = str(value)
        return repr(_URL_PASSWORD.sub(r"\1***@", text)) if "://" in text else "'***'"


def load_settings(
    environ: Mapping[str, str],
    flags: Mapping[str, object] | None = None,
    defaults: Mapping[str, object] | None = None,
) -> Settings:
    """Read the settings; a flag wins over the environment, the environment over the default.

    Args:
        environ: The process environment. An empty variable counts as not set.
        flags: Flags by setting name; None as a value means the flag was not given.
        defaults: Defaults of one command that differ from those of the table.

    Raises:
        ConfigError: Names the variable or flag, its value and what is expected.
    """
    given: dict[str, object] = dict(defaults or {})
    for setting in SETTINGS:
        flag = (flags or {}).get(setting.name)
        if flag is not None:
            given[setting.name] = _read(setting, setting.flag, flag)
        elif text := environ.get(setting.variable):
            given[setting.name] = _read(setting, setting.variable, text)
    return Settings(**typing.cast(dict[str, Any], given))


def _read(setting: Setting, origin: str, value: object) -> object:
    kind = _TYPES[setting.name]
    plain = value.strip() if isinstance(value, str) else value
    if Path in _members(kind):
        return Path(str(plain)).expanduser()
    if isinstance(plain, str) and (_choices(kind) or bool in _members(kind)):
        plain = plain.lower()
    try:
        return msgspec.convert(plain, kind, strict=False)
    except msgspec.ValidationError as error:
        raise ConfigError(
            f"{origin} is {setting.shown(value)}, expected {setting.expected}."
        ) from error


def _members(kind: object) -> tuple[object, ...]:
    """The types a setting may have, without None."""
    if typing.get_origin(kind) is Annotated:
        kind = typing.get_args(kind)[0]
    if isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union:
        return tuple(arg for arg in typing.get_args(kind) if arg is not types.NoneType)
    return (kind,)


def _choices(kind: object) -> tuple[str, ...]:
    return tuple(
        choice
        for member in _members(kind)
        if typing.get_origin(member) is Literal
        for choice in typing.get_args(member)
    )


def _expected(kind: object, meta: Meta) -> str:
    """What values are accepted, in words."""
    if meta.extra and "expected" in meta.extra:
        return str(meta.extra["expected"])
    if choices := _choices(kind):
        return "one of " + ", ".join(choices)
    member = _members(kind)[0]
    words = {int: "an integer", float: "a number", bool: "true or false", Path: "a folder"}
    text = next((word for known, word in words.items() if member is known), "text")
    bounds = [
        f"{word} {bound}"
        for word, bound in (("at least", meta.ge), ("more than", meta.gt), ("at most", meta.le))
        if bound is not None
    ]
    return " ".join([text, " and ".join(bounds)]).strip()


def _table() -> Iterator[Setting]:
    for field in msgspec.structs.fields(Settings):
        kind = _TYPES[field.name]
        meta = next(item for item in kind.__metadata__ if isinstance(item, Meta))
        yield Setting(
            name=field.name,
            expected=_expected(kind, meta),
            default=None if field.default is NODEFAULT else field.default,
            help=meta.description or "",
            secret=bool((meta.extra or {}).get("secret")),
        )


_TYPES: dict[str, Any] = typing.get_type_hints(Settings, include_extras=True)

SETTINGS: tuple[Setting, ...] = tuple(_table())
