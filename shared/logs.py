"""Log lines: one form for ours and for the libraries', with tokens masked.

Call ``configure_logging`` once per process, before anything is logged.
"""

from __future__ import annotations

import contextlib
import logging
import re
import sys
from collections.abc import Mapping
from typing import Literal, TextIO, cast

import msgspec
import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

_MASK = "***"
# How long a line of the Kafka client stands for its repetitions, and how many are remembered.
_REPEATED_AFTER_S = 30.0
_MOST_SAID = 1_000
_SECRET_KEYS = frozenset(
    {"token", "admin_token", "authorization", "password", "secret", "clickhouse_url"}
)
_SECRETS_IN_TEXT = re.compile(
    r"(?P<before>"
    r"[?&]token=|\btoken=|"  # query strings
    r"[Bb]earer\s+|"  # Authorization headers
    r"://[^:/@\s]*:(?=[^@\s/]+@)|"  # passwords in URLs
    r"\bp\.(?=[A-Za-z0-9_.-]{16})"  # tokens of ours, wherever they stand
    r")[^\s&\"'@,;)}\]]+"
)


def configure_logging(
    *,
    form: Literal["json", "console"] | None = None,
    level: Literal["debug", "info", "warning", "error"] = "info",
    stream: TextIO | None = None,
) -> None:
    """Set up logging for the whole process; calling it again replaces the set-up.

    Args:
        form: ``json`` is one object a line; None means console on a terminal, else JSON.
        level: The least severe lines that are written.
        stream: Where to, by default standard error.
    """
    stream = stream or sys.stderr
    form = form or ("console" if stream.isatty() else "json")
    number = getattr(logging, level.upper())
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        mask_secrets,
    ]
    final: Processor = (
        structlog.processors.JSONRenderer(serializer=_json)
        if form == "json"
        else structlog.dev.ConsoleRenderer(colors=stream.isatty())
    )
    structlog.configure(
        processors=[*shared, final],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(file=cast(TextIO, _Lines(stream))),
    )
    _route_libraries(shared, final, stream, number)


def mask_secrets(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Replace token values, passwords and Authorization headers in a log line."""
    return {key: _masked(key, value) for key, value in event.items()}


def mask_text(text: str) -> str:
    """The text with tokens and passwords replaced by ``***``."""
    return _SECRETS_IN_TEXT.sub(rf"\g<before>{_MASK}", text)


class _Lines:
    """A stream that never fails who writes to it.

    A log that nobody reads any more, or on a full disk, must not stop the work or the shutdown.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()


def _masked(key: object, value: object) -> object:
    if value is None or isinstance(value, int | float):
        return value
    if isinstance(key, str) and key.lower() in _SECRET_KEYS:
        return _MASK
    if isinstance(value, str):
        return mask_text(value)
    if isinstance(value, bytes):
        return mask_text(value.decode("utf-8", "replace"))
    if isinstance(value, Mapping):
        return {inner: _masked(inner, item) for inner, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_masked(None, item) for item in value]
    return mask_text(str(value))


def _json(event: object, **_options: object) -> str:
    return msgspec.json.encode(event, enc_hook=str).decode()


def _route_libraries(shared: list[Processor], final: Processor, stream: TextIO, level: int) -> None:
    """Send what libraries log through the standard library the same way."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, final],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    # Libraries talk about their own workings; below a warning nobody asked for it.
    root.setLevel(max(level, logging.WARNING))
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access", "litestar"):
        library = logging.getLogger(name)
        library.handlers = []
        library.propagate = True
        library.setLevel(logging.NOTSET)
    # On the handler: a filter on a logger is not asked about those below it.
    handler.addFilter(_News())
    # A line for each request would hold query strings, and cost more than the request.
    logging.getLogger("uvicorn.access").disabled = True


class _News(logging.Filter):
    """Keeps back what the Kafka client says again and again while no broker answers.

    Ten times a second for each consumer, and whoever asked it for something reports that too.
    """

    def __init__(self) -> None:
        super().__init__()
        self._said_s: dict[tuple[str, str], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether it is to be written."""
        if not record.name.startswith("aiokafka"):
            return True
        if str(record.msg).startswith("Unable connect to"):
            return False
        key = (record.name, record.getMessage())
        last_s = self._said_s.get(key)
        if last_s is not None and record.created - last_s < _REPEATED_AFTER_S:
            return False
        if len(self._said_s) >= _MOST_SAID:
            self._said_s.clear()
        self._said_s[key] = record.created
        return True
