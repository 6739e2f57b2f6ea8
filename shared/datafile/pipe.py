"""A .pipe file to a ``Pipe``."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from typing import cast

from shared.clickhouse.sql import is_identifier
from shared.datafile.diagnostics import Diagnostics
from shared.datafile.fields import check_resource_name, description, tags, token_grant
from shared.datafile.lexer import FileKind, Instruction, Shape, read_instructions
from shared.datafile.nodes import (
    KNOWN_KINDS,
    OPTION_COMMANDS,
    check_node,
    node_sql,
)
from shared.datafile.quoting import words
from shared.datafile.source import Piece, SourceFile, mapped_text
from shared.model.resources import Node, NodeKind, Pipe, TokenGrant
from shared.model.workspace import did_you_mean

_IGNORED = ("FILTER", "SCOPE", "ON_DEMAND_COMPUTE")
_PIPE_LEVEL = frozenset({"DESCRIPTION", "TOKEN", "TAGS", "VERSION", "FILTER", "SCOPE", "NODE"})
_LINES: dict[str, Shape] = dict.fromkeys(
    ("TOKEN", "TAGS", "NODE", "TYPE", "VERSION", *_IGNORED, *OPTION_COMMANDS), "line"
)
_ENGINE_HINT = "The target of a materialized node has a .datasource file of its own."

KIND = FileKind(
    name="pipe",
    commands={**_LINES, "DESCRIPTION": "either", "SQL": "block"},
    refused={
        "INCLUDE": "Write the lines themselves.",
        "CACHE": "Caching is a part of the query.",
        "SCHEMA": _ENGINE_HINT,
        "INDEXES": _ENGINE_HINT,
        "ENGINE": _ENGINE_HINT,
        **dict.fromkeys(
            (
                *("ENGINE_SORTING_KEY", "ENGINE_PARTITION_KEY", "ENGINE_PRIMARY_KEY"),
                *("ENGINE_TTL", "ENGINE_SETTINGS", "ENGINE_SAMPLING_KEY", "ENGINE_VER"),
                *("ENGINE_SIGN", "ENGINE_VERSION", "ENGINE_COLUMNS", "ENGINE_IS_DELETED"),
            ),
            _ENGINE_HINT,
        ),
    },
    flattened=re.compile(r"(?P<text>.*[.!?:])\s+(?P<command>NODE\s+\w+)\s*$"),
)

_SQL_START = re.compile(r"\s*(%|\(|\{\{|\{%|--|/\*|(SELECT|WITH)\b)", re.IGNORECASE)
_NODE_LINE = re.compile(r"\s*NODE\s+\S", re.IGNORECASE)
_BARE_NODE = "endpoint"


def parse_pipe(source: SourceFile, diagnostics: Diagnostics) -> Pipe | None:
    """The pipe of a file; None where it has mistakes.

    A file that begins with SQL and has no NODE line is one endpoint node called ``endpoint``.
    """
    diagnostics.add_source(source)
    check_resource_name(source, diagnostics)
    instructions = (
        _bare_sql(source) if _is_bare_sql(source) else read_instructions(source, KIND, diagnostics)
    )
    pipe = _Reader(source, diagnostics).read(instructions)
    return None if diagnostics.error_count(source.path) else pipe


def _is_bare_sql(source: SourceFile) -> bool:
    first = next((n for n in source.lines if n.strip() and not n.lstrip().startswith("#")), "")
    return _SQL_START.match(first) is not None and not any(map(_NODE_LINE.match, source.lines))


def _bare_sql(source: SourceFile) -> tuple[Instruction, ...]:
    pieces = [
        Piece(number, 1, line)
        for number, line in enumerate(source.lines, 1)
        if line.strip() and not line.lstrip().startswith("#")
    ]
    span, name = source.span(), mapped_text(source.path, [])
    sql = mapped_text(source.path, pieces)
    return (
        Instruction(command="NODE", value=_BARE_NODE, span=span, body=name),
        Instruction(command="SQL", value=sql.text, span=span, body=sql, is_block=True),
        Instruction(command="TYPE", value="endpoint", span=span, body=name),
    )


class _Reader:
    def __init__(self, source: SourceFile, diagnostics: Diagnostics) -> None:
        self._source = source
        self._diagnostics = diagnostics
        self._tokens: list[TokenGrant] = []
        self._tags: tuple[str, ...] = ()
        self._description = ""

    def read(self, instructions: Sequence[Instruction]) -> Pipe:
        starts = [i for i, item in enumerate(instructions) if item.command == "NODE"]
        for instruction in instructions[: starts[0] if starts else None]:
            if instruction.command in _PIPE_LEVEL:
                self._pipe_level(instruction)
            elif starts:
                message = f"{instruction.command} stands before the first NODE."
                self._diagnostics.error("before_node", message, instruction.span)
        nodes: list[Node] = []
        for start, end in itertools.pairwise([*starts, len(instructions)]):
            nodes.append(self._node(instructions[start], instructions[start + 1 : end], nodes))
        if not nodes and not self._diagnostics.error_count(self._source.path):
            self._diagnostics.error(
                "no_nodes",
                "A pipe needs at least one NODE.",
                self._source.span(),
                "Write 'NODE name', then 'SQL >' and the query.",
            )
        return Pipe(
            name=self._source.stem,
            nodes=tuple(nodes),
            description=self._description,
            tokens=tuple(dict.fromkeys(self._tokens)),
            tags=self._tags,
            span=self._source.span(),
        )

    def _pipe_level(self, instruction: Instruction) -> None:
        command, value = instruction.command, instruction.value
        if command == "DESCRIPTION":
            self._description = description(instruction)
        elif command == "TOKEN":
            grant = token_grant(instruction, value, ("READ",), self._diagnostics)
            self._tokens += [grant] if grant else []
        elif command == "TAGS":
            self._tags = tags(instruction, value, self._diagnostics)
        elif command == "VERSION":
            message = "VERSION has no effect."
            self._diagnostics.warning("version_ignored", message, instruction.span)
        else:
            message = f"{command} has no effect."
            self._diagnostics.warning("command_ignored", message, instruction.span)

    def _node(
        self, opening: Instruction, instructions: Sequence[Instruction], earlier: list[Node]
    ) -> Node:
        name = self._node_name(opening, earlier)
        last: dict[str, Instruction] = {}
        for instruction in instructions:
            command = instruction.command
            if command in ("TOKEN", "TAGS", "VERSION", *_IGNORED):
                self._pipe_level(instruction)
            else:
                last["COPY_MODE" if command == "MODE" else command] = instruction
        kind = self._kind(last.get("TYPE"))
        if kind != "standard" and any(n.kind != "standard" for n in earlier):
            self._diagnostics.error(
                "several_typed_nodes",
                "Only one node of a pipe can have a TYPE.",
                last["TYPE"].span,
                "Move this node to a pipe of its own.",
            )
        options = {command: last[command] for command in OPTION_COMMANDS if command in last}
        check_node(name, kind, opening.span, options, self._diagnostics)
        node = Node(
            name=name,
            sql="",
            kind=kind,
            description=description(last.get("DESCRIPTION")),
            options=tuple((c, i.value.strip()) for c, i in options.items()),
            span=opening.span,
        )
        return node_sql(node, last.get("SQL"), self._diagnostics)

    def _node_name(self, opening: Instruction, earlier: list[Node]) -> str:
        # Unquoted, only the first word is the name.
        is_quoted = opening.body.start.column > opening.span.column + len("NODE ")
        name = opening.value if is_quoted else (words(opening.value) or ("",))[0]
        if not is_identifier(name):
            self._diagnostics.error(
                "bad_name" if name else "missing_value",
                f"The node name '{name}' is not an identifier." if name else "NODE has no name.",
                opening.span,
                "Use letters, digits and _, and begin with a letter or _.",
            )
        elif any(node.name == name for node in earlier):
            message = f"Node '{name}' is already in this pipe."
            self._diagnostics.error("duplicate_node", message, opening.span)
        return name

    def _kind(self, instruction: Instruction | None) -> NodeKind:
        if instruction is None:
            return "standard"
        value = (words(instruction.value) or ("",))[0].lower()
        if value in ("", "standard", "empty"):
            return "standard"
        if value == "stream":
            message = "Nodes of type stream are not run; this one is read as a standard node."
            self._diagnostics.warning("command_ignored", message, instruction.span)
            return "standard"
        if value not in KNOWN_KINDS:
            hint = did_you_mean(value, KNOWN_KINDS) or f"Known: {', '.join(KNOWN_KINDS)}."
            if instruction.span.column == 1 and not value[0].isalpha():
                hint = "Indent the lines of the SQL above: this one is read as a command."
            message = f"Unknown node type '{value[:40]}'."
            self._diagnostics.error("bad_node_type", message, instruction.body.start, hint)
            return "standard"
        return cast(NodeKind, value)
