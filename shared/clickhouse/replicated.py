"""Databases that several hosts keep, made with ``ENGINE = Replicated``; pure.

What is defined in one reaches every host by itself, and tables of a Replicated engine share their
rows and their memory of tokens. Such an engine needs no path there: the database gives it one.
"""

from __future__ import annotations

import re

from shared.model.identity import DEDUPLICATION_WINDOW

DATABASE_ENGINE = "Replicated"
# For how long tokens are remembered. An hour is the default of newer releases.
WINDOW_S = 7 * 24 * 3_600
# The memory of a table, as settings and the least that they have to be.
WINDOWS = {
    "replicated_deduplication_window": DEDUPLICATION_WINDOW,
    "replicated_deduplication_window_seconds": WINDOW_S,
}

_ENGINE = re.compile(r"\bENGINE = (?=\w*MergeTree\b)")
_DATABASE = re.compile(r"CREATE DATABASE IF NOT EXISTS `?(\w+)`?")
_PATH = "/clickhouse/databases/"


def replicated(sql: str) -> str:
    """A statement of our own, without anybody's text in it, for a Replicated database.

    CREATE DATABASE has to run on every host, CREATE TABLE on one.
    """
    if name := database_of(sql):
        path = f"'{_PATH}{name}', '{{shard}}', '{{replica}}'"
        return f"{sql} ENGINE = {DATABASE_ENGINE}({path})"
    made, count = _ENGINE.subn(r"ENGINE = Replicated", sql)
    if not count:
        return sql
    settings = ", ".join(f"{name} = {least}" for name, least in WINDOWS.items())
    return f"{made}, {settings}" if " SETTINGS " in made else f"{made} SETTINGS {settings}"


def database_of(sql: str) -> str | None:
    """The name in a CREATE DATABASE of our own; None for other statements."""
    found = _DATABASE.fullmatch(sql)
    return found[1] if found else None
