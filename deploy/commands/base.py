"""What every command shares: how it prints, how our errors end it, how folders are named."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from shared.datafile.diagnostics import Diagnostic
from shared.errors import AppError

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


def report(diagnostics: Iterable[Diagnostic]) -> None:
    """Every problem with its place."""
    for diagnostic in diagnostics:
        complain(diagnostic.render())


class Group(click.Group):
    """Turns our errors into one line and their exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except AppError as error:
            complain(f"pipehouse: {error}")
            ctx.exit(error.exit_code)
