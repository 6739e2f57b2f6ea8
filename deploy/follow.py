"""How a process keeps up with deployments: it asks the record, once a second, and switches.

A worker also brings to rest what a deployment under way disturbs, and says so. While ClickHouse
does not answer everything goes on as it was. What this process cannot read of a deployment, because
a secret is not set here, stays as it was, and is complained about.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping

import structlog

from deploy.last_good import AnySecret, fed_by, usable, with_missing_secrets
from deploy.record import Deployment, DeploymentRecord, Worker
from ingest.worker import Worker as Ingestion
from shared.clock import Clock, Deadline
from shared.datafile.project import parse_project
from shared.errors import AppError, UnavailableError
from shared.model.resources import Datasource
from shared.model.workspace import Workspace

log = structlog.get_logger(__name__)

POLL_S = 1.0
# A worker that serves nothing new still says that it lives.
BEAT_S = 3.0
REST_TIMEOUT_S = 45.0


class NotDeployedError(UnavailableError):
    """Nothing was deployed yet, so nothing is served."""

    code = "not_deployed"


class IncompleteError(UnavailableError):
    """This process cannot read a part of what is deployed."""

    code = "deployment_incomplete"


Switch = Callable[[Workspace, Deployment], Awaitable[None]]


class Follower:
    """Keeps one process at the live deployment.

    Args:
        record: The history of deployments.
        environ: Where secrets in the files come from.
        switch: Makes a workspace the one that is served.
        clock: Where times come from.
        ingestion: The pipelines of this process; None where nothing is ingested.
        answers: Whether this process renders templates, and so needs their secrets.
        name: What the process is called in the record.
    """

    def __init__(
        self,
        record: DeploymentRecord,
        environ: Mapping[str, str],
        switch: Switch,
        clock: Clock,
        *,
        ingestion: Ingestion | None = None,
        answers: bool = True,
        name: str = "",
    ) -> None:
        self._record = record
        self._environ = environ if ingestion is not None else AnySecret(environ)
        self._switch = switch
        self._clock = clock
        self._ingestion = ingestion
        self._answers = answers
        self._name = name
        self._workspace = Workspace()
        self._missing: Mapping[str, str] = {}
        self._restless: set[str] = set()
        self._resting: set[str] = set()
        self._pausing = 0
        self._is_known = False
        self.deployment = 0

    @property
    def missing_pipes(self) -> Mapping[str, str]:
        """The pipes that are deployed and cannot be used here, each with why, as one line."""
        return {
            file.removesuffix(".pipe"): problem
            for file, problem in self._missing.items()
            if file.endswith(".pipe")
        }

    async def check(self) -> None:
        """Return once something is deployed and all of it can be worked with.

        Raises:
            NotDeployedError: Nothing is.
            IncompleteError: Something of it cannot be read here, and never could be.
        """
        if not self.deployment:
            raise NotDeployedError("Nothing is deployed yet.", hint="Run pipehouse deploy FOLDER.")
        if self._missing:
            raise IncompleteError(
                f"Not used here: {'; '.join(self._missing.values())}",
                hint="Secrets are read from the environment of this process.",
            )

    async def run(self) -> None:
        """Keep up until cancelled."""
        while True:
            try:
                await self.turn()
            except AppError as error:
                log.warning("deployment_not_read", error=str(error), code=error.code)
            await asyncio.sleep(POLL_S)

    async def turn(self) -> None:
        """Look once, and do what follows.

        Raises:
            UnavailableError: ClickHouse does not answer; everything stays as it was.
        """
        if self._ingestion is not None and not self._is_known:
            # Before anything runs: a deployment that begins from now on waits for this worker.
            await self.beat()
            self._is_known = True
        unfinished = [] if self._ingestion is None else await self._record.unfinished()
        await self._rest(unfinished)
        if await self._record.live_id() != self.deployment:
            await self._load()
        if self._ingestion is not None:
            self._ingestion.start(self._without(self._resting))

    def _without(self, resting: set[str]) -> dict[str, Datasource]:
        return {n: d for n, d in self._workspace.datasources.items() if n not in resting}

    async def _load(self) -> None:
        live = await self._record.live()
        if live is None:
            return
        project = parse_project(live.files, self._environ)
        if self._answers:
            project = with_missing_secrets(project)
        found = usable(project, self._workspace)
        for file, problem in found.missing.items():
            log.error("deployed_file_not_used", file=file, problem=problem)
        for file, problem in found.kept.items():
            log.error("deployed_file_not_used", file=file, problem=problem, used="as it was before")
        before, after = fed_by(self._workspace), fed_by(found.workspace)
        changed = [name for name, old in before.items() if after.get(name) != old]
        if self._ingestion is not None and changed:
            await self._ingestion.pause(changed, Deadline(self._clock, REST_TIMEOUT_S))
        self._missing = found.missing
        await self._switch(found.workspace, live)
        self._workspace = found.workspace
        self.deployment = live.id
        log.info("deployment_live", deployment=live.id, hash=live.hash)

    async def _rest(self, unfinished: list[Deployment]) -> None:
        """Bring to rest what is to be changed, let go of what is not any more."""
        if self._ingestion is None:
            return
        wanted = {name for deployment in unfinished for name in deployment.disturbs}
        newest = max((d.id for d in unfinished), default=0)
        if newest > self._pausing and self._restless & wanted:
            # Another deployment, another try: what is open can only be completed while it runs.
            self._ingestion.start(self._without(self._resting - self._restless))
            self._resting -= self._restless
            self._restless = set()
        if new := sorted(wanted - self._resting):
            log.info("pausing_for_deployment", deployment=newest, datasources=new)
            deadline = Deadline(self._clock, REST_TIMEOUT_S)
            rested = await asyncio.gather(*(self._ingestion.pause([n], deadline) for n in new))
            self._restless |= {name for name, ok in zip(new, rested, strict=True) if not ok}
        self._resting = wanted
        self._restless &= wanted
        if newest != self._pausing:
            self._pausing = newest
            await self.beat()

    # The record -------------------------------------------------------------------------------

    async def keep_known(self) -> None:
        """Say that this worker lives, until cancelled; also while a turn takes long."""
        while True:
            await asyncio.sleep(BEAT_S)
            try:
                await self.beat()
            except AppError as error:
                log.warning("worker_not_recorded", error=str(error), code=error.code)

    async def beat(self, *, stopped: bool = False) -> None:
        """Say what this worker is at.

        Raises:
            AppError: ClickHouse does not answer, or refuses.
        """
        await self._record.beat(
            Worker(
                worker=self._name,
                deployment=self.deployment,
                pausing=self._pausing,
                paused=tuple(sorted(self._resting - self._restless)),
                restless=tuple(sorted(self._restless)),
                stopped=stopped,
            )
        )

    async def leave(self) -> None:
        """Say that this worker has stopped; its pipelines have."""
        try:
            await self.beat(stopped=True)
        except AppError as error:
            log.warning("leave_not_recorded", error=str(error))
