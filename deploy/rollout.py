"""``pipehouse deploy``: bring a project into the ClickHouse that other processes work with.

1. Check every pipe against empty tables; nothing is changed while the files have a mistake.
2. Plan against the live tables; nothing is changed where a step would destroy or rewrite data.
3. Say that a deployment begins. Workers bring the data sources that it disturbs to rest.
4. Apply the steps, one at a time.
5. Record the files as live: workers and query servers switch to them within seconds.

A deployment that stops half-way leaves what it disturbs at rest, events wait in the log, and
running it again does what is left.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping

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


class Rollout:
    """One deployment.

    Args:
        clickhouse: Where the tables are, with the rights of a deployer.
        record: The history of deployments.
        clock: Where times come from.
        say: Told what is going on, in words.
    """

    def __init__(
        self,
        clickhouse: ClickHouse,
        record: DeploymentRecord,
        clock: Clock,
        say: Callable[[str], None],
    ) -> None:
        self._clickhouse = clickhouse
        self._record = record
        self._clock = clock
        self._say = say

    async def run(
        self, project: LoadedProject, plan: Plan, *, take_over: bool = False
    ) -> RolledOut:
        """Apply a plan and make the project live.

        Args:
            project: A project without mistakes.
            plan: From ``plan_rollout``, made just now.
            take_over: Begin although another deployment seems to be under way.

        Raises:
            DataLossRefusedError: The plan refuses something; nothing was changed.
            DeploymentUnderWayError: Another one is under way; nothing was changed.
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
            id=max(self._clock.now_ms(), (live.id if live else 0) + 1),
            status="applying",
            at_ms=self._clock.now_ms(),
            hash=digest,
            files=project.files,
            steps=tuple(step.summary for step in plan.steps),
            disturbs=tuple(sorted(plan.disturbed)),
        )
        await self._write(deployment, "applying")
        await self._guarded(deployment, plan, take_over)
        await self._write(deployment, "live")
        return RolledOut(plan=plan, id=deployment.id)

    async def _guarded(self, deployment: Deployment, plan: Plan, take_over: bool) -> None:
        """Everything between the first and the last row of a deployment."""
        repeating = asyncio.create_task(self._repeat(deployment))
        try:
            if not take_over:
                # Of two that began at the same moment the older one goes on.
                earlier = [d for d in await self._record.unfinished() if d.id < deployment.id]
                self._refuse_second(earlier)
            await self._wait_for_rest(deployment)
        except BaseException as error:
            await self._end(repeating)
            await self._write(deployment, "failed", str(error) or type(error).__name__)
            raise
        try:
            failed = await apply(self._clickhouse, plan)
        except BaseException as error:
            await self._end(repeating)
            await self._write(deployment, "halted", str(error) or type(error).__name__)
            raise
        await self._end(repeating)
        if failed:
            await self._halt(deployment, failed)

    async def _halt(self, deployment: Deployment, failed: Mapping[str, AppError]) -> None:
        message = "; ".join(f"{name}: {error.message}" for name, error in failed.items())
        await self._write(deployment, "halted", message)
        at_rest = f" {', '.join(deployment.disturbs)} stay at rest." if deployment.disturbs else ""
        raise DeploymentFailedError(
            f"ClickHouse refused a step: {message}",
            hint=f"The other steps were done.{at_rest} Mend it and deploy again.",
        )

    def _refuse_second(self, unfinished: Collection[Deployment]) -> None:
        now_ms = self._clock.now_ms()
        for other in unfinished:
            age_ms = now_ms - other.at_ms
            if other.status == "applying" and age_ms < ABANDONED_AFTER_MS:
                raise DeploymentUnderWayError(
                    f"Deployment {other.id} is under way; it was heard of {age_ms / 1000:.0f} s"
                    " ago.",
                    hint=f"Wait for it; if it was killed, {ABANDONED_AFTER_MS // 1000} s are"
                    " enough, or give --take-over.",
                )

    async def _wait_for_rest(self, deployment: Deployment) -> None:
        """Until every living worker holds at rest what the deployment disturbs."""
        if not deployment.disturbs:
            return
        self._say(f"Waiting until at rest: {', '.join(deployment.disturbs)}")
        wanted = set(deployment.disturbs)
        begun_s = self._clock.monotonic()
        while True:
            workers = await self._record.workers()
            answered = [w for w in workers if w.pausing >= deployment.id]
            restless = {name for w in answered for name in w.restless} & wanted
            if restless:
                raise UnavailableError(
                    f"Data sources with a range under way that does not end: {sorted(restless)}.",
                    hint="The workers' logs say what they wait for; nothing was changed.",
                )
            silent = [w.worker for w in workers if w not in answered]
            if not silent:
                return
            if self._clock.monotonic() - begun_s > REST_TIMEOUT_S:
                raise UnavailableError(
                    f"Workers that did not come to rest in {REST_TIMEOUT_S:g} s: {silent}.",
                    hint="Nothing was changed. Look at their logs, or stop them.",
                )
            await asyncio.sleep(POLL_S)

    async def _repeat(self, deployment: Deployment) -> None:
        """Say again and again that the deployment is under way."""
        while True:
            await asyncio.sleep(REPEAT_S)
            try:
                await self._write(deployment, "applying")
            except AppError as error:
                log.warning("deployment_not_repeated", error=str(error))

    async def _end(self, repeating: asyncio.Task[None]) -> None:
        repeating.cancel()
        await asyncio.wait([repeating])

    async def _write(self, deployment: Deployment, status: Status, message: str = "") -> None:
        row = structs.replace(
            deployment,
            status=status,
            at_ms=max(self._clock.now_ms(), deployment.at_ms + (status != "applying")),
            message=message,
            files=deployment.files if status == "live" else (),
        )
        await self._record.write(row)


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
