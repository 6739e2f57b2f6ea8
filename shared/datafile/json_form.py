"""A data source written as one JSON object, turned into the instructions of the text form.

``SCHEMA`` is a list of ``{"name", "type", "json_path", "default", "codec", "nullable"}``; every
other key is a command, and its value is what would stand behind the command.
"""

from __future__ import annotations

import json
import re
from typing import Any

from shared.clickhouse.sql import quote_identifier
from shared.datafile.diagnostics import Diagnostics
from shared.datafile.lexer import FileKind, Instruction
from shared.datafile.quoting import split_commas
from shared.datafile.source import Piece, SourceFile, mapped_text
from shared.model.resources import Span
from shared.model.types import TypeSyntaxError, parse_type
from shared.model.workspace import did_you_mean

_COLUMN_KEYS = ("name", "type", "json_path", "jsonpath", "default", "codec", "nullable")
_REPEATED = frozenset({"TOKEN"})
_LISTED = frozenset({"TAGS", "SHARED_WITH", "INDEXES"})


def is_json_form(source: SourceFile) -> bool:
    """Whether the first character of a file is a brace."""
    return next((line for line in source.lines if line.strip()), "").lstrip().startswith("{")


def read_json_form(
    source: SourceFile, kind: FileKind, diagnostics: Diagnostics
) -> tuple[Instruction, ...]:
    """The same instructions that the text form would give; what cannot be used is reported."""
    text = "\n".join(source.lines)
    try:
        loaded = json.loads(text)
        # Half a surrogate pair can be written in JSON and in no other text.
        json.dumps(loaded, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        span = source.span(error.lineno, error.colno)
        diagnostics.error("bad_json_form", f"This is not JSON: {error.msg}.", span)
        return ()
    except (ValueError, RecursionError):
        message = "This JSON has numbers, nesting or characters that cannot be read."
        diagnostics.error("bad_json_form", message, source.span())
        return ()
    if not isinstance(loaded, dict):
        diagnostics.error("bad_json_form", "A JSON object is expected.", source.span())
        return ()
    return tuple(_Reader(source, kind, diagnostics).read(loaded))


class _Reader:
    def __init__(self, source: SourceFile, kind: FileKind, diagnostics: Diagnostics) -> None:
        self._source = source
        self._kind = kind
        self._diagnostics = diagnostics

    def read(self, loaded: dict[str, Any]) -> list[Instruction]:
        found: list[Instruction] = []
        for key, value in loaded.items():
            command, span = key.upper(), self._find(key)
            if command not in self._kind.commands:
                self._diagnostics.error(
                    "unknown_command",
                    f"'{key[:40]}' is no command of .{self._kind.name} files.",
                    span,
                    did_you_mean(command, self._kind.commands),
                )
            elif command == "SCHEMA" and isinstance(value, list):
                found.append(self._schema(value, span))
            elif command in _REPEATED and isinstance(value, list):
                found += [self._plain(command, item, span) for item in value]
            elif command in _LISTED and isinstance(value, list):
                separator = "\n" if command == "INDEXES" else ", "
                joined = separator.join(str(item) for item in value)
                found.append(self._plain(command, joined, span))
            else:
                found.append(self._plain(command, value, span))
        return found

    def _plain(self, command: str, value: object, span: Span) -> Instruction:
        if isinstance(value, dict | list) or value is None:
            message = f"The value of {command} must be a string."
            self._diagnostics.error("bad_json_form", message, span)
            value = ""
        text = str(value)
        pieces = [Piece(span.line, span.column, line) for line in text.split("\n")]
        body = mapped_text(self._source.path, pieces)
        is_block = self._kind.commands[command] == "block"
        return Instruction(command=command, value=text, span=span, body=body, is_block=is_block)

    def _schema(self, items: list[Any], span: Span) -> Instruction:
        pieces: list[Piece] = []
        for item in items:
            name = item.get("name") if isinstance(item, dict) else None
            if not isinstance(name, str) or not re.fullmatch(r"[^\s`\\]+", name):
                message = 'Each item of SCHEMA is {"name": …, "type": …, "json_path": …}.'
                self._diagnostics.error("bad_json_form", message, span)
                continue
            at = self._find(name, value_of="name")
            if (column := self._column(name, item, at)) is not None:
                pieces.append(Piece(at.line, at.column, column + ","))
        body = mapped_text(self._source.path, pieces)
        return Instruction(command="SCHEMA", value=body.text, span=span, body=body, is_block=True)

    def _column(self, name: str, item: dict[str, Any], at: Span) -> str | None:
        for key in item:
            if key not in _COLUMN_KEYS:
                self._diagnostics.error(
                    "bad_json_form",
                    f"'{key[:40]}' is no part of a column.",
                    at,
                    did_you_mean(key, _COLUMN_KEYS),
                )
                return None
        type_ = str(item.get("type", ""))
        try:
            parsed = str(parse_type(type_))
        except TypeSyntaxError as error:
            self._diagnostics.error("bad_type", error.message, at, error.hint)
            return None
        if item.get("nullable") is True and not parse_type(parsed).is_nullable:
            parsed = f"Nullable({parsed})"
        text = f"{quote_identifier(name)} {parsed}"
        path = item.get("json_path", item.get("jsonpath"))
        if path is not None:
            text += f" `json:{str(path).replace('`', ' ')}`"
        if "default" in item:
            default = str(item["default"])
            if len(split_commas(default)) != 1 or "--" in default:
                message = f"'{default[:40]}' is not one expression."
                self._diagnostics.error("bad_json_form", message, at)
                return None
            text += f" DEFAULT {default}"
        if "codec" in item:
            codec = str(item["codec"])
            text += f" {codec}" if codec.upper().startswith("CODEC") else f" CODEC({codec})"
        return text

    def _find(self, text: str, value_of: str | None = None) -> Span:
        """Where a key stands, or the value of a key; the file's first line if it is escaped."""
        before = rf'"{value_of}"\s*:\s*' if value_of else ""
        after = "" if value_of else r"\s*:"
        pattern = re.compile(f'{before}(?P<at>"{re.escape(text)}"){after}')
        for number, line in enumerate(self._source.lines, 1):
            if match := pattern.search(line):
                return self._source.span(number, match.start("at") + 1)
        return self._source.span()
