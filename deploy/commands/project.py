"""The commands that work on the files of a project."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import click
import msgspec

from deploy import testing
from deploy.commands.base import (
    EXIT_BAD,
    EXIT_NOT_LOADED,
    FOLDERS,
    complain,
    report,
    say,
)
from deploy.fixtures import find_fixtures, load_fixture, skipped_fixtures
from deploy.generate import sample_rows
from deploy.release import Released
from deploy.throwaway import throwaway
from shared.clickhouse.contract import ClickHouse
from shared.datafile.project import load_project
from shared.errors import DatafileError
from shared.logs import configure_logging
from shared.settings import load_settings

MAX_BAD_ROWS = 20
"""How many rows of fixtures are told one by one."""


@click.command()
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


@click.command()
@FOLDERS
@click.option("--verbose", "-v", is_flag=True, help="Print passed cases too.")
def test(folders: tuple[Path, ...], verbose: bool) -> None:
    """Run the cases of tests/ against the fixtures, in a database that is thrown away.

    Its engine is the embedded one, or the server of PIPEHOUSE_CLICKHOUSE_URL.
    """
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
    url = load_settings(os.environ).clickhouse_url
    async with throwaway(folders, os.environ, keep_ttl=False, clickhouse_url=url) as engine:
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
    datasources = released.workspace.datasources
    for skipped in skipped_fixtures(folders, datasources):
        complain(skipped)
    bad_rows = 0
    for fixture in find_fixtures(folders, datasources):
        for rejection in await load_fixture(clickhouse, fixture):
            bad_rows += 1
            if bad_rows > MAX_BAD_ROWS:
                continue
            reasons = "; ".join(
                f"{e.column}: {e.message}" if e.column else e.message for e in rejection.errors
            )
            complain(f"{fixture.path}:{fixture.lines[rejection.offset]}: {reasons}")
    if bad_rows:
        rows = (
            "1 row of the fixtures does" if bad_rows == 1 else f"{bad_rows} rows of the fixtures do"
        )
        raise DatafileError(f"{rows} not fit; nothing was tested.")


@click.command()
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
