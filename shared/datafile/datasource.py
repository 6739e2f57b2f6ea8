"""A .datasource file to a ``Datasource``."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping

from shared.datafile.diagnostics import Diagnostics
from shared.datafile.engine import ENGINE_COMMANDS, parse_engine
from shared.datafile.feeds import IMPORT_COMMANDS, KAFKA_COMMANDS, parse_imports, parse_kafka
from shared.datafile.fields import (
    check_resource_name,
    description,
    require_value,
    tags,
    token_grant,
)
from shared.datafile.json_form import is_json_form, read_json_form
from shared.datafile.lexer import FileKind, Instruction, Shape, read_instructions
from shared.datafile.quoting import split_commas
from shared.datafile.schema import parse_indexes, parse_schema
from shared.datafile.secrets import resolved
from shared.datafile.source import SourceFile
from shared.model.kafka_columns import with_kafka_columns
from shared.model.resources import Column, Datasource, TokenGrant

_IGNORED = (
    *("KAFKA_TARGET_PARTITIONS", "IMPORT_SERVICE", "IMPORT_EXTERNAL_DATASOURCE"),
    "EXPORT_SERVICE",
)
_LINES: dict[str, Shape] = dict.fromkeys(
    (
        *("ENGINE", *ENGINE_COMMANDS, "TOKEN", "TAGS", "BACKFILL", "VERSION"),
        *(*KAFKA_COMMANDS, *IMPORT_COMMANDS, *_IGNORED),
    ),
    "line",
)

KIND = FileKind(
    name="datasource",
    commands={
        **_LINES,
        "DESCRIPTION": "either",
        "SCHEMA": "either",
        "INDEXES": "either",
        "SHARED_WITH": "either",
        "FORWARD_QUERY": "block",
    },
    refused={
        "INCLUDE": "Write the lines themselves.",
        "SETTINGS": "Use ENGINE_SETTINGS.",
        "IMPORT_STRATEGY": None,
        "SOURCE": None,
        "KAFKA_STORE_BINARY_HEADERS": "Use KAFKA_STORE_HEADERS.",
        "NODE": "Nodes belong into .pipe files.",
        "SQL": "SQL belongs into .pipe files.",
    },
    flattened=re.compile(r"(?P<text>.*[.!?:])\s+(?P<command>SCHEMA\s+>)\s*$"),
)


def parse_datasource(
    source: SourceFile, diagnostics: Diagnostics, secrets: Mapping[str, str] | None = None
) -> Datasource | None:
    """The data source of a file, in text or JSON form; None where it has mistakes.

    Args:
        source: The file; its stem is the name.
        diagnostics: Where everything found is reported.
        secrets: What ``tb_secret`` finds, by name.
    """
    diagnostics.add_source(source)
    check_resource_name(source, diagnostics)
    read = read_json_form if is_json_form(source) else read_instructions
    instructions = read(source, KIND, diagnostics)
    if not instructions and diagnostics.error_count(source.path):
        return None
    datasource = _Reader(source, diagnostics, secrets or {}).read(instructions)
    return None if diagnostics.error_count(source.path) else datasource


class _Reader:
    def __init__(
        self, source: SourceFile, diagnostics: Diagnostics, secrets: Mapping[str, str]
    ) -> None:
        self._source = source
        self._diagnostics = diagnostics
        self._secrets = secrets
        # The last line of a command wins.
        self._last: dict[str, Instruction] = {}
        self._values: dict[str, str] = {}
        self._tokens: list[TokenGrant] = []

    def read(self, instructions: tuple[Instruction, ...]) -> Datasource:
        for instruction in instructions:
            self._take(instruction)
        kafka = parse_kafka(self._last, self._values, self._diagnostics)
        columns = with_kafka_columns(self._columns(), kafka)
        indexes, labels = self._last.get("INDEXES"), self._last.get("TAGS")
        return Datasource(
            name=self._source.stem,
            columns=columns,
            engine=parse_engine(self._last, self._values, columns, self._diagnostics),
            description=description(self._last.get("DESCRIPTION")),
            indexes=parse_indexes(indexes.body, self._diagnostics) if indexes else (),
            tokens=tuple(dict.fromkeys(self._tokens)),
            tags=tags(labels, self._values["TAGS"], self._diagnostics) if labels else (),
            shared_with=split_commas(self._values.get("SHARED_WITH", "").replace("\n", ",")),
            forward_query=self._forward_query(),
            backfill=self._backfill(),
            kafka=kafka,
            imports=parse_imports(self._last, self._values, self._diagnostics),
            span=self._source.span(),
            engine_spans=tuple(
                (command, instruction.body.span(max(0, instruction.body.text.find(value))))
                for command, instruction in self._last.items()
                if command.startswith("ENGINE") and (value := self._values[command])
            ),
        )

    def _take(self, instruction: Instruction) -> None:
        command = instruction.command
        value = instruction.value
        if command not in ("DESCRIPTION", "SCHEMA", "INDEXES"):
            value = resolved(instruction, self._secrets, self._diagnostics)
        if command.startswith("KAFKA_"):
            # A trailing note is common here and no setting of Kafka contains " -- ".
            value = re.split(r"\s--(?:\s|$)", value, maxsplit=1)[0].strip()
        if command == "VERSION":
            message = "VERSION has no effect."
            self._diagnostics.warning("version_ignored", message, instruction.span)
        elif command in _IGNORED:
            message = f"{command} has no effect."
            self._diagnostics.warning("command_ignored", message, instruction.span)
        elif command == "TOKEN":
            grant = token_grant(instruction, value, ("READ", "APPEND"), self._diagnostics)
            self._tokens += [grant] if grant else []
        else:
            self._last[command] = instruction
            self._values[command] = value
            if command in ("BACKFILL", "SHARED_WITH", "FORWARD_QUERY"):
                require_value(instruction, value, self._diagnostics)

    def _columns(self) -> tuple[Column, ...]:
        schema = self._last.get("SCHEMA")
        if schema is None or not schema.value.strip():
            self._diagnostics.error(
                "missing_schema",
                "SCHEMA is mandatory." if schema is None else "SCHEMA has no columns.",
                self._source.span() if schema is None else schema.span,
                "Write 'SCHEMA >' and one column a line: `name` Type `json:$.name`,",
            )
            return ()
        before = self._diagnostics.error_count(self._source.path)
        columns = parse_schema(schema.body, self._diagnostics)
        is_whole = self._diagnostics.error_count(self._source.path) == before
        if not columns and is_whole:
            self._diagnostics.error("missing_schema", "SCHEMA has no columns.", schema.span)
        # With a column missing, comparing keys with the rest would report it a second time.
        return columns if is_whole else ()

    def _forward_query(self) -> str | None:
        instruction = self._last.get("FORWARD_QUERY")
        if instruction is None or not instruction.value.strip():
            return None
        text = textwrap.dedent(self._values["FORWARD_QUERY"]).strip()
        if re.match(r"(SELECT|WITH)\b", text, re.IGNORECASE) is None:
            message = "FORWARD_QUERY must begin with SELECT."
            self._diagnostics.error("bad_forward_query", message, instruction.body.start)
        return text

    def _backfill(self) -> str | None:
        value = self._values.get("BACKFILL")
        if value and value.lower() != "skip":
            span = self._last["BACKFILL"].body.start
            message = f"BACKFILL knows only skip, not '{value[:40]}'."
            self._diagnostics.error("bad_backfill", message, span)
        return value.lower() if value else None
