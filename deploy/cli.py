"""The ``pipehouse`` command: one function a command; our errors are one line and an exit code.

Exit codes: 0 done; 1 the thing asked about is bad; 2 usage; 3 the project does not load; 4 cannot
start; 5 a needed service cannot be reached; 130 and 143 after a drain on a signal.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import msgspec

from deploy import testing
from deploy.dev import DevOptions, start_dev
from deploy.fixtures import find_fixtures, load_fixture
from deploy.generate import sample_rows
from deploy.release import Released, endpoints
from deploy.throwaway import throwaway
from deploy.welcome import welcome
from shared.clickhouse.contract import ClickHouse
from shared.datafile.diagnostics import Diagnostic
from shared.datafile.project import load_project
from shared.errors import AppError, ConfigError, DatafileError
from shared.logs import configure_logging
from shared.settings import Settings, load_settings
from shared.supervise import Service, run_service

EXIT_BAD = 1
EXIT_NOT_LOADED = 3

FOLDERS = click.argument(
    "folders",
    nargs=-1,
    required=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="FOLDER...",
)


def say(text: str = "") -> None:
    """A line of the command's answer."""
    click.echo(text)


def complain(text: str) -> None:
    """A line about what is wrong."""
    click.echo(text, err=True)


class _Group(click.Group):
    """Turns our errors into one line and their exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except AppError as error:
            complain(f"pipehouse: {error}")
            ctx.exit(error.exit_code)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="pipehouse", message="%(prog)s %(version)s")
def main() -> None:
    """Real-time analytics from files: events in, ClickHouse in the middle, endpoints out."""


# dev ----------------------------------------------------------------------------------------------


@main.command()
@FOLDERS
@click.option("--host", help="Address to listen on.")
@click.option("--port", type=int, help="Port to listen on; 0 picks a free one.")
@click.option("--data", type=click.Path(path_type=Path), help="Folder for data.")
@click.option("--fixtures", is_flag=True, help="Load fixtures/ into empty data sources.")
@click.option("--no-watch", is_flag=True, help="Do not reload when files change.")
def dev(folders: tuple[Path, ...], fixtures: bool, no_watch: bool, **flags: Any) -> None:
    """Run projects on this machine: engine, log, ingestion and endpoints in one process."""
    settings = load_settings(os.environ, flags)
    _require_safe_address(settings)
    configure_logging(form=settings.log_format, level=settings.log_level)

    async def serve(service: Service) -> None:
        first = True

        def on_release(released: Released) -> None:
            nonlocal first
            report(released.diagnostics)
            if not first:
                count = len(endpoints(released.workspace))
                say(f"Reloaded: {len(released.plan.steps)} changes, {count} endpoints served.")
                if not released.is_clean:
                    say("What is broken goes on as it was before.")
            first = False

        options = DevOptions(
            folders=folders,
            environ=tuple(os.environ.items()),
            fixtures=fixtures,
            watch=not no_watch,
            on_release=on_release,
        )
        running = await start_dev(service, settings, options)
        is_own = settings.admin_token is None
        shown = running.token if is_own and sys.stdout.isatty() else None
        token_file = (settings.data / "admin_token").resolve() if is_own else None
        for line in welcome(running.released, running.url, token_file, shown):
            say(line)
        sys.stdout.flush()

    sys.exit(run_service(serve, shutdown_timeout_s=settings.shutdown_timeout_s))


def _require_safe_address(settings: Settings) -> None:
    """A token that others may know must not guard an address that others can reach."""
    is_local = settings.host in ("127.0.0.1", "::1", "localhost")
    if not is_local and settings.admin_token is None:
        raise ConfigError(
            f"Refusing to listen on {settings.host} with a generated token.",
            hint="Set PIPEHOUSE_ADMIN_TOKEN to a secret of your own.",
        )


def report(diagnostics: Iterable[Diagnostic]) -> None:
    """Every problem with its place."""
    for diagnostic in diagnostics:
        complain(diagnostic.render())


# check and test -----------------------------------------------------------------------------------


@main.command()
@FOLDERS
@click.option("--json", "as_json", is_flag=True, help="Print problems as JSON lines.")
def check(folders: tuple[Path, ...], as_json: bool) -> None:
    """Check projects offline, with ClickHouse's own types."""
    configure_logging(form="console", level="error")
    released = asyncio.run(_check(folders))
    if as_json:
        for diagnostic in released.diagnostics:
            say(msgspec.json.encode(diagnostic.as_error()).decode())
    else:
        report(released.diagnostics)
    if not released.is_clean:
        sys.exit(EXIT_NOT_LOADED)
    if not as_json:
        workspace = released.workspace
        say(f"{len(workspace.datasources)} data sources and {len(workspace.pipes)} pipes are fine.")


async def _check(folders: Sequence[Path]) -> Released:
    async with throwaway(folders, os.environ) as engine:
        return engine.released


@main.command()
@FOLDERS
@click.option("--verbose", "-v", is_flag=True, help="Print passed cases too.")
def test(folders: tuple[Path, ...], verbose: bool) -> None:
    """Run the cases of tests/ against the fixtures, in an engine that is thrown away."""
    configure_logging(form="console", level="error")
    outcomes = asyncio.run(_test(folders))
    for outcome in outcomes:
        place = f"{outcome.case.path}: {outcome.case.name}"
        if not outcome.passed:
            say(f"FAILED {place}\n{outcome.difference}")
        elif verbose:
            say(f"passed {place}")
    say(testing.summarise(outcomes))
    if not outcomes:
        complain("pipehouse: no cases were found; they are files tests/<pipe>.yaml.")
    if not outcomes or any(not o.passed for o in outcomes):
        sys.exit(EXIT_BAD)


async def _test(folders: Sequence[Path]) -> list[testing.Outcome]:
    cases = [case for folder in folders for case in testing.find_cases(folder)]
    async with throwaway(folders, os.environ, keep_ttl=False) as engine:
        released = engine.released
        if not released.is_clean:
            report(released.diagnostics)
            raise DatafileError("The project has errors; nothing was tested.")
        await _load_fixtures(engine.clickhouse, released, folders)
        planner = engine.serving.planner
        return [
            await testing.run_case(engine.clickhouse, planner, released.workspace, case)
            for case in cases
        ]


async def _load_fixtures(
    clickhouse: ClickHouse, released: Released, folders: Sequence[Path]
) -> None:
    for fixture in find_fixtures(folders, released.workspace.datasources):
        for rejection in await load_fixture(clickhouse, fixture):
            reasons = "; ".join(f"{e.column}: {e.message}" for e in rejection.errors)
            raise DatafileError(f"{fixture.path}:{rejection.offset + 1}: {reasons}")


# generate -----------------------------------------------------------------------------------------


@main.command()
@click.argument("datasource")
@click.option("--rows", type=click.IntRange(min=0), default=10, show_default=True)
@click.option("--seed", type=int, help="The same seed gives the same values.")
@click.option(
    "--until",
    type=click.DateTime(),
    help="Times lie in the 24 hours before (UTC); now by default.",
)
@click.option(
    "--project",
    "folders",
    multiple=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of the project; may be given several times. PIPEHOUSE_PROJECT by default, else"
    " the current folder.",
)
def generate(
    datasource: str,
    rows: int,
    seed: int | None,
    until: datetime | None,
    folders: tuple[Path, ...],
) -> None:
    """Print plausible events for a data source as NDJSON."""
    settings = load_settings(os.environ)
    project = load_project(folders or (settings.project or Path.cwd(),), os.environ)
    if datasource not in project.workspace.datasources:
        report(d for d in project.diagnostics if d.severity == "error")
    found = project.workspace.datasource(datasource)
    end = until.replace(tzinfo=UTC) if until else datetime.now(UTC)
    for row in sample_rows(found, rows, seed=seed, until=end):
        click.echo(row)


if __name__ == "__main__":
    main()
