"""``pipehouse deploy``: bring a project into ClickHouse, for every process that works with it."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import sys
from collections.abc import Collection, Coroutine, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

import click
import msgspec
from msgspec import Struct, structs

from deploy.bootstrap import ROLES, User, statements, users
from deploy.commands.base import EXIT_BAD, EXIT_NOT_LOADED, complain, report, say
from deploy.ddl import ViewDefinition
from deploy.engine import Engine, open_server_engine
from deploy.open_ranges import open_ranges
from deploy.operate.logs import KafkaFeeds
from deploy.own_tables import prepare_own_tables
from deploy.plan import Plan
from deploy.record import DeploymentRecord
from deploy.rollout import RolledOut, Rollout, plan_rollout, refuse
from deploy.state import read_state
from deploy.throwaway import throwaway
from ingest.worker import takes_events
from shared.auth.opening import open_tokens
from shared.auth.tokens import load_or_create_admin_token
from shared.clickhouse.contract import Statement
from shared.clickhouse.server import open_server
from shared.clickhouse.url import ServerUrl, parse_url
from shared.clock import SystemClock
from shared.datafile.project import load_project, parse_project
from shared.errors import ConfigError, UnavailableError
from shared.logs import configure_logging
from shared.settings import Settings, load_settings


@click.command()
@click.argument(
    "folders",
    nargs=-1,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="FOLDER...",
)
@click.option("--check", is_flag=True, help="Print what would be done, and do nothing.")
@click.option("--bootstrap", is_flag=True, help="Make the databases and least-privilege users.")
@click.option("--take-over", is_flag=True, help="Begin although a deployment seems under way.")
@click.option("--open-ranges", is_flag=True, help="Change tables although a range is open.")
@click.option("--history", is_flag=True, help="List the last deployments.")
@click.option("--json", "as_json", is_flag=True, help="Print the plan or the history as JSON.")
def deploy(
    folders: tuple[Path, ...],
    check: bool,
    bootstrap: bool,
    take_over: bool,
    open_ranges: bool,
    history: bool,
    as_json: bool,
) -> None:
    """Deploy projects to the ClickHouse of PIPEHOUSE_CLICKHOUSE_URL."""
    settings = load_settings(os.environ)
    configure_logging(form=settings.log_format or "console", level="warning")
    if bootstrap:
        asyncio.run(_bootstrap(settings, only_print=check))
    elif history:
        asyncio.run(_history(settings, as_json))
    elif not folders and settings.project is None:
        raise click.UsageError("Name the FOLDER of a project, or set PIPEHOUSE_PROJECT.")
    else:
        chosen = folders or (settings.project or Path.cwd(),)
        how = _How(check=check, take_over=take_over, open_ranges=open_ranges, as_json=as_json)
        _run_until_told(_deploy(settings, chosen, how))


class _How(Struct, frozen=True, kw_only=True):
    """The flags of a deployment."""

    check: bool
    take_over: bool
    open_ranges: bool
    as_json: bool


def _run_until_told(work: Coroutine[Any, Any, int]) -> NoReturn:
    """Run to the end, or to a signal: a deployment that is ended says so before it goes."""
    told: list[int] = []

    async def run() -> int:
        task = asyncio.ensure_future(work)

        def end(number: signal.Signals) -> None:
            told.append(number)
            task.cancel()

        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, end, number)
        return await task

    try:
        code = asyncio.run(run())
    except asyncio.CancelledError:
        complain("pipehouse: The deployment was ended by a signal; deploy again.")
        code = 128 + told[0]
    sys.exit(code)


async def _deploy(settings: Settings, folders: Sequence[Path], how: _How) -> int:
    project = load_project(folders, os.environ)
    views = await _checked_views(folders)
    if views is None:
        complain("pipehouse: Nothing was deployed; mend the project first.")
        return EXIT_NOT_LOADED
    engine = await open_server_engine(settings, "deploy")
    try:
        clock = SystemClock()
        plan = await plan_rollout(engine, project.workspace, views)
        if how.as_json:
            say(msgspec.json.encode(plan).decode())
        else:
            _print(plan)
        if how.check:
            return EXIT_BAD if plan.refusals else 0
        refuse(plan)
        record = DeploymentRecord(engine)
        # All of them now: the users of the other processes may not make any.
        await prepare_own_tables(engine)
        # Before anything is changed: with the wrong secret no token could be made afterwards.
        token = load_or_create_admin_token(settings.data, settings.admin_token)
        tokens = await open_tokens(engine, settings, admin_token=token, clock=clock)
        rest = _Rest(settings, engine, record, go_on=how.open_ranges)
        rollout = Rollout(engine, record, clock, complain, rest=rest.check)
        done = await rollout.run(project, plan, views=views, take_over=how.take_over)
        if not how.as_json:
            _tell(done)
        await tokens.apply_workspace(project.workspace)
        return 0
    finally:
        await engine.close()


def _tell(done: RolledOut) -> None:
    if done.id is None:
        say("Nothing to do: this project is live already.")
    else:
        say(f"Deployment {done.id} is live; running processes switch within seconds.")


class _Rest:
    """Sees in the log whether data sources are at rest, also those that no worker reads."""

    def __init__(
        self, settings: Settings, clickhouse: Engine, record: DeploymentRecord, *, go_on: bool
    ) -> None:
        self._settings = settings
        self._clickhouse = clickhouse
        self._record = record
        self._go_on = go_on

    async def check(self, names: Collection[str]) -> None:
        """Return when no range is open.

        Raises:
            UnavailableError: One is, or the log does not answer.
        """
        # As they are deployed, not as they will be: ranges belong to the groups of now.
        state = await read_state(self._clickhouse)
        live = await self._record.live()
        files = live.files if live is not None else ()
        connections = parse_project(files, os.environ).workspace.connections
        feeds = KafkaFeeds(self._settings, lambda: connections)
        try:
            fed = [state.datasources[name] for name in names if name in state.datasources]
            found, unknown = await open_ranges(feeds.feed, filter(takes_events, fed))
        finally:
            await feeds.close()
        if unknown:
            complain(
                f"  The log of {', '.join(unknown)} is not known here, so only workers were asked"
                " whether ranges are open; PIPEHOUSE_KAFKA_BOOTSTRAP_SERVERS names it."
            )
        if found and not self._go_on:
            raise UnavailableError(
                f"Ranges are open that no worker completes: {'; '.join(found)}.",
                hint="Nothing was changed. Start pipehouse ingest, or wait a minute where a worker"
                " was killed, and deploy again. If they wait for a view that this deployment mends,"
                " give --open-ranges.",
            )


async def _checked_views(folders: Sequence[Path]) -> Mapping[str, ViewDefinition] | None:
    """The views of a project without mistakes; None, and a report, where there are some."""
    async with throwaway(folders, os.environ) as engine:
        report(engine.released.diagnostics)
        return engine.released.views if engine.released.is_clean else None


def _print(plan: Plan) -> None:
    for step in plan.steps:
        rest = f"  (at rest meanwhile: {', '.join(step.disturbs)})" if step.disturbs else ""
        say(f"  {step.summary}{rest}")
    for refusal in plan.refusals:
        complain(f"  REFUSED {refusal.resource}: {refusal.reason}. {refusal.hint}")
    for name in plan.kept:
        say(f"  {name} is no longer in the files; its table is kept")
    if not plan.steps and not plan.refusals:
        say("  no table or view changes")


# bootstrap ----------------------------------------------------------------------------------------


async def _bootstrap(settings: Settings, *, only_print: bool) -> None:
    if settings.clickhouse_url is None:
        raise ConfigError(
            "pipehouse deploy --bootstrap needs a ClickHouse server.",
            hint="Set PIPEHOUSE_CLICKHOUSE_URL to the URL of a user who may create users.",
        )
    url = parse_url(settings.clickhouse_url)
    passwords = {role: "<password>" if only_print else new_password() for role in ROLES}
    accounts = users(url.database, passwords)
    lines = statements(url.database, accounts, replicates=len(url.hosts) > 1)
    if only_print:
        for line in lines:
            say(f"{line};")
        return
    for one in url.hosts:
        # The project's database may not exist yet.
        engine = await open_server(structs.replace(url, hosts=(one,), database="default"))
        try:
            for line in lines:
                await engine.execute(Statement(sql=line))
        finally:
            await engine.close()
    address, _, options = settings.clickhouse_url.rpartition("@")[2].partition("?")
    host = address.partition("/")[0]
    for user in accounts:
        if not await _may_log_in(url, user):
            say(f"{user.name} existed; its password was left as it is.")
            continue
        say(f"{user.name} was made, {_used_by(user)}. Its password is shown this once:")
        where = f"{host}?{options}" if options else host
        say(f"  PIPEHOUSE_CLICKHOUSE_URL='{user.url(where, url.database)}'")


def new_password() -> str:
    """A password that also servers take which ask for a character of every kind."""
    return f"{secrets.token_urlsafe(24)}-Aa1"


async def _may_log_in(url: ServerUrl, user: User) -> bool:
    own = structs.replace(url, user=user.name, password=user.password)
    try:
        engine = await open_server(own, writes=False)
    except ConfigError:
        return False
    await engine.close()
    return True


def _used_by(user: User) -> str:
    commands = {
        "writer": "pipehouse ingest, events and serve",
        "reader": "pipehouse query",
        "deployer": "pipehouse deploy",
    }
    return f"for {commands[user.role]}"


# history ------------------------------------------------------------------------------------------


async def _history(settings: Settings, as_json: bool) -> None:
    engine = await open_server_engine(settings, "deploy --history")
    try:
        found = await DeploymentRecord(engine).history()
    finally:
        await engine.close()
    for deployment in found:
        if as_json:
            say(msgspec.json.encode(deployment).decode())
        else:
            at = f"{datetime.fromtimestamp(deployment.at_ms / 1000, UTC):%Y-%m-%d %H:%M:%S}"
            line = f"{deployment.id}  {at}  {deployment.status:<8}  {len(deployment.steps)} steps"
            say(f"{line}  {deployment.message}".rstrip())
    if not found and not as_json:
        say("Nothing was ever deployed to this database.")
