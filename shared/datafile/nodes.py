"""What a node says: the options of its type, and its SQL with the way back to the file."""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

from shared.datafile.diagnostics import Diagnostics
from shared.datafile.lexer import Instruction
from shared.datafile.source import Piece
from shared.model.resources import Node, NodeKind, Span
from shared.model.workspace import did_you_mean

KNOWN_KINDS = ("endpoint", "materialized", "copy", "sink", "standard")

_OPTIONS: dict[NodeKind, tuple[str, ...]] = {
    "materialized": ("DATASOURCE", "DEPLOYMENT_METHOD"),
    "copy": ("TARGET_DATASOURCE", "COPY_SCHEDULE", "COPY_MODE", "MODE"),
    "sink": (
        *("EXPORT_CONNECTION_NAME", "EXPORT_SCHEDULE", "EXPORT_KAFKA_TOPIC", "EXPORT_SERVICE"),
        *("EXPORT_BUCKET_URI", "EXPORT_FILE_TEMPLATE", "EXPORT_FORMAT", "EXPORT_COMPRESSION"),
        *("EXPORT_STRATEGY", "EXPORT_WRITE_STRATEGY"),
    ),
}
_NEEDED: dict[NodeKind, tuple[str, ...]] = {
    "materialized": ("DATASOURCE",),
    "copy": ("TARGET_DATASOURCE",),
    "sink": ("EXPORT_CONNECTION_NAME", "EXPORT_SCHEDULE"),
}
_CHOICES = {
    "COPY_MODE": ("bad_copy_mode", ("append", "replace")),
    "DEPLOYMENT_METHOD": ("bad_deployment_method", ("alter",)),
}
OPTION_COMMANDS = tuple(command for commands in _OPTIONS.values() for command in commands)

_CRON_FIELD = re.compile(r"[\dA-Za-z*/,\-#?]+")
_ON_DEMAND = "@on-demand"
_TAG = re.compile(r"\{\{|\{%")


def check_node(
    name: str,
    kind: NodeKind,
    span: Span,
    options: Mapping[str, Instruction],
    diagnostics: Diagnostics,
) -> None:
    """Report options that are missing, of no use for the type, or of a wrong value."""
    for command in _NEEDED.get(kind, ()):
        if command not in options or not options[command].value.strip():
            message = f"Node '{name}' is of type {kind} and needs {command}."
            diagnostics.error("missing_option", message, span)
    for command, instruction in options.items():
        value = instruction.value.strip()
        if command not in _OPTIONS.get(kind, ()):
            owner = next(k for k, commands in _OPTIONS.items() if command in commands)
            diagnostics.warning(
                "option_ignored",
                f"{command} has no effect on a node of type {kind}.",
                instruction.span,
                f"It belongs to 'TYPE {owner}'.",
            )
        elif command in _CHOICES:
            code, known = _CHOICES[command]
            if value.lower() not in known:
                hint = did_you_mean(value.lower(), known) or f"Only {' or '.join(known)}."
                message = f"'{value[:40]}' is not a value of {command}."
                diagnostics.error(code, message, instruction.body.start, hint)
        elif command in ("COPY_SCHEDULE", "EXPORT_SCHEDULE") and value:
            _check_schedule(instruction, value, diagnostics)


def _check_schedule(instruction: Instruction, value: str, diagnostics: Diagnostics) -> None:
    fields = value.split()
    if value.lower() in (_ON_DEMAND, "@once"):
        return
    if len(fields) != 5 or not all(_CRON_FIELD.fullmatch(field) for field in fields):
        message = f"'{value[:40]}' is no schedule."
        hint = f"Write five cron fields such as 0 * * * *, or {_ON_DEMAND}."
        diagnostics.error("bad_schedule", message, instruction.body.start, hint)


def node_sql(node: Node, instruction: Instruction | None, diagnostics: Diagnostics) -> Node:
    """The node with its SQL, whose indentation and leading ``%`` are cut."""
    span = instruction.span if instruction else (node.span or Span("", 1))
    pieces = instruction.body.pieces if instruction else ()
    indent = _common_indent(pieces)
    lines = [(piece.line, piece.text[indent:].rstrip()) for piece in pieces]
    has_percent = bool(lines) and lines[0][1].lstrip().startswith("%")
    if has_percent:
        # A blank takes the place of the sign, so that columns stay what they are in the file.
        lines[0] = (lines[0][0], lines[0][1].replace("%", " ", 1))
    while lines and not lines[0][1].strip():
        del lines[0]
    if lines and lines[-1][1].endswith(";") and "--" not in lines[-1][1]:
        lines[-1] = (lines[-1][0], lines[-1][1].rstrip("; "))
    if not any(text.strip() for _, text in lines):
        diagnostics.error(
            "empty_node",
            f"Node '{node.name}' has no SQL.",
            span,
            "Write 'SQL >' and the query on the following lines.",
        )
        return node
    tagged = next(((n, m.start()) for n, t in lines if (m := _TAG.search(t))), None)
    if tagged is not None:
        _check_tag(
            node, Span(span.path, tagged[0], tagged[1] + indent + 1), has_percent, diagnostics
        )
    return msgspec.structs.replace(
        node,
        sql="\n".join(text for _, text in lines),
        is_template=has_percent or tagged is not None,
        sql_line=lines[0][0],
        sql_lines=tuple(number for number, _ in lines),
        sql_indent=indent,
    )


def _check_tag(node: Node, at: Span, has_percent: bool, diagnostics: Diagnostics) -> None:
    if node.kind == "materialized":
        diagnostics.error(
            "template_in_materialized",
            f"Materialized node '{node.name}' has template tags.",
            at,
            "It runs on every insert, when there are no parameters.",
        )
    elif not has_percent:
        diagnostics.warning(
            "template_without_percent",
            f"Node '{node.name}' has template tags but does not begin with %;"
            " it is read as a template.",
            at,
            "Put a line with % before the query.",
        )


def _common_indent(pieces: tuple[Piece, ...]) -> int:
    leading = [p.text[: len(p.text) - len(p.text.lstrip(" \t"))] for p in pieces]
    shortest = min(leading, key=len, default="")
    # Tabs and blanks do not measure up to each other: only what is the same in all lines counts.
    while not all(text.startswith(shortest) for text in leading):
        shortest = shortest[:-1]
    return len(shortest)
