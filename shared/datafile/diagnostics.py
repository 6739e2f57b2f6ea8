"""What is wrong with a project: collected for all of its files, shown with excerpt and caret."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from msgspec import Struct

from shared.datafile.source import SourceFile
from shared.errors import DatafileError
from shared.model.resources import Span

Severity = Literal["error", "warning"]

DIAGNOSTIC_CODES: dict[str, str] = {
    "bad_backfill": "BACKFILL knows only skip.",
    "bad_codec": "A CODEC is not followed by its codecs in brackets.",
    "bad_column": "A column of the schema cannot be read.",
    "bad_connection_type": "The TYPE of a connection is missing or unknown.",
    "bad_copy_mode": "COPY_MODE is neither append nor replace.",
    "bad_deployment_method": "DEPLOYMENT_METHOD knows only alter.",
    "bad_forward_query": "FORWARD_QUERY is not a SELECT.",
    "bad_import": "IMPORT_* lines are incomplete or their schedule or format is unknown.",
    "bad_index": "A line of INDEXES cannot be read.",
    "bad_json_form": "A data source written as a JSON object has a part of the wrong form.",
    "bad_json_path": "The JSON path of a column cannot be read or does not fit its type.",
    "bad_name": "The name of a resource, node or column is not an identifier.",
    "bad_node_type": "The TYPE of a node is unknown.",
    "bad_option": "The value of an option is not one of the known ones.",
    "bad_schedule": "A schedule is neither a cron expression nor a known word.",
    "bad_secret": "A {{ }} in a .datasource or .connection file is not tb_secret(…).",
    "bad_tag": "TAGS has an empty name.",
    "bad_token": "TOKEN needs a name and a permission this kind of file can give.",
    "bad_type": "The type of a column cannot be read.",
    "before_node": "A command that belongs to a node stands before the first NODE.",
    "block_not_allowed": "A command that takes one line is followed by '>'.",
    "block_required": "A command that takes a block is written on one line.",
    "command_not_allowed": "A command does not exist in this kind of file, or no longer.",
    "command_ignored": "A command is accepted and has no effect.",
    "duplicate_column": "Two columns of a schema have the same name.",
    "duplicate_name": "Two resources of the project have the same name.",
    "duplicate_node": "Two nodes of a pipe have the same name.",
    "empty_node": "A node has no SQL.",
    "engine_column": "A column that the engine needs is missing or has the wrong type.",
    "engine_option_ignored": "An ENGINE_* line has no meaning for this engine.",
    "flattened_line": "A command was found at the end of a description and is read as a command.",
    "key_column": "A column of a key may not be part of it.",
    "missing_connection_setting": "A connection lacks a setting that its type needs.",
    "missing_kafka_setting": "Some of the required KAFKA_* lines are given, but not all.",
    "missing_option": "A node lacks an option that its type needs.",
    "missing_schema": "A data source has no SCHEMA, or an empty one.",
    "missing_secret": "A secret is not set and has no default.",
    "missing_value": "A command has no value.",
    "no_datafiles": "A project folder has no datafiles.",
    "no_nodes": "A pipe has no nodes.",
    "not_utf8": "A file is not UTF-8 text.",
    "option_ignored": "An option belongs to another type of node.",
    "reserved_name": "The name of a resource is taken by the product.",
    "several_typed_nodes": "A pipe has more than one node with a TYPE.",
    "template_in_materialized": "A materialized node has template tags.",
    "template_without_percent": "SQL has template tags but does not begin with %.",
    "text_after_block": "Text after '>' on the line of a command is ignored.",
    "too_many_columns": "A schema has more columns than are allowed.",
    "unknown_column": "A key or engine option names a column that the schema lacks.",
    "unknown_command": "A line begins with a word that is no command of this kind of file.",
    "unknown_connection": "A resource names a connection that the project lacks.",
    "unknown_datasource": "A node writes to a data source that the project lacks.",
    "unknown_engine": "ENGINE names an engine that is not supported.",
    "unreadable_file": "A file cannot be read.",
    "unreadable_folder": "A folder cannot be read; what was known of it stays as it was.",
    "version_ignored": "VERSION lines have no effect.",
}
"""Every code a diagnostic can have, and what it means."""

_CONTEXT_LINES = 2
_MAX_EXCERPT_CHARACTERS = 200


class Diagnostic(Struct, frozen=True, kw_only=True):
    """One mistake or doubt.

    ``excerpt`` holds the line of ``span`` as its last item, with up to two lines before it; it is
    empty where the file could not be read.
    """

    code: str
    severity: Severity
    message: str
    span: Span
    hint: str | None = None
    excerpt: tuple[str, ...] = ()

    def render(self) -> str:
        """Several lines: where and what, the excerpt with a caret, the hint."""
        span = self.span
        lines = [f"{span.path}:{span.line}:{span.column}: {self.severity}: {self.message} "]
        lines[0] += f"[{self.code}]"
        width = len(str(span.line))
        first = span.line - len(self.excerpt) + 1
        for number, text in enumerate(self.excerpt, first):
            lines.append(f"  {number:>{width}} | {text[:_MAX_EXCERPT_CHARACTERS]}".rstrip())
        if self.excerpt and span.column <= _MAX_EXCERPT_CHARACTERS:
            before = self.excerpt[-1][: span.column - 1].ljust(span.column - 1)
            padding = "".join("\t" if c == "\t" else " " for c in before)
            lines.append(f"  {'':>{width}} | {padding}^")
        if self.hint:
            lines.append(f"  {self.hint}")
        return "\n".join(lines)

    def as_error(self) -> dict[str, object]:
        """The entry for the ``errors`` key of an HTTP answer."""
        return {
            "filename": self.span.path,
            "line": self.span.line,
            "column": self.span.column,
            "code": self.code,
            "error": self.message,
            "hint": self.hint,
        }


class Diagnostics:
    """Collects what is found; the files that it was told about give the excerpts."""

    def __init__(self) -> None:
        self._found: list[Diagnostic] = []
        self._sources: dict[str, SourceFile] = {}

    def add_source(self, source: SourceFile) -> None:
        """Make a file's lines known; later excerpts of its path are taken from it."""
        self._sources[source.path] = source

    def error(self, code: str, message: str, span: Span, hint: str | None = None) -> None:
        """Record a mistake: the resource does not load."""
        self._add("error", code, message, span, hint)

    def warning(self, code: str, message: str, span: Span, hint: str | None = None) -> None:
        """Record a doubt: the resource loads."""
        self._add("warning", code, message, span, hint)

    def error_count(self, path: str) -> int:
        """How many mistakes this file has so far."""
        return sum(d.severity == "error" and d.span.path == path for d in self._found)

    def sorted(self) -> tuple[Diagnostic, ...]:
        """Everything found, each once, by file, line and column."""
        unique = dict.fromkeys(self._found)
        return tuple(sorted(unique, key=lambda d: (d.span.path, d.span.line, d.span.column)))

    def _add(
        self, severity: Severity, code: str, message: str, span: Span, hint: str | None
    ) -> None:
        assert code in DIAGNOSTIC_CODES, code
        excerpt: tuple[str, ...] = ()
        if source := self._sources.get(span.path):
            excerpt = source.lines[max(0, span.line - 1 - _CONTEXT_LINES) : span.line]
        self._found.append(
            Diagnostic(
                code=code,
                severity=severity,
                message=message,
                span=span,
                hint=hint,
                excerpt=excerpt,
            )
        )


def datafile_error(diagnostics: Iterable[Diagnostic]) -> DatafileError | None:
    """One error that carries every mistake; None where there are only warnings."""
    errors = [d for d in diagnostics if d.severity == "error"]
    if not errors:
        return None
    first = errors[0].span
    message = f"{first.path}:{first.line}:{first.column}: {errors[0].message}"
    if len(errors) > 1:
        message += f" And {len(errors) - 1} more."
    return DatafileError(message, hint=errors[0].hint, errors=[d.as_error() for d in errors])
