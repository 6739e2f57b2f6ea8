"""From a pipe and its arguments to one statement: nodes and other pipes become CTEs.

Only what the answering node reads, directly or through other nodes, is rendered. A name in FROM is
looked up in this order: nodes of the same pipe, other pipes, data sources and their quarantine
tables. A pipe that is read becomes one CTE with its own nodes inside, so that node names of
different pipes never meet. The SQL of a node is never rewritten, only put behind a WITH.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence

from msgspec import Struct, field

from query.template.compile import Template, compile_template
from query.template.render import Rendered, render
from shared.clickhouse.allowlist import Analysis, check_select
from shared.clickhouse.sql import ParameterValue, quote_identifier
from shared.errors import NotFoundError, ParameterError, QueryError, UserError
from shared.model.resources import Node, Pipe
from shared.model.workspace import Workspace, did_you_mean

QUARANTINE_SUFFIX = "_quarantine"
MAX_DEPTH = 32

Parse = Callable[[str], Awaitable[Analysis]]

_LEADING_SPACE = re.compile(r"(?:\s+|--[^\n]*(?:\n|\Z)|/\*.*?\*/)*", re.DOTALL)
_WITH = re.compile(r"WITH\b(?!\s+RECURSIVE\b)", re.IGNORECASE)
_SELECT = re.compile(r"SELECT\b", re.IGNORECASE)


class Planned(Struct, frozen=True, kw_only=True):
    """One statement, its bindings, and what its templates asked for.

    ``tables`` are the data sources and quarantine tables it reads.
    """

    sql: str
    bindings: Mapping[str, ParameterValue]
    tables: frozenset[str] = frozenset()
    max_threads: int | None = None


class _Plan(Struct, kw_only=True):
    """What grows while one statement is put together; mutable for that reason."""

    arguments: Mapping[str, object]
    test_mode: bool
    bindings: dict[str, ParameterValue] = field(default_factory=dict)
    tables: set[str] = field(default_factory=set)
    problems: list[ParameterError] = field(default_factory=list)
    next_binding: int = 1
    max_threads: int | None = None


class Planner:
    """Plans requests against one workspace; templates are compiled once.

    Args:
        workspace: What names mean.
        parse: The engine's own parser, which remembers texts it has seen.
    """

    def __init__(self, workspace: Workspace, parse: Parse) -> None:
        self.workspace = workspace
        self._parse = parse
        self._templates: dict[tuple[str, str], Template] = {}
        self._resources = frozenset(
            {
                *workspace.datasources,
                *workspace.pipes,
                *(name + QUARANTINE_SUFFIX for name in workspace.datasources),
            }
        )

    def template(self, pipe: Pipe, node: Node) -> Template:
        """The compiled template of a node.

        Raises:
            TemplateError: It does not compile; the place is in the node's SQL.
        """
        key = (pipe.name, node.name)
        found = self._templates.get(key)
        if found is None:
            found = self._templates[key] = compile_template(node.sql)
        return found

    async def plan(
        self,
        pipe: Pipe,
        node: Node,
        arguments: Mapping[str, object],
        *,
        test_mode: bool = False,
    ) -> Planned:
        """The statement that answers for a node.

        Raises:
            ParameterError: Every missing and bad parameter of all nodes that are needed.
            TemplateError: A template failed otherwise.
            NotFoundError: A node reads something that does not exist.
            QueryError: The SQL does not parse, or does what endpoints may not do.
        """
        plan = _Plan(arguments=arguments, test_mode=test_mode)
        sql = await self._compose(plan, pipe, node, ())
        if plan.problems:
            raise _all_of(plan.problems)
        return self._planned(plan, sql)

    async def plan_sql(self, sql: str) -> tuple[Planned, str | None]:
        """Free SQL over data sources and pipes, and the format it names itself.

        Errors as in ``plan``.
        """
        plan = _Plan(arguments={}, test_mode=False)
        ctes: dict[str, str] = {}
        analysis = await self._checked(sql)
        await self._resolve(plan, None, None, analysis, ctes, ())
        return self._planned(plan, attach(ctes, sql)), analysis.format

    def _planned(self, plan: _Plan, sql: str) -> Planned:
        return Planned(
            sql=sql,
            bindings=plan.bindings,
            tables=frozenset(plan.tables),
            max_threads=plan.max_threads,
        )

    async def _compose(self, plan: _Plan, pipe: Pipe, node: Node, path: tuple[str, ...]) -> str:
        """The self-contained SQL of a node: the nodes and pipes it reads go before it."""
        ctes: dict[str, str] = {}
        sql = await self._render(plan, pipe, node, ctes, path)
        return attach(ctes, sql)

    async def _render(
        self, plan: _Plan, pipe: Pipe, node: Node, ctes: dict[str, str], path: tuple[str, ...]
    ) -> str:
        step = f"{pipe.name}.{node.name}"
        if step in path or len(path) > MAX_DEPTH:
            raise QueryError(f"The nodes read each other: {' -> '.join((*path, step))}.")
        sql = node.sql
        if node.is_template:
            rendered = self._render_template(plan, self.template(pipe, node))
            sql = rendered.sql
            plan.next_binding = rendered.next_binding
            plan.bindings.update(rendered.bindings)
            if rendered.max_threads is not None:
                plan.max_threads = rendered.max_threads
        await self._resolve(plan, pipe, node, await self._checked(sql), ctes, (*path, step))
        return sql

    def _render_template(self, plan: _Plan, template: Template) -> Rendered:
        """Render; bad parameters are kept, and stand-ins show what else the answer needs."""

        def rendered(arguments: Mapping[str, object], *, test_mode: bool) -> Rendered:
            return render(
                template,
                arguments,
                resources=self._resources,
                first_binding=plan.next_binding,
                test_mode=test_mode,
            )

        try:
            return rendered(plan.arguments, test_mode=plan.test_mode)
        except ParameterError as error:
            plan.problems.append(error)
            bad = {str(problem.get("parameter")) for problem in error.errors}
            good = {n: v for n, v in plan.arguments.items() if n not in bad}
            try:
                return rendered(good, test_mode=True)
            except UserError:
                raise _all_of(plan.problems) from None

    async def _checked(self, sql: str) -> Analysis:
        analysis = await self._parse(sql)
        check_select(analysis)
        return analysis

    async def _resolve(
        self,
        plan: _Plan,
        pipe: Pipe | None,
        node: Node | None,
        analysis: Analysis,
        ctes: dict[str, str],
        path: tuple[str, ...],
    ) -> None:
        """Give every table the SQL reads a meaning; what is not a table goes into ``ctes``."""
        for table in analysis.tables:
            if table.database:
                continue
            name = table.name
            if name in ctes:
                continue
            local = _other_node(pipe, node, name)
            if local is not None and pipe is not None:
                # Its own needs are put before it, so that each CTE only reads earlier ones.
                ctes[name] = await self._render(plan, pipe, local, ctes, path)
                ctes[name] = ctes.pop(name)
            elif name in self.workspace.pipes and (pipe is None or name != pipe.name):
                other = self.workspace.pipes[name]
                ctes[name] = await self._compose(plan, other, other.answer, path)
            elif name in self._resources and name not in self.workspace.pipes:
                plan.tables.add(name)
            elif not table.is_operand:
                # Right of IN an unknown name may be a column; the engine will tell.
                known = {*self._resources, *(n.name for n in (pipe.nodes if pipe else ()))}
                raise NotFoundError(
                    f"Resource '{name}' not found.", hint=did_you_mean(name, known - {name})
                )


def _other_node(pipe: Pipe | None, node: Node | None, name: str) -> Node | None:
    """The node of that name, unless it is the asking one: that reads a table of its own name."""
    if pipe is None or (node is not None and node.name == name):
        return None
    return next((n for n in pipe.nodes if n.name == name), None)


def _all_of(problems: Sequence[ParameterError]) -> ParameterError:
    """Every bad parameter of a request as one error, each of them once."""
    if len(problems) == 1:
        return problems[0]
    errors = {str(e.get("error")): e for problem in problems for e in problem.errors}
    return ParameterError(" ".join(errors), errors=list(errors.values()))


def attach(ctes: Mapping[str, str], sql: str) -> str:
    """Put CTEs before a SELECT, joining a WITH that is there already."""
    if not ctes:
        return sql
    listed = ",\n".join(f"{quote_identifier(n)} AS (\n{s}\n)" for n, s in ctes.items())
    start = _LEADING_SPACE.match(sql)
    assert start is not None
    body = sql[start.end() :]
    own = _WITH.match(body)
    if own:
        return f"WITH {listed},{body[own.end() :]}"
    if _SELECT.match(body):
        return f"WITH {listed}\n{body}"
    return f"WITH {listed}\nSELECT * FROM (\n{body}\n)"
