"""CTEs put before a SELECT whose text is otherwise left alone; pure."""

from __future__ import annotations

import re
from collections.abc import Mapping

from shared.clickhouse.sql import quote_identifier

_LEADING_SPACE = re.compile(r"(?:\s+|--[^\n]*(?:\n|\Z)|/\*.*?\*/)*", re.DOTALL)
_WITH = re.compile(r"WITH\b(?!\s+RECURSIVE\b)", re.IGNORECASE)
_SELECT = re.compile(r"SELECT\b", re.IGNORECASE)


def attach(ctes: Mapping[str, str], sql: str) -> str:
    """Put CTEs before a SELECT, joining a WITH that is there already."""
    if not ctes:
        return sql
    listed = ",\n".join(f"{quote_identifier(n)} AS (\n{s}\n)" for n, s in ctes.items())
    start = _LEADING_SPACE.match(sql)
    assert start is not None
    body = sql[start.end() :]
    own = _WITH.match(body)
    if own:
        return f"WITH {listed},{body[own.end() :]}"
    if _SELECT.match(body):
        return f"WITH {listed}\n{body}"
    return f"WITH {listed}\nSELECT * FROM (\n{body}\n)"
