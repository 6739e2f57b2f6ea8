"""A project: folders of datafiles to one workspace, with everything that is wrong with them.

``parse_project`` is plain code; ``load_project`` above it is the only place that reads files.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path, PurePosixPath

from msgspec import Struct

from shared.datafile.connection import parse_connection
from shared.datafile.datasource import parse_datasource
from shared.datafile.diagnostics import Diagnostic, Diagnostics, datafile_error
from shared.datafile.links import check_links
from shared.datafile.pipe import parse_pipe
from shared.datafile.secrets import read_dotenv, secrets_of_templates
from shared.datafile.source import SourceFile, source_file
from shared.model.resources import Connection, Datasource, Pipe, Span
from shared.model.workspace import Workspace

EXTENSIONS = ("connection", "datasource", "pipe")
MAX_DEPTH = 3
"""How many parts the path of a datafile may have below its project folder."""

MAX_LOOKED_AT = 1_000
"""How many folders below one without datafiles are searched for a project."""

_USUAL_FOLDERS = frozenset({"datasources", "endpoints", "pipes", "materializations"})
_SKIPPED_FOLDERS = frozenset({"vendor", "node_modules"})
_DOTENV_FILES = (".env", ".env.local")
_TABLES = ("datasource", "pipe")


class LoadedProject(Struct, frozen=True, kw_only=True):
    """What a project says.

    ``workspace`` holds the resources without mistakes; ``diagnostics`` are in order of file, line
    and column; ``files`` are the (relative path, text) pairs that were read.
    """

    workspace: Workspace
    diagnostics: tuple[Diagnostic, ...] = ()
    files: tuple[tuple[str, str], ...] = ()

    @property
    def has_errors(self) -> bool:
        """Whether there is more than warnings."""
        return any(d.severity == "error" for d in self.diagnostics)

    def checked(self) -> Workspace:
        """The workspace of a project without mistakes.

        Raises:
            DatafileError: There are some; it carries all of them.
        """
        if error := datafile_error(self.diagnostics):
            raise error
        return self.workspace


def load_project(folders: Sequence[Path], environ: Mapping[str, str]) -> LoadedProject:
    """Read the datafiles of one or several folders into one workspace.

    Hidden folders, ``vendor`` and what lies deeper than ``MAX_DEPTH`` are left out. Secrets come
    from ``environ``, which ``.env`` and then ``.env.local`` of each folder override.
    """
    diagnostics = Diagnostics()
    secrets = dict(environ)
    files: list[tuple[str, str]] = []
    for folder in folders:
        prefix = f"{folder.as_posix()}/" if len(folders) > 1 else ""
        for name in _DOTENV_FILES:
            path = folder / name
            if path.is_file() and (text := _read(path, prefix + name, diagnostics)) is not None:
                secrets |= read_dotenv(text)
        paths = sorted(_datafiles(folder, prefix, diagnostics))
        if not paths and folder.is_dir():
            message = "The folder has no .datasource, .pipe or .connection files."
            place = Span(folder.name or ".", 1)
            diagnostics.warning("no_datafiles", message, place, _where_projects_are(folder))
        for path in paths:
            relative = prefix + path.relative_to(folder).as_posix()
            if (text := _read(path, relative, diagnostics)) is not None:
                files.append((relative, text))
    return _parse(files, secrets, diagnostics)


def parse_project(
    files: Sequence[tuple[str, str]], secrets: Mapping[str, str] | None = None
) -> LoadedProject:
    """The workspace of (relative path, text) pairs; files of other extensions are skipped."""
    return _parse(files, secrets or {}, Diagnostics())


def _parse(
    files: Sequence[tuple[str, str]], secrets: Mapping[str, str], diagnostics: Diagnostics
) -> LoadedProject:
    loading = _Loading(secrets, diagnostics)
    for path, text in files:
        loading.add(source_file(path, text))
    workspace = Workspace(
        datasources=loading.datasources,
        pipes=loading.pipes,
        connections=loading.connections,
        secrets=secrets_of_templates(
            (node.sql for pipe in loading.pipes.values() for node in pipe.nodes), secrets
        ),
    )
    declared = {kind: loading.declared(kind) for kind in EXTENSIONS}
    check_links(workspace, declared, loading.sources, diagnostics)
    return LoadedProject(workspace=workspace, diagnostics=diagnostics.sorted(), files=tuple(files))


class _Loading:
    def __init__(self, secrets: Mapping[str, str], diagnostics: Diagnostics) -> None:
        self._secrets = secrets
        self._diagnostics = diagnostics
        # (space of names, name) → the file that took it first.
        self._taken: dict[tuple[str, str], SourceFile] = {}
        self.sources: dict[str, SourceFile] = {}
        self.datasources: dict[str, Datasource] = {}
        self.pipes: dict[str, Pipe] = {}
        self.connections: dict[str, Connection] = {}

    def declared(self, kind: str) -> list[str]:
        return [source.stem for source in self._taken.values() if source.kind == kind]

    def add(self, source: SourceFile) -> None:
        if source.kind not in EXTENSIONS:
            return
        self.sources[source.path] = source
        diagnostics = self._diagnostics
        is_free = self._take_name(source)
        # Parsed even where the name is taken: all mistakes are reported together.
        if source.kind == "datasource":
            datasource = parse_datasource(source, diagnostics, self._secrets)
            self.datasources |= {datasource.name: datasource} if datasource and is_free else {}
        elif source.kind == "pipe":
            pipe = parse_pipe(source, diagnostics)
            self.pipes |= {pipe.name: pipe} if pipe and is_free else {}
        else:
            connection = parse_connection(source, diagnostics, self._secrets)
            self.connections |= {connection.name: connection} if connection and is_free else {}

    def _take_name(self, source: SourceFile) -> bool:
        # Queries name pipes and data sources alike, so they share one space of names.
        space = "table" if source.kind in _TABLES else source.kind
        first = self._taken.setdefault((space, source.stem), source)
        if first is source:
            return True
        self._diagnostics.add_source(source)
        message = f"The name '{source.stem}' is taken by {first.path}."
        self._diagnostics.error("duplicate_name", message, source.span())
        return False


def _datafiles(folder: Path, prefix: str, diagnostics: Diagnostics) -> Iterator[Path]:
    def walk(inner: Path, depth: int) -> Iterator[Path]:
        try:
            entries = sorted(inner.iterdir())
        except OSError as error:
            message = f"The folder cannot be read: {error.strerror}."
            relative = PurePosixPath(prefix or folder.as_posix(), inner.relative_to(folder))
            diagnostics.error("unreadable_folder", message, Span(str(relative), 1))
            return
        for entry in entries:
            if entry.suffix.removeprefix(".").lower() in EXTENSIONS and not entry.is_dir():
                yield entry
            elif depth < MAX_DEPTH and _is_entered(entry):
                yield from walk(entry, depth + 1)

    return walk(folder, 1)


def _where_projects_are(folder: Path) -> str:
    """What to give instead of a folder without datafiles."""
    for inner, names, files in islice(os.walk(folder), MAX_LOOKED_AT):
        names[:] = sorted(n for n in names if n not in _SKIPPED_FOLDERS and n[0] != ".")
        if any(PurePosixPath(f).suffix.removeprefix(".") in EXTENSIONS for f in files):
            home = Path(inner)
            home = home.parent if home.name in _USUAL_FOLDERS and home != folder else home
            return f"Give the folder of a project, such as {home.as_posix()}."
    return "Give the folder of a project; one of its files may be datasources/orders.datasource."


def _is_entered(entry: Path) -> bool:
    is_skipped = entry.name in _SKIPPED_FOLDERS or entry.name.startswith(".")
    return not is_skipped and entry.is_dir() and not entry.is_symlink()


def _read(path: Path, relative: str, diagnostics: Diagnostics) -> str | None:
    try:
        content = path.read_bytes()
    except OSError as error:
        message = f"The file cannot be read: {error.strerror}."
        diagnostics.error("unreadable_file", message, Span(relative, 1))
        return None
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        column = error.start - content.rfind(b"\n", 0, error.start)
        message = f"Byte 0x{content[error.start]:02x} is not UTF-8."
        diagnostics.error(
            "not_utf8", message, Span(relative, line, column), "Save the file as UTF-8."
        )
        return None
