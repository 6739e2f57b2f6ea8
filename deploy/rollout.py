"""``pipehouse deploy``: bring a project into the ClickHouse that other processes work with.

1. Check every pipe against empty tables; nothing is changed while the files have a mistake.
2. Plan against the live tables; nothing is changed where a step would destroy or rewrite data.
3. Say that a deployment begins. Workers bring the data sources that it disturbs to rest.
4. See for ourselves: no insert of theirs runs in the server, no range is open in the log.
5. Apply the steps, one at a time, as long as no other deployment took over.
6. Record the files as live: workers and query servers switch to them within seconds.

A deployment that stops half-way leaves what it disturbs at rest, events wait in the log, and
running it again does what is left.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Collection, Mapping

import structlog
from msgspec import Struct, structs

from deploy.apply import apply
from deploy.ddl import ViewDefinition
from deploy.plan import Plan, plan_tables, plan_views
from deploy.record import (
    ABANDONED_AFTER_MS,
    Deployment,
    DeploymentRecord,
    DeploymentUnderWayError,
    Status,
    hash_files,
)
from deploy.state import read_state
from shared.clickhouse.contract import ClickHouse
from shared.clock import Clock
from shared.datafile.project import LoadedProject
from shared.errors import AppError, DataLossRefusedError, UnavailableError
from shared.model.workspace import Workspace

log = structlog.get_logger(__name__)

REST_TIMEOUT_S = 60.0
POLL_S = 0.2
REPEAT_S = 5.0
# How often, a second apart, the end of a deployment is told to a server that does not answer.
END_ATTEMPTS = 10
# What the token of every insert of a data source begins with, and so its query id.
TOKEN_PREFIX = "ph1"


class DeploymentFailedError(AppError):
    """A step of a deployment was refused; the message says what was done and what was not."""

    code = "deployment_failed"
    http_status = 409


class RolledOut(Struct, frozen=True, kw_only=True):
    """What a deployment came to; ``id`` is None where nothing was left to do."""

    plan: Plan
    id: int | None = None


async def plan_rollout(
    clickhouse: ClickHouse, workspace: Workspace, views: Mapping[str, ViewDefinition]
) -> Plan:
    """Every step from the live tables to this project, and what is refused."""
    state = await read_state(clickhouse)
    tables = plan_tables(state, workspace.datasources, clickhouse.database)
    made = plan_views(state, views, clickhouse.database)
    return Plan(
        steps=tables.steps + made.steps,
        refusals=tables.refusals + made.refusals,
        kept=tables.kept,
    )


Rest = Callable[[Collection[str]], Awaitable[None]]
"""Returns when no range of these data sources is open in the log; raises where one is."""


async def _unseen(names: Collection[str]) -> None:
    """Where there is no log to ask."""


class Rollout:
    """Carries out one deployment.

    Args:
        clickhouse: Where the tables are, with the rights of a deployer.
        record: The history of deployments.
        clock: Where times come from.
        say: Told what is going on, in words.
        rest: Asked, once the workers are at rest, whether the log thinks so too.
    """

    def __init__(
        self,
        clickhouse: ClickHouse,
        record: DeploymentRecord,
        clock: Clock,
        say: Callable[[str], None],
        *,
        rest: Rest = _unseen,
    ) -> None:
        self._clickhouse = clickhouse
        self._record = record
        self._clock = clock
        self._say = say
        self._rest = rest
        self._is_applying = False

    async def run(
        self,
        project: LoadedProject,
        plan: Plan,
        *,
        views: Mapping[str, ViewDefinition] | None = None,
        take_over: bool = False,
    ) -> RolledOut:
        """Apply a plan and make the project live.

        Args:
            project: A project without mistakes.
            plan: From ``plan_rollout``, made just now.
            views: What it was made with; the plan is made again before the first step, and has to
                come out the same.
            take_over: Begin although another deployment seems to be under way.

        Raises:
            DataLossRefusedError: The plan refuses something; nothing was changed.
            DeploymentUnderWayError: Another one is or was under way; nothing was changed, or it
                has taken over.
            DeploymentFailedError: ClickHouse refused a step; run it again.
            UnavailableError: A data source did not come to rest; nothing was changed.
        """
        refuse(plan)
        await self._record.prepare()
        live = await self._record.live()
        digest = hash_files(project.files)
        unfinished = await self._record.unfinished()
        if live is not None and live.hash == digest and not plan.steps and not unfinished:
            return RolledOut(plan=plan)
        if not take_over:
            self._refuse_second(unfinished)
        deployment = Deployment(
            # Above all others, whatever the clocks of their machines said.
            id=max(self._clock.now_ms(), await self._record.last_id() + 1),
            owner=uuid.uuid4().hex,
            status="begun",
            hash=digest,
            files=project.files,
            steps=tuple(step.summary for step in plan.steps),
            disturbs=tuple(sorted(plan.disturbed)),
        )
        self._is_applying = False
        await self._write(deployment, "begun")
        repeating = asyncio.create_task(self._repeat(deployment))
        try:
            await self._carry_out(deployment, plan, project.workspace, views, take_over)
        except BaseException as error:
            await self._end(repeating)
            status: Status = "halted" if self._is_applying else "failed"
            is_told = isinstance(error, asyncio.CancelledError)
            message = "it was ended by a signal" if is_told else str(error) or type(error).__name__
            await self._tell_end(deployment, status, message)
            raise
        await self._end(repeating)
        await self._write(deployment, "live")
        return RolledOut(plan=plan, id=deployment.id)

    async def _carry_out(
        self,
        deployment: Deployment,
        plan: Plan,
        workspace: Workspace,
        views: Mapping[str, ViewDefinition] | None,
        take_over: bool,
    ) -> None:
        """Everything between the first and the last row of a deployment."""
        if not take_over:
            # Of two that began at the same moment the older one goes on.
            own = (deployment.id, deployment.owner)
            unfinished = await self._record.unfinished()
            self._refuse_second([d for d in unfinished if (d.id, d.owner) < own])
        await self._wait_for_rest(deployment)
        if views is not None:
            again = await plan_rollout(self._clickhouse, workspace, views)
            if again != plan:
                raise DeploymentUnderWayError(
                    "The tables were changed since the plan was made.",
                    hint="Nothing was changed by this deployment; run it again.",
                )
        self._is_applying = True
        await self._write(deployment, "applying")
        failed = await apply(self._clickhouse, plan, lambda: self._require_ours(deployment))
        if failed:
            raise _halted(deployment, failed)
        await self._require_ours(deployment)

    async def _require_ours(self, deployment: Deployment) -> None:
        """A process that was suspended may wake up when another has taken its place."""
        later = [
            d.id
            for d in await self._record.unfinished()
            if d.id > deployment.id and d.status != "begun"
        ]
        live = await self._record.live_id()
        if later or live >= deployment.id:
            raise DeploymentUnderWayError(
                f"Deployment {max([*later, live])} has taken over from this one.",
                hint="What this one had done stays; the other goes on from there.",
            )

    def _refuse_second(self, unfinished: Collection[Deployment]) -> None:
        for other in unfinished:
            if other.status == "halted" or other.age_ms >= ABANDONED_AFTER_MS:
                continue
            raise DeploymentUnderWayError(
                f"Deployment {other.id} is under way; it was heard of"
                f" {max(other.age_ms, 0) / 1000:.0f} s ago.",
                hint=f"Wait for it; if it was killed, {ABANDONED_AFTER_MS // 1000} s are"
                " enough, or give --take-over.",
            )

    async def _wait_for_rest(self, deployment: Deployment) -> None:
        """Until nothing is under way of what the deployment disturbs."""
        if not deployment.disturbs:
            return
        self._say(f"Waiting until at rest: {', '.join(deployment.disturbs)}")
        begun_s = self._clock.monotonic()
        while busy := await self._busy(deployment):
            if self._clock.monotonic() - begun_s > REST_TIMEOUT_S:
                raise UnavailableError(
                    f"Not at rest after {REST_TIMEOUT_S:g} s: {', '.join(busy)}.",
                    hint="Nothing was changed. Look at the workers' logs, or stop them.",
                )
            await asyncio.sleep(POLL_S)
        await self._rest(deployment.disturbs)

    async def _busy(self, deployment: Deployment) -> list[str]:
        """Workers that have not come to rest, else inserts that a server still runs for one."""
        workers = await self._record.workers()
        answered = [w for w in workers if w.pausing >= deployment.id]
        restless = {name for w in answered for name in w.restless} & set(deployment.disturbs)
        if restless:
            raise UnavailableError(
                f"Data sources with a range under way that does not end: {sorted(restless)}.",
                hint="The workers' logs say what they wait for; nothing was changed.",
            )
        if silent := [f"worker {w.worker}" for w in workers if w not in answered]:
            return silent
        # A worker that was killed may have left one behind.
        return [
            f"insert {query_id}"
            for name in deployment.disturbs
            for query_id in await self._clickhouse.running(f"{TOKEN_PREFIX}:{name}:")
        ]

    async def _repeat(self, deployment: Deployment) -> None:
        """Say again and again that the deployment is under way."""
        while True:
            await asyncio.sleep(REPEAT_S)
            try:
                await self._write(deployment, "applying" if self._is_applying else "begun")
            except AppError as error:
                log.warning("deployment_not_repeated", error=str(error))

    async def _end(self, repeating: asyncio.Task[None]) -> None:
        repeating.cancel()
        await asyncio.wait([repeating])

    async def _tell_end(self, deployment: Deployment, status: Status, message: str) -> None:
        """Record how it ended; a server that restarts is waited for, in vain at most."""
        for attempt in range(END_ATTEMPTS):
            try:
                await self._write(deployment, status, message)
            except AppError as error:
                log.warning("deployment_end_not_recorded", attempt=attempt, error=str(error))
                await asyncio.sleep(1.0)
            else:
                return
        if deployment.disturbs:
            self._say(
                f"ClickHouse does not take the end of this deployment:"
                f" {', '.join(deployment.disturbs)} may stay at rest until you deploy again."
            )

    async def _write(self, deployment: Deployment, status: Status, message: str = "") -> None:
        row = structs.replace(
            deployment,
            status=status,
            message=message,
            files=deployment.files if status == "live" else (),
        )
        await self._record.write(row)


def _halted(deployment: Deployment, failed: Mapping[str, AppError]) -> DeploymentFailedError:
    message = "; ".join(f"{name}: {error.message}" for name, error in failed.items())
    at_rest = f" {', '.join(deployment.disturbs)} stay at rest." if deployment.disturbs else ""
    return DeploymentFailedError(
        f"ClickHouse refused a step: {message}",
        hint=f"The other steps were done.{at_rest} Mend it and deploy again.",
    )


def refuse(plan: Plan) -> None:
    """Raise when the plan would have to destroy or rewrite data.

    Raises:
        DataLossRefusedError: With one entry a refusal.
    """
    if not plan.refusals:
        return
    lines = [f"{r.resource}: {r.reason}" for r in plan.refusals]
    raise DataLossRefusedError(
        f"Nothing was deployed; {len(lines)} changes are refused: {'; '.join(lines)}",
        hint=plan.refusals[0].hint,
        errors=[{"resource": r.resource, "error": r.reason, "hint": r.hint} for r in plan.refusals],
    )
