"""From files to what is served: plan, apply, check, switch. One way, for every caller.

1. Plan and apply the tables. A data source that is refused keeps its last good version.
2. Check every pipe against the tables. A broken one keeps its last good version, if it has one.
3. Plan and apply the views of the good pipes.
4. Serve the new workspace.

Every problem is reported with its place, and the rest of the project goes on. Steps that change
what a block is written to run while the data sources they disturb are at rest.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from pathlib import PurePath

from msgspec import Struct, field, structs

from deploy.apply import apply
from deploy.check import CheckedPipe, check_pipe, first_problems
from deploy.ddl import ViewDefinition
from deploy.last_good import kept_secrets
from deploy.mistakes import find_mistakes
from deploy.plan import Plan, plan_tables, plan_views
from deploy.state import State, read_state
from ingest.worker import Worker
from query.serving import Serving
from shared.clickhouse.contract import ClickHouse
from shared.clock import Clock, Deadline
from shared.datafile.diagnostics import Diagnostic
from shared.datafile.project import LoadedProject
from shared.errors import AppError, NotFoundError, QueryError, UnavailableError
from shared.model.resources import Datasource, Pipe, Span
from shared.model.workspace import Workspace

PAUSE_TIMEOUT_S = 30.0


class Released(Struct, frozen=True, kw_only=True):
    """What came of a release: what is served now, what was done, every problem.

    ``reads`` are the tables that each good pipe's answer reads, ``views`` what the good
    materialized nodes become.
    """

    workspace: Workspace
    plan: Plan
    reads: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    views: Mapping[str, ViewDefinition] = field(default_factory=dict)
    diagnostics: tuple[Diagnostic, ...] = ()

    @property
    def is_clean(self) -> bool:
        """Whether everything in the files is served as it stands there."""
        return not any(d.severity == "error" for d in self.diagnostics)


class Releaser:
    """Brings projects into one engine and makes them live.

    Args:
        clickhouse: Where tables are made.
        serving: What requests see.
        worker: Whose pipelines feed the tables; None where nothing is ingested.
        clock: Where deadlines come from.
    """

    def __init__(
        self, clickhouse: ClickHouse, serving: Serving, worker: Worker | None, clock: Clock
    ) -> None:
        self._clickhouse = clickhouse
        self._serving = serving
        self._worker = worker
        self._clock = clock

    async def release(self, project: LoadedProject) -> Released:
        """Make a project live, as far as it can be.

        Raises:
            UnavailableError: ClickHouse does not answer. What was live stays live.
        """
        try:
            return await self._release(project)
        finally:
            # Whatever happened: what was paused for a change goes on.
            if self._worker is not None:
                self._worker.start(self._serving.workspace.datasources)

    async def _release(self, project: LoadedProject) -> Released:
        state = await read_state(self._clickhouse)
        wanted = project.workspace
        unread = _names_with_errors(project.diagnostics)
        unread |= self._out_of_reach(project, state)
        datasources, tables, diagnostics = await self._tables(state, wanted, unread)
        workspace = structs.replace(wanted, datasources=datasources)
        checked = await self._check(workspace)
        broken = first_problems(checked)
        missing = {*wanted.datasources, *unread} - {*datasources, *wanted.pipes}
        diagnostics += [
            _with_cause(d, missing) for found in checked.values() for d in found.diagnostics
        ]
        live = self._serving.workspace
        pipes = {n: p for n, p in wanted.pipes.items() if n not in broken}
        kept = [n for n in {*broken, *unread} if n in live.pipes and n not in pipes]
        pipes |= {n: live.pipes[n] for n in kept}
        secrets = kept_secrets(wanted, live, kept)
        workspace = structs.replace(workspace, pipes=pipes, secrets=secrets)
        views, failed = await self._views(state, checked, {*broken, *unread})
        diagnostics += failed
        files = dict(project.files)
        self._serving.replace(workspace, broken | unread)
        return Released(
            workspace=workspace,
            plan=Plan(steps=tables.steps + views.steps, kept=tables.kept),
            reads={name: found.sources for name, found in checked.items()},
            views={n: found.view for n, found in checked.items() if found.view is not None},
            diagnostics=(*project.diagnostics, *(_shown(d, files) for d in diagnostics)),
        )

    def _out_of_reach(self, project: LoadedProject, state: State) -> dict[str, str]:
        """What may lie in a folder that cannot be read, with that folder's problem."""
        known = {*state.datasources, *state.views, *self._serving.workspace.pipes}
        wanted = project.workspace
        missing = known - wanted.datasources.keys() - wanted.pipes.keys()
        return {
            name: f"{d.span.path}: {d.message}"
            for d in project.diagnostics
            if d.code == "unreadable_folder"
            for name in missing
        }

    async def _tables(
        self, state: State, wanted: Workspace, unread: Mapping[str, str]
    ) -> tuple[dict[str, Datasource], Plan, list[Diagnostic]]:
        """The data sources that can be served, what was done for them, and problems."""
        plan = plan_tables(state, wanted.datasources, self._clickhouse.database)
        failed = await self._apply(plan)
        problems: dict[str, list[Diagnostic]] = {}
        for r in plan.refusals:
            problem = _problem(wanted.datasources[r.resource].span, r.code, r.reason, r.hint)
            problems.setdefault(r.resource, []).append(problem)
        for name, error in failed.items():
            datasource = wanted.datasources[name]
            problems[name] = (
                await find_mistakes(self._clickhouse, datasource, error)
                if isinstance(error, QueryError)
                else [_problem(datasource.span, error.code, error.message, error.hint)]
            )
        good = {n: d for n, d in wanted.datasources.items() if n not in problems}
        last_good = {*problems, *unread} & set(state.datasources)
        good |= {name: state.datasources[name] for name in last_good if name not in good}
        return good, plan, [d for found in problems.values() for d in found]

    async def _check(self, workspace: Workspace) -> dict[str, CheckedPipe]:
        planner = self._serving.planner_for(workspace)
        return {
            name: await check_pipe(self._clickhouse, planner, workspace, pipe)
            for name, pipe in workspace.pipes.items()
        }

    async def _views(
        self, state: State, checked: Mapping[str, CheckedPipe], kept: set[str]
    ) -> tuple[Plan, list[Diagnostic]]:
        """Make the views of good pipes; those of broken pipes stay as they are."""
        views = {n: v for n, v in state.views.items() if n in kept}
        views |= {name: found.view for name, found in checked.items() if found.view is not None}
        plan = plan_views(state, views, self._clickhouse.database)
        failed = await self._apply(plan)
        problems = [
            _problem(Span(name, 1), e.code, e.message, e.hint) for name, e in failed.items()
        ]
        problems += [_problem(Span(r.resource, 1), r.code, r.reason, r.hint) for r in plan.refusals]
        return plan, problems

    async def _apply(self, plan: Plan) -> Mapping[str, AppError]:
        """Apply with everything that the plan disturbs at rest; ``release`` starts it again.

        A resource that needs a data source which does not come to rest is left as it is.

        Returns:
            Why, for each resource that was left as it is.
        """
        restless = await self._pause(plan.disturbed)
        left = {
            step.resource: UnavailableError(
                f"Data source '{name}' has a range under way that does not end.",
                hint="The log says what it waits for; nothing was changed.",
            )
            for step in plan.steps
            for name in step.disturbs
            if name in restless
        }
        steps = tuple(step for step in plan.steps if step.resource not in left)
        return {**left, **await apply(self._clickhouse, structs.replace(plan, steps=steps))}

    async def _pause(self, names: Collection[str]) -> frozenset[str]:
        """Bring data sources to rest; those that did not come to it."""
        if self._worker is None or not names:
            return frozenset()
        deadline = Deadline(self._clock, PAUSE_TIMEOUT_S)
        worker = self._worker
        rested = await asyncio.gather(*(worker.pause([name], deadline) for name in names))
        return frozenset(name for name, ok in zip(names, rested, strict=True) if not ok)


def _problem(span: Span | None, code: str, message: str, hint: str | None) -> Diagnostic:
    place = span or Span("project", 1)
    return Diagnostic(code=code, severity="error", message=message, span=place, hint=hint)


def _with_cause(diagnostic: Diagnostic, missing: Collection[str]) -> Diagnostic:
    """A resource that is not found because of the mistakes in its own file is said to be so."""
    for name in missing:
        if diagnostic.code == NotFoundError.code and f"'{name}'" in diagnostic.message:
            return structs.replace(diagnostic, hint=f"The file of '{name}' has mistakes itself.")
    return diagnostic


def _shown(diagnostic: Diagnostic, files: Mapping[str, str]) -> Diagnostic:
    """The diagnostic with the lines of its file."""
    lines = files.get(diagnostic.span.path, "").splitlines()
    last = diagnostic.span.line
    return structs.replace(diagnostic, excerpt=tuple(lines[max(0, last - 3) : last]))


def _names_with_errors(diagnostics: tuple[Diagnostic, ...]) -> dict[str, str]:
    """Resources whose files have errors, by name, with the first problem of each as one line."""
    found: dict[str, str] = {}
    for d in diagnostics:
        if d.severity == "error":
            name = PurePath(d.span.path).stem
            found.setdefault(name, f"{d.span.path}:{d.span.line}:{d.span.column}: {d.message}")
    return found


def endpoints(workspace: Workspace) -> list[Pipe]:
    """The pipes that answer over HTTP, by name."""
    return [pipe for _, pipe in sorted(workspace.pipes.items()) if pipe.endpoint is not None]
