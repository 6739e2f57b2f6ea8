"""Posing as one of several hosts that keep the databases together; pure.

There is one host and no Keeper: what is said in the words of replication is done without it. So a
client that comes to the same stand-in under two names finds what ideal replicas would show.
"""

from __future__ import annotations

import re

_DATABASE = re.compile(r"(\s*CREATE DATABASE\b.*?) ENGINE = Replicated\([^)]*\)", re.S)
_TABLE = re.compile(r"(\s*CREATE TABLE\b.*?\) ENGINE = )Replicated(?=\w*MergeTree\b)", re.S)
_SYNC = re.compile(r"\s*SYSTEM SYNC REPLICA\b")

_OF_TABLES = "if(endsWith(engine, 'MergeTree'), concat('Replicated', engine), engine)"
# What the system tables say of engines.
ENGINES = {
    "databases": "if(engine = 'Memory', engine, 'Replicated')",
    "tables": _OF_TABLES,
    "parts": _OF_TABLES,
}


def alone(sql: str) -> str:
    """The statement as a server without replicas would be given it."""
    if _SYNC.match(sql):
        return "SELECT 1"
    return _TABLE.sub(r"\1", _DATABASE.sub(r"\1 ENGINE = Atomic", sql, count=1), count=1)
