"""What operators type: audit, trace, doctor, quarantine, partitions.

They ask the running server at ``PIPEHOUSE_URL``, or ClickHouse itself where
``PIPEHOUSE_CLICKHOUSE_URL`` names a server.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import click

from deploy.commands.base import EXIT_BAD, say
from deploy.commands.output import AS_JSON, print_json
from deploy.operate import registry
from deploy.operate.place import run_command
from deploy.operate.registry import Command
from deploy.operate.render import lines
from shared.logs import configure_logging
from shared.settings import load_settings


def _run(command: Command, as_json: bool, **arguments: object) -> None:
    """Run a command, print its result, and end with 1 where that is bad."""
    configure_logging(form="console", level="error")
    result: Any = run_command(load_settings(os.environ), command, command.arguments(**arguments))
    if as_json:
        print_json(result)
    else:
        for line in lines(result):
            say(line)
    if not result.is_ok:
        sys.exit(EXIT_BAD)


@click.command()
@click.argument("datasource", default="")
@click.option("--repair", is_flag=True, help="Store what the table lost, past its views.")
@AS_JSON
def audit(datasource: str, repair: bool, as_json: bool) -> None:
    """Prove that every record was stored once, or name the offsets that were not."""
    _run(registry.AUDIT, as_json, datasource=datasource, repair=repair)


@click.command()
@click.argument("record", metavar="TOPIC:PARTITION:OFFSET")
@AS_JSON
def trace(record: str, as_json: bool) -> None:
    """Say where one record is: not read, in a batch, stored, quarantined, lost."""
    _run(registry.TRACE, as_json, record=record)


@click.command()
@click.argument("datasource", default="")
@AS_JSON
def doctor(datasource: str, as_json: bool) -> None:
    """Say which guarantee really holds for each data source, and what is not healthy."""
    _run(registry.DOCTOR, as_json, datasource=datasource)


@click.command()
@click.argument("datasource", default="")
@AS_JSON
def partitions(datasource: str, as_json: bool) -> None:
    """List partitions: where they stand, what is in flight, which are held and why."""
    _run(registry.PARTITIONS, as_json, datasource=datasource)


@click.command()
@click.argument("datasource")
@click.argument("partition", type=click.IntRange(min=0))
@click.option(
    "--insert-missing",
    "way",
    flag_value="insert-missing",
    help="Store what the table lacks, past its views, which were served.",
)
@click.option("--skip", "way", flag_value="skip", help="Record what is not stored as a gap.")
@AS_JSON
def resolve(datasource: str, partition: int, way: str | None, as_json: bool) -> None:
    """Let a held partition go on behind the range that it waits at."""
    if way is None:
        raise click.UsageError("Say --insert-missing or --skip.")
    _run(registry.RESOLVE, as_json, datasource=datasource, partition=partition, way=way)


@click.group()
def quarantine() -> None:
    """Records that could not be stored."""


@quarantine.command("list")
@click.argument("datasource", default="")
@AS_JSON
def list_quarantine(datasource: str, as_json: bool) -> None:
    """Count them by data source and reason."""
    _run(registry.QUARANTINE_LIST, as_json, datasource=datasource)


def _filters(function: Any) -> Any:
    """The options that select rows."""
    options = [
        click.argument("datasource"),
        click.option("--reason", default="", help="A part of the message."),
        click.option("--column", help="A failing column; '' is the record as a whole."),
        click.option("--partition", type=int, help="A partition."),
        click.option("--from", "first", type=int, help="The first offset."),
        click.option("--to", "next", type=int, help="The offset behind the last."),
        click.option("--since", default="", help="Quarantined at or after, UTC: 2026-01-31T10:00."),
        click.option("--until", default="", help="Quarantined before, UTC."),
        AS_JSON,
    ]
    for option in reversed(options):
        function = option(function)
    return function


@quarantine.command("show")
@_filters
@click.option("--limit", type=click.IntRange(min=0), default=20, show_default=True)
def show_quarantine(as_json: bool, **given: Any) -> None:
    """Show them with their reasons, the newest first."""
    _run(registry.QUARANTINE_SHOW, as_json, **given)


@quarantine.command("replay")
@_filters
@click.option("--check", is_flag=True, help="Only say what would be stored.")
def replay_quarantine(as_json: bool, **given: Any) -> None:
    """Store those that can be stored by now, each once however often this is run."""
    _run(registry.QUARANTINE_REPLAY, as_json, **given)


@quarantine.command("purge")
@_filters
@click.option("--yes", is_flag=True, help="Do it; what is purged cannot be had back.")
def purge_quarantine(as_json: bool, **given: Any) -> None:
    """Remove them for good."""
    _run(registry.QUARANTINE_PURGE, as_json, **given)


COMMANDS = (audit, trace, doctor, partitions, resolve, quarantine)
