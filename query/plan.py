"""From a pipe and its arguments to one statement: nodes and other pipes become CTEs.

Only what the answering node reads, directly or through other nodes, is rendered. A name in FROM is
looked up in this order: nodes of the same pipe, other pipes, data sources and their quarantine
tables. A pipe that is read becomes one CTE with its own nodes inside, so that node names of
different pipes never meet. The SQL of a node is never rewritten, only put behind a WITH.

What the token may see goes along: its row filters hold for every table that the statement reads,
within pipes too; in free SQL every name must be granted as well.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Container, Mapping

from msgspec import Struct, field

from query.access import (
    NO_OUTER_COLUMNS,
    Readable,
    check_capture,
    require_readable,
    resources,
    row_filters,
)
from query.planned import Growth, Planned, Request, all_of
from query.template.compile import Template, compile_template
from query.template.render import Rendered, render
from query.threads import bounded
from query.with_clause import attach
from shared.auth.tokens import Grant
from shared.clickhouse.allowlist import Analysis, check_select
from shared.clickhouse.sql import ParameterValue, quote_table
from shared.errors import NotFoundError, ParameterError, QueryError, TooLargeError, UserError
from shared.model.resources import Node, Pipe
from shared.model.workspace import Workspace, did_you_mean

MAX_DEPTH = 32
# Compiling takes longer than what the engine does with the text: seconds for a whole body.
MAX_OWN_TEMPLATE = 64 << 10
RESULT = "_"

Parse = Callable[[str], Awaitable[Analysis]]

_NO_SECRETS: Mapping[str, str] = {}
_NO_BINDINGS: Mapping[str, ParameterValue] = {}


class _Body(Struct, frozen=True, kw_only=True):
    """One SELECT with the CTEs that go before it.

    ``pipe`` is None for free SQL. ``path`` are the nodes that led here, ``hidden`` the names of
    nodes and CTEs around it, which the engine would find before a table, and ``defined`` the CTEs
    of its own nodes so far, which will be around the pipes that it reads.
    """

    pipe: Pipe | None
    arguments: Mapping[str, object]
    path: tuple[str, ...] = ()
    hidden: frozenset[str] = frozenset()
    defined: frozenset[str] = frozenset()
    ctes: dict[str, str] = field(default_factory=dict)


class Planner:
    """Plans requests against one workspace; templates are compiled once.

    Args:
        workspace: What names mean.
        parse: The engine's own parser, which remembers texts it has seen.
        database: Where the engine has the tables.
        strict_enums: Whether values that a template does not list are refused.
        max_threads: Threads of one query, and the most that it may ask for; 0 is no bound.
    """

    def __init__(
        self,
        workspace: Workspace,
        parse: Parse,
        *,
        database: str = "",
        strict_enums: bool = False,
        max_threads: int = 0,
    ) -> None:
        self.workspace = workspace
        self.parse = parse
        self._database = database
        self._strict_enums = strict_enums
        self.max_threads = max_threads
        self._templates: dict[tuple[str, str], Template] = {}
        self._resources = resources(workspace)

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
        grant: Grant | None = None,
        test_mode: bool = False,
    ) -> Planned:
        """The statement that answers for a node.

        Args:
            pipe: The pipe of the node.
            node: Which of its nodes.
            arguments: Parameters, those that the token fixes included.
            grant: Whose row filters hold; None for the project itself.
            test_mode: Put stand-ins where values are missing.

        Raises:
            ParameterError: Every missing and bad parameter of all nodes that are needed.
            TemplateError: A template failed otherwise.
            NotFoundError: A node reads something that does not exist.
            PermissionDeniedError: A node reads what a row filter cannot be put to.
            QueryError: The SQL does not parse, or does what endpoints may not do.
        """
        request = Request(arguments=arguments, grant=grant, test_mode=test_mode)
        plan = await self._begin(request)
        sql = await self._compose(plan, _Body(pipe=pipe, arguments=arguments), node)
        return plan.finished(sql)

    async def plan_sql(
        self, sql: str, request: Request, *, result_of: tuple[Pipe, Node] | None = None
    ) -> Planned:
        """Free SQL over the data sources and pipes that a token may read.

        Args:
            sql: One SELECT without FORMAT; with a leading ``%`` a template.
            request: Who asks; the arguments also reach the templates of pipes.
            result_of: What the name ``_`` stands for.

        Raises:
            NotFoundError: It names something that does not exist.
            PermissionDeniedError: It reads something that the token may not read.
            TooLargeError: Its template is too long.
            UserError: Otherwise as in ``plan``.
        """
        plan = await self._begin(request)
        body = _Body(pipe=None, arguments=request.arguments)
        analysis, sql = await self._free_sql(plan, sql)
        plan.filters.check_caller(analysis)
        if result_of is not None:
            await self._attach_result(plan, body, result_of)
        await self._resolve(plan, body, None, analysis)
        check_capture(analysis, plan.names)
        if plan.has_operands:
            plan.settings.update(NO_OUTER_COLUMNS)
        return plan.finished(attach(body.ctes, sql))

    async def check_condition(self, text: str) -> Analysis:
        """Check the row filter of a token; it may read data sources.

        Raises:
            QueryError: It is not one SQL expression, or does what free SQL may not do.
            PermissionDeniedError: It reads something else.
        """
        # Alone and in brackets: one that closes them or goes on after them fails one of the two.
        await self.parse(f"SELECT\n{text}\n")
        analysis = await self.parse(f"SELECT (\n{text}\n)")
        check_select(analysis, tables=self.workspace.datasources)
        _refuse_parameters(analysis, ())
        return analysis

    async def _begin(self, request: Request) -> Growth:
        """A plan with the row filters of the token, which are SQL and must be harmless too."""
        filters = row_filters(self.workspace, request.grant, self._database)
        plan = Growth(request=request, filters=filters)
        if self.max_threads and not request.test_mode:
            # Not where views are made: they do not belong to the process that makes them.
            plan.max_threads = self.max_threads
            plan.settings["max_threads"] = self.max_threads
        for text in filters.texts:
            analysis = await self.check_condition(text)
            plan.is_volatile = plan.is_volatile or analysis.is_volatile
            plan.tables.update(table.name for table in analysis.tables)
        plan.settings.update(filters.settings)
        return plan

    async def _free_sql(self, plan: Growth, sql: str) -> tuple[Analysis, str]:
        own = _NO_BINDINGS
        if sql.startswith("%"):
            text = sql[1:].strip()
            if len(text) > MAX_OWN_TEMPLATE:
                raise TooLargeError(f"The template is longer than {MAX_OWN_TEMPLATE} characters.")
            # Other requests go on meanwhile.
            rendered = await asyncio.to_thread(self._rendered_own, plan, text)
            plan.add(rendered)
            sql, own = rendered.sql, rendered.bindings
        analysis, sql = await self._checked(plan, sql, own)
        if analysis.format is not None:
            raise QueryError(f"FORMAT {analysis.format} must stand at the end.")
        return analysis, sql

    def _rendered_own(self, plan: Growth, text: str) -> Rendered:
        template = compile_template(text)
        # A caller's own text gets no secret: it could simply select it.
        return self._rendered(plan, template, plan.request.arguments, _NO_SECRETS)

    async def _attach_result(self, plan: Growth, body: _Body, result_of: tuple[Pipe, Node]) -> None:
        pipe, node = result_of
        inner = _Body(pipe=pipe, arguments=self._arguments_for(plan, pipe))
        body.ctes[RESULT] = await self._compose(plan, inner, node)

    def _arguments_for(self, plan: Growth, pipe: Pipe) -> Mapping[str, object]:
        """The arguments of a pipe in free SQL; what the token fixes wins here as well."""
        request = plan.request
        fixed = request.grant.fixed_params(pipe.name) if request.grant is not None else {}
        return {**request.arguments, **fixed} if fixed else request.arguments

    async def _compose(self, plan: Growth, body: _Body, node: Node) -> str:
        """The self-contained SQL of a node: the nodes and pipes it reads go before it."""
        sql = await self._render(plan, body, node)
        return attach(body.ctes, sql)

    async def _render(self, plan: Growth, body: _Body, node: Node) -> str:
        assert body.pipe is not None
        step = f"{body.pipe.name}.{node.name}"
        if step in body.path or len(body.path) > MAX_DEPTH:
            raise QueryError(f"The nodes read each other: {' -> '.join((*body.path, step))}.")
        sql, own = node.sql, _NO_BINDINGS
        if node.is_template:
            rendered = self._rendered_all(plan, self.template(body.pipe, node), body.arguments)
            plan.add(rendered)
            sql, own = rendered.sql, rendered.bindings
        analysis, sql = await self._checked(plan, sql, own)
        plan.names.update(analysis.ctes)
        plan.has_operands = plan.has_operands or any(t.is_operand for t in analysis.tables)
        inner = _Body(
            pipe=body.pipe,
            arguments=body.arguments,
            path=(*body.path, step),
            hidden=body.hidden,
            defined=body.defined.union(analysis.ctes),
            ctes=body.ctes,
        )
        await self._resolve(plan, inner, node, analysis)
        return sql

    def _rendered(
        self,
        plan: Growth,
        template: Template,
        arguments: Mapping[str, object],
        secrets: Mapping[str, str],
        *,
        test_mode: bool = False,
    ) -> Rendered:
        grant = plan.request.grant
        return render(
            template,
            arguments,
            resources=self._resources,
            readable=None if grant is None else Readable(self.workspace, grant, self._resources),
            secrets=secrets,
            first_binding=plan.next_binding,
            test_mode=test_mode,
            strict_enums=self._strict_enums,
        )

    def _rendered_all(
        self, plan: Growth, template: Template, arguments: Mapping[str, object]
    ) -> Rendered:
        """Render; bad parameters are kept, and stand-ins show what else the answer needs."""
        test_mode = plan.request.test_mode
        try:
            return self._rendered(
                plan, template, arguments, self.workspace.secrets, test_mode=test_mode
            )
        except ParameterError as error:
            plan.problems.append(error)
            bad = {str(problem.get("parameter")) for problem in error.errors}
            good = {n: v for n, v in arguments.items() if n not in bad}
            try:
                return self._rendered(plan, template, good, self.workspace.secrets, test_mode=True)
            except UserError:
                raise all_of(plan.problems) from None

    async def _checked(
        self, plan: Growth, sql: str, own: Mapping[str, ParameterValue]
    ) -> tuple[Analysis, str]:
        """What a piece of the statement reads, once it is known to be harmless, and its text."""
        analysis = await self.parse(sql)
        check_select(analysis)
        _refuse_parameters(analysis, own)
        plan.filters.check(analysis)
        plan.is_volatile = plan.is_volatile or analysis.is_volatile
        return analysis, await bounded(self.parse, sql, analysis, plan.max_threads)

    async def _resolve(
        self, plan: Growth, body: _Body, node: Node | None, analysis: Analysis
    ) -> None:
        """Give every table the SQL reads a meaning; what is not a table becomes a CTE."""
        for table in analysis.tables:
            name = table.name
            if table.database or name in body.ctes:
                continue
            local = _other_node(body.pipe, node, name)
            if local is not None:
                plan.names.add(name)
                # Its own needs are put before it, so that each CTE only reads earlier ones.
                body.ctes[name] = await self._render(plan, body, local)
                body.ctes[name] = body.ctes.pop(name)
            elif table.is_operand and name not in self._resources:
                # Right of IN an unknown name may be a column; the engine will tell.
                continue
            else:
                await self._resource(plan, body, name)

    async def _resource(self, plan: Growth, body: _Body, name: str) -> None:
        """A data source, a quarantine table or another pipe."""
        if body.pipe is None:
            if plan.request.grant is not None:
                require_readable(self.workspace, plan.request.grant, name)
        elif name == body.pipe.name and name not in self.workspace.datasources:
            raise self._unknown(body.pipe, name)
        other = self.workspace.pipes.get(name)
        if other is not None and other != body.pipe:
            await self._attach_pipe(plan, body, other)
        elif name in self._resources:
            plan.tables.add(name)
            if body.pipe is not None:
                plan.names.add(name)
            if name in body.hidden and self._database:
                table = quote_table(self._database, name)
                body.ctes[name] = f"SELECT * FROM {table}"
        else:
            raise self._unknown(body.pipe, name)

    async def _attach_pipe(self, plan: Growth, body: _Body, other: Pipe) -> None:
        own = frozenset(node.name for node in body.pipe.nodes) if body.pipe else frozenset()
        inner = _Body(
            pipe=other,
            arguments=body.arguments if body.pipe else self._arguments_for(plan, other),
            path=body.path,
            hidden=body.hidden | own | body.defined,
        )
        if body.pipe is not None:
            plan.names.add(other.name)
        body.ctes[other.name] = await self._compose(plan, inner, other.answer)

    def _unknown(self, pipe: Pipe | None, name: str) -> NotFoundError:
        known = {*self._resources, *(n.name for n in (pipe.nodes if pipe else ()))}
        return NotFoundError(
            f"Resource '{name}' not found.", hint=did_you_mean(name, known - {name})
        )


def _other_node(pipe: Pipe | None, node: Node | None, name: str) -> Node | None:
    """The node of that name, unless it is the asking one: that reads a table of its own name."""
    if pipe is None or (node is not None and node.name == name):
        return None
    return next((n for n in pipe.nodes if n.name == name), None)


def _refuse_parameters(analysis: Analysis, own: Container[str]) -> None:
    """Refuse placeholders that no template wrote: they could show the values of others.

    Raises:
        QueryError: Names them.
    """
    foreign = [name for name in analysis.parameters if name not in own]
    if foreign:
        raise QueryError(
            f"The query has the placeholder '{{{foreign[0]}}}', which nothing binds.",
            hint="Start the SQL with % and write {{String(name)}}.",
        )
