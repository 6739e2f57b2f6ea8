"""A project in an engine that is thrown away: what ``check`` and ``test`` work against."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from msgspec import Struct, structs

from deploy.release import Released, Releaser
from query.serving import Serving
from shared.clickhouse.embedded import EmbeddedClickHouse, open_embedded
from shared.clock import SystemClock
from shared.datafile.project import LoadedProject, load_project
from shared.model.resources import Datasource
from shared.model.workspace import Workspace


class Throwaway(Struct, frozen=True, kw_only=True):
    """An engine with the project's tables in it, and what the release of the project came to."""

    clickhouse: EmbeddedClickHouse
    serving: Serving
    released: Released


@asynccontextmanager
async def throwaway(
    folders: Sequence[Path], environ: Mapping[str, str], *, keep_ttl: bool = True
) -> AsyncIterator[Throwaway]:
    """Release a project into an engine in a temporary folder, which is removed afterwards.

    Args:
        folders: The project.
        environ: Where secrets may come from.
        keep_ttl: Without it rows with old dates, as fixtures have them, do not vanish at once.
    """
    folder = Path(tempfile.mkdtemp(prefix="pipehouse-"))
    try:
        clickhouse = await open_embedded(folder / "clickhouse")
        try:
            project = load_project(folders, environ)
            if not keep_ttl:
                project = _without_ttl(project)
            serving = Serving(clickhouse.parse, clickhouse.database)
            releaser = Releaser(clickhouse, serving, None, SystemClock())
            released = await releaser.release(project)
            yield Throwaway(clickhouse=clickhouse, serving=serving, released=released)
        finally:
            await clickhouse.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _without_ttl(project: LoadedProject) -> LoadedProject:
    def strip(datasource: Datasource) -> Datasource:
        return structs.replace(datasource, engine=structs.replace(datasource.engine, ttl=None))

    old: Workspace = project.workspace
    datasources = {n: strip(d) for n, d in old.datasources.items()}
    workspace = structs.replace(old, datasources=datasources)
    return structs.replace(project, workspace=workspace)
