"""Pipes that parse but cannot work: bad templates, unknown tables and columns, SQL that fails.

Needs an engine that has the project's tables, empty ones are enough. Every node is rendered with
placeholder values and described by the engine, so types are the engine's own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from msgspec import Struct

from deploy.ddl import ViewDefinition
from query.columns import OutputColumn, output_columns
from query.plan import Planner
from query.planned import Planned
from query.template.compile import Template
from query.template.functions_sql import STAND_IN
from query.template.needs import Need, needed_names, needed_secrets
from shared.clickhouse.contract import ClickHouse
from shared.datafile.diagnostics import Diagnostic
from shared.errors import (
    AppError,
    NotFoundError,
    ParameterError,
    QueryError,
    TemplateError,
    TooLargeError,
)
from shared.model.resources import Node, Pipe, Span
from shared.model.workspace import Workspace, did_you_mean

_MISTAKES = (TemplateError, ParameterError, NotFoundError, QueryError, TooLargeError)
_QUOTED = re.compile(r"[`']([^`']+)[`']")
_PLACE_IN_SQL = re.compile(r" \(line \d+, col(?:umn)? \d+\)")


class CheckedPipe(Struct, frozen=True, kw_only=True):
    """What was found out about one pipe.

    ``view`` is what its materialized node becomes, ``sources`` the tables its answer reads.
    """

    diagnostics: tuple[Diagnostic, ...] = ()
    view: ViewDefinition | None = None
    sources: tuple[str, ...] = ()


async def check_pipe(
    clickhouse: ClickHouse, planner: Planner, workspace: Workspace, pipe: Pipe
) -> CheckedPipe:
    """Check every node of a pipe; all problems are reported, one a node."""
    diagnostics: list[Diagnostic] = []
    view: ViewDefinition | None = None
    sources: tuple[str, ...] = ()
    for node in pipe.nodes:
        try:
            missing = missing_secrets(node, workspace.secrets, lambda n: planner.template(pipe, n))
            diagnostics += missing
            if missing:
                continue
            planned = await planner.plan(pipe, node, {}, test_mode=True)
            columns = await output_columns(clickhouse, planned)
            if node is pipe.answer:
                sources = tuple(sorted(planned.tables))
            if node is pipe.materialized:
                view = _view(workspace, pipe, node, planned, columns)
        except _MISTAKES as error:
            problem = _stood_in(pipe, node, error, planner) or _diagnostic(node, error)
            diagnostics += [problem] if problem not in diagnostics else []
    if diagnostics:
        return CheckedPipe(diagnostics=tuple(diagnostics))
    return CheckedPipe(view=view, sources=sources)


def missing_secrets(
    node: Node, secrets: Mapping[str, str], compile_: Callable[[Node], Template]
) -> tuple[Diagnostic, ...]:
    """The secrets that a node needs and that are not among those that are set.

    Raises:
        TemplateError: It does not compile.
    """
    if not node.is_template or "tb_" not in node.sql:
        return ()
    return tuple(
        Diagnostic(
            code="missing_secret",
            severity="error",
            message=f"Secret '{needed.name}' is not set.",
            span=span_in_node(node, needed.line, needed.column),
            hint="Settings of Pipehouse are no secrets of templates."
            if needed.name.startswith("PIPEHOUSE_")
            else "Set it in .env or in the environment, or give tb_secret() a default.",
        )
        for needed in needed_secrets(compile_(node))
        if secrets.get(needed.name, secrets.get(f"tb_secret_{needed.name}")) is None
    )


def _view(
    workspace: Workspace,
    pipe: Pipe,
    node: Node,
    planned: Planned,
    columns: tuple[OutputColumn, ...],
) -> ViewDefinition:
    target = workspace.datasource(node.option("DATASOURCE") or "")
    if node.is_template and planned.bindings:
        raise TemplateError(
            "A materialized node runs on every insert and cannot have parameters.",
            hint="Write the values into the SQL.",
        )
    known = [c.name for c in target.columns]
    for column in columns:
        if column.name not in known:
            raise QueryError(
                f"Column '{column.name}' is not in data source '{target.name}'.",
                hint=did_you_mean(column.name, known) or f"Its columns: {', '.join(known)}.",
            )
    return ViewDefinition(
        name=pipe.name,
        target=target.name,
        select=planned.sql,
        sources=tuple(sorted(planned.tables)),
    )


def _stood_in(pipe: Pipe, node: Node, error: AppError, planner: Planner) -> Diagnostic | None:
    """The problem, where all that is wrong is a name that only a request gives."""
    if not re.search(rf"[`']{STAND_IN}[`']", error.message) or STAND_IN in node.sql:
        return None
    for each in (node, *pipe.nodes):
        for need in _needed_names(pipe, each, planner):
            call = f"{need.function}({need.name}"
            return Diagnostic(
                code=error.code,
                severity="error",
                message=f"{call}) has no default, so what the SQL reads is not known.",
                span=span_in_node(each, need.line, need.column),
                hint=f"Give it one that exists: {{{{{call}, 'name')}}}}.",
            )
    message = "A pipe that it reads has table(), column() or symbol() without a default."
    return Diagnostic(
        code=error.code, severity="error", message=message, span=span_in_node(node, 1, 1)
    )


def _needed_names(pipe: Pipe, node: Node, planner: Planner) -> list[Need]:
    """The likeliest first: ``symbol()`` is mostly an alias, which may be any name."""
    if not node.is_template:
        return []
    try:
        needs = needed_names(planner.template(pipe, node))
    except TemplateError:
        return []
    return sorted(needs, key=lambda need: need.function == "symbol")


def _diagnostic(node: Node, error: AppError) -> Diagnostic:
    """The problem at its place in the file, as near as the error tells."""
    line, column = _place(node, error)
    return Diagnostic(
        code=error.code,
        severity="error",
        # Counted from the start of the SQL, which would contradict the place in the file.
        message=_PLACE_IN_SQL.sub("", error.message),
        span=span_in_node(node, line, column),
        hint=error.hint,
    )


def _place(node: Node, error: AppError) -> tuple[int, int]:
    for detail in error.errors:
        line, column = detail.get("line"), detail.get("column")
        if isinstance(line, int) and isinstance(column, int):
            return line, column
    # The engine names what it stumbled over; its first appearance is the likeliest place.
    for name in _QUOTED.findall(error.message):
        for number, text in enumerate(node.sql.splitlines(), start=1):
            found = re.search(rf"(?<![\w.]){re.escape(name)}(?!\w)", text)
            if found:
                return number, found.start() + 1
    return 1, 1


def span_in_node(node: Node, line: int, column: int) -> Span:
    """A place in a node's SQL, both from 1, as a place in its file."""
    path = node.span.path if node.span else node.name
    if node.sql_lines:
        file_line = node.sql_lines[min(line, len(node.sql_lines)) - 1]
    else:
        file_line = node.sql_line + line - 1
    return Span(path, file_line, column + node.sql_indent)


def first_problems(checked: Mapping[str, CheckedPipe]) -> dict[str, str]:
    """For each broken pipe, its first problem with its place, as one line."""
    return {
        name: f"{d.span.path}:{d.span.line}:{d.span.column}: {d.message}"
        for name, found in checked.items()
        for d in found.diagnostics[:1]
    }
