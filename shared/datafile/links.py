"""What resources say about each other: names and groups taken twice, targets that are not."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from shared.datafile.diagnostics import Diagnostics
from shared.datafile.source import SourceFile
from shared.model.resources import Node, Pipe, Span
from shared.model.workspace import Workspace, did_you_mean

_TARGETS = ("DATASOURCE", "TARGET_DATASOURCE")
_QUARANTINE = "_quarantine"


def check_links(
    workspace: Workspace,
    declared: Mapping[str, Collection[str]],
    sources: Mapping[str, SourceFile],
    diagnostics: Diagnostics,
) -> None:
    """Report every name that leads nowhere.

    Args:
        workspace: The resources that loaded.
        declared: Names by extension, those of files with mistakes included: a link to one of
            them is not reported a second time.
        sources: The files by path, to find the line of an option.
        diagnostics: Where mistakes go.
    """
    for pipe in workspace.pipes.values():
        for node in pipe.nodes:
            _check_node(pipe, node, declared, sources, diagnostics)
    connections = declared.get("connection", ())
    for datasource in workspace.datasources.values():
        imports = dict(datasource.imports)
        wanted = {
            "KAFKA_CONNECTION_NAME": datasource.kafka.connection if datasource.kafka else None,
            "IMPORT_CONNECTION_NAME": imports.get("IMPORT_CONNECTION_NAME"),
        }
        for command, name in wanted.items():
            if name and name not in connections and datasource.span is not None:
                at = _option_span(sources, datasource.span, command)
                _unknown_connection(name, connections, at, diagnostics)
        if datasource.name.endswith(_QUARANTINE) and datasource.span is not None:
            owner = datasource.name.removesuffix(_QUARANTINE)
            if owner in declared.get("datasource", ()):
                message = f"'{datasource.name}' is the quarantine table of '{owner}'."
                diagnostics.error("reserved_name", message, datasource.span)
    _check_groups(workspace, sources, diagnostics)


def _check_groups(
    workspace: Workspace, sources: Mapping[str, SourceFile], diagnostics: Diagnostics
) -> None:
    """Report groups that two data sources share on one topic: each would get a part of it."""
    first: dict[tuple[str, str, str], str] = {}
    for datasource in workspace.datasources.values():
        kafka = datasource.kafka
        if kafka is None or datasource.span is None:
            continue
        owner = first.setdefault((kafka.connection, kafka.topic, kafka.group_id), datasource.name)
        if owner != datasource.name:
            diagnostics.error(
                "duplicate_name",
                f"Group '{kafka.group_id}' reads topic '{kafka.topic}' for data source '{owner}'"
                " already: each of the two would get a part of the records.",
                _option_span(sources, datasource.span, "KAFKA_GROUP_ID"),
                "Give each data source a KAFKA_GROUP_ID of its own.",
            )


def _check_node(
    pipe: Pipe,
    node: Node,
    declared: Mapping[str, Collection[str]],
    sources: Mapping[str, SourceFile],
    diagnostics: Diagnostics,
) -> None:
    if node.span is None:
        return
    datasources = declared.get("datasource", ())
    for command in _TARGETS:
        target = node.option(command)
        if not target or target in datasources or node.kind not in ("materialized", "copy"):
            continue
        diagnostics.error(
            "unknown_datasource",
            f"Node '{node.name}' of pipe '{pipe.name}' writes to '{target}', which is no "
            "data source of this project.",
            _option_span(sources, node.span, command),
            did_you_mean(target, datasources) or f"Add a file {target}.datasource.",
        )
    connections = declared.get("connection", ())
    name = node.option("EXPORT_CONNECTION_NAME")
    if name and name not in connections and node.kind == "sink":
        at = _option_span(sources, node.span, "EXPORT_CONNECTION_NAME")
        _unknown_connection(name, connections, at, diagnostics)


def _unknown_connection(
    name: str, connections: Collection[str], at: Span, diagnostics: Diagnostics
) -> None:
    # Only a warning: the events can be sent over HTTP, without any connection.
    diagnostics.warning(
        "unknown_connection",
        f"'{name}' is no connection of this project.",
        at,
        did_you_mean(name, connections) or f"Add a file {name}.connection.",
    )


def _option_span(sources: Mapping[str, SourceFile], after: Span, command: str) -> Span:
    source = sources.get(after.path)
    pattern = re.compile(rf"\W*{command}\W+", re.IGNORECASE)
    for number, line in enumerate(source.lines if source else (), 1):
        if number >= after.line and (match := pattern.match(line)):
            return Span(after.path, number, min(match.end(), len(line)) + 1)
    return after
