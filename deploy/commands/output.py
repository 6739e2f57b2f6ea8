"""How commands print values: tables for people, bytes as they are for programs."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import click
import msgspec

from deploy.commands.base import complain, say
from deploy.tables import cell_text, render_table

# What a person looks at; a pipe or a file gets every row.
MAX_TERMINAL_ROWS = 100

_NUMERIC = re.compile(r"(Nullable\(|LowCardinality\()*(U?Int|Float|BFloat|Decimal)")

AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def print_json(value: object) -> None:
    """A value as indented JSON."""
    say(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def print_table(
    heads: Sequence[str], rows: Sequence[Sequence[object]], numeric: Sequence[int] = ()
) -> None:
    """A table, cut to the terminal where there is one."""
    is_terminal = sys.stdout.isatty()
    width = shutil.get_terminal_size().columns if is_terminal else None
    shown = rows[:MAX_TERMINAL_ROWS] if is_terminal else rows
    for line in render_table(heads, shown, width=width, numeric=numeric):
        say(line)
    if len(shown) < len(rows):
        complain(f"… {len(rows) - len(shown)} more rows; --format csv prints all.")


def print_answer(answer: Mapping[str, Any]) -> None:
    """The rows of an answer in ClickHouse's JSON format, as a table."""
    columns = answer["meta"]
    names = [column["name"] for column in columns]
    numeric = [at for at, column in enumerate(columns) if _NUMERIC.match(column["type"])]
    rows = [[row[name] for name in names] for row in answer["data"]]
    print_table(names, rows, numeric)
    rows_text = "1 row" if len(rows) == 1 else f"{len(rows)} rows"
    elapsed_s = answer.get("statistics", {}).get("elapsed")
    complain(rows_text + (f" in {elapsed_s * 1000:.1f} ms" if elapsed_s is not None else ""))


def print_text(text: str) -> None:
    """Text of several lines; what would steer a terminal is written out, empty lines are not."""
    for line in text.splitlines():
        if line.strip():
            say("".join(c if c == "\t" else cell_text(c) for c in line))


def write_bytes(chunk: bytes) -> None:
    """A piece of an answer as it is."""
    sys.stdout.buffer.write(chunk)


def require_no_terminal(what: str) -> None:
    """Refuse to print bytes that are no text on a terminal."""
    if sys.stdout.isatty():
        raise click.UsageError(f"{what} is no text: send it to a file with > FILE.")
