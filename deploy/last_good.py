"""What a process can use of a deployment whose files it reads in its own environment; pure.

Files are checked before they are deployed, but a secret may be missing where a process runs. What
cannot be read then stays as it was before; what never could be is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import PurePosixPath
from typing import TypeVar

from msgspec import Struct, field, structs

from deploy.check import missing_secrets
from query.template.compile import compile_template
from shared.datafile.diagnostics import Diagnostic
from shared.datafile.project import LoadedProject
from shared.datafile.secrets import secrets_of_templates
from shared.errors import TemplateError
from shared.model.resources import Connection, Datasource
from shared.model.workspace import SecretValues, Workspace

T = TypeVar("T")

Kind = tuple[str, str]


class Usable(Struct, frozen=True, kw_only=True):
    """A workspace, and the problems of what is ``missing`` in it or ``kept`` from before.

    Both are by file name, each with its first problem as one line.
    """

    workspace: Workspace
    missing: Mapping[str, str] = field(default_factory=dict)
    kept: Mapping[str, str] = field(default_factory=dict)


class AnySecret(dict[str, str]):
    """An environment for those who log in nowhere: a secret that is not set reads as its name.

    Of a process that only answers queries nobody should have to ask the secrets of Kafka. What
    templates read of secrets is looked up otherwise, and stays exact.
    """

    def __bool__(self) -> bool:
        return True

    def get(self, name: str, default: str | None = None) -> str:  # type: ignore[override]
        """The value, else the default, else the name."""
        return super().get(name) or default or name


def usable(project: LoadedProject, before: Workspace) -> Usable:
    """The part of a project that can be worked with.

    Args:
        project: As this process reads it.
        before: What it works with until now.
    """
    new = project.workspace
    problems = _problems(project)
    kept = [name for kind, name in problems if kind == "pipe"]
    workspace = structs.replace(
        new,
        datasources=_good("datasource", new.datasources, before.datasources, problems),
        pipes=_good("pipe", new.pipes, before.pipes, problems),
        secrets=kept_secrets(new, before, kept),
        connections=_good("connection", new.connections, before.connections, problems),
    )
    there = {("datasource", name) for name in workspace.datasources}
    there |= {("pipe", name) for name in workspace.pipes}
    there |= {("connection", name) for name in workspace.connections}
    return Usable(
        workspace=workspace,
        missing={f"{n}.{k}": text for (k, n), text in problems.items() if (k, n) not in there},
        kept={f"{n}.{k}": text for (k, n), text in problems.items() if (k, n) in there},
    )


def kept_secrets(new: Workspace, before: Workspace, kept: Iterable[str]) -> SecretValues:
    """The secrets of a workspace some of whose pipes, ``kept``, are still as they were before."""
    old = (node.sql for name in kept if name in before.pipes for node in before.pipes[name].nodes)
    return SecretValues({**secrets_of_templates(old, before.secrets), **new.secrets})


def with_missing_secrets(project: LoadedProject) -> LoadedProject:
    """The project with a problem for every secret that a template needs and that is not set."""
    secrets = project.workspace.secrets
    found: list[Diagnostic] = []
    for pipe in project.workspace.pipes.values():
        for node in pipe.nodes:
            # What does not compile tells those who ask for it.
            with suppress(TemplateError):
                found += missing_secrets(node, secrets, lambda n: compile_template(n.sql))
    return structs.replace(project, diagnostics=(*project.diagnostics, *found))


def _good(
    kind: str, new: Mapping[str, T], before: Mapping[str, T], problems: Mapping[Kind, str]
) -> dict[str, T]:
    good = {name: found for name, found in new.items() if (kind, name) not in problems}
    kept = {name: before[name] for k, name in problems if k == kind and name in before}
    return {**good, **kept}


def _problems(project: LoadedProject) -> dict[Kind, str]:
    """The first error of each file."""
    found: dict[Kind, str] = {}
    for d in project.diagnostics:
        if d.severity == "error":
            path = PurePosixPath(d.span.path)
            place = f"{d.span.path}:{d.span.line}:{d.span.column}"
            found.setdefault((path.suffix[1:].lower(), path.stem), f"{place}: {d.message}")
    return found


def fed_by(workspace: Workspace) -> dict[str, tuple[Datasource, Connection | None]]:
    """Everything that a pipeline is made of, by data source: it starts anew when this changes."""
    return {
        name: (d, None if d.kafka is None else workspace.connections.get(d.kafka.connection))
        for name, d in workspace.datasources.items()
    }
