"""A project in an engine that is thrown away: what ``check`` and ``test`` work against."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from msgspec import Struct, structs

from deploy.engine import Engine, throwaway_engine
from deploy.release import Released, Releaser
from query.serving import Serving
from shared.clock import SystemClock
from shared.datafile.project import LoadedProject, load_project
from shared.model.resources import Datasource
from shared.model.workspace import Workspace


class Throwaway(Struct, frozen=True, kw_only=True):
    """An engine with the project's tables in it, and what the release of the project came to."""

    clickhouse: Engine
    serving: Serving
    released: Released


@asynccontextmanager
async def throwaway(
    folders: Sequence[Path],
    environ: Mapping[str, str],
    *,
    keep_ttl: bool = True,
    clickhouse_url: str | None = None,
) -> AsyncIterator[Throwaway]:
    """Release a project into an empty engine that goes with it.

    Args:
        folders: The project.
        environ: Where secrets may come from.
        keep_ttl: Without it rows with old dates, as fixtures have them, do not vanish at once.
        clickhouse_url: A server to use instead of the embedded engine.
    """
    folder = Path(tempfile.mkdtemp(prefix="pipehouse-"))
    try:
        async with throwaway_engine(folder, clickhouse_url) as clickhouse:
            project = load_project(folders, environ)
            if not keep_ttl:
                project = _without_ttl(project)
            serving = Serving(clickhouse.parse, clickhouse.database)
            releaser = Releaser(clickhouse, serving, None, SystemClock())
            released = await releaser.release(project)
            yield Throwaway(clickhouse=clickhouse, serving=serving, released=released)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _without_ttl(project: LoadedProject) -> LoadedProject:
    def strip(datasource: Datasource) -> Datasource:
        return structs.replace(datasource, engine=structs.replace(datasource.engine, ttl=None))

    old: Workspace = project.workspace
    datasources = {n: strip(d) for n, d in old.datasources.items()}
    workspace = structs.replace(old, datasources=datasources)
    return structs.replace(project, workspace=workspace)
