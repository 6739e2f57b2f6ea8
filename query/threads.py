"""How many threads a query may use, whatever it or its templates ask for."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable

from query.template.sql_context import START, scan
from shared.clickhouse.allowlist import Analysis
from shared.errors import QueryError

_VALUE = r"(?:[\w.]+|'[^'\\]*')"
_SETTINGS = re.compile(
    rf"\bSETTINGS\s+\w+(?:\s*=\s*{_VALUE})?(?:\s*,\s*\w+(?:\s*=\s*{_VALUE})?)*", re.IGNORECASE
)
_THREADS = re.compile(rf"\b(max_threads\s*=\s*)({_VALUE})")
# Longer texts are long lists of values; reading one for quotes would hold up other requests.
_MAX_CHARACTERS = 64 << 10


def fewer(wanted: int, most: int) -> int:
    """The smaller number; 0 leaves the choice to the engine, or does not bound it."""
    return min(wanted or most, most) if most else wanted


async def bounded(
    parse: Callable[[str], Awaitable[Analysis]], sql: str, analysis: Analysis, most: int
) -> str:
    """The SQL with what its SETTINGS say of threads brought down to ``most``; 0 is no bound.

    Raises:
        QueryError: It is said in a way that is not understood here.
    """
    if _is_within(analysis, most):
        return sql
    capped = _capped(sql, most) if len(sql) <= _MAX_CHARACTERS else sql
    if not _is_within(await parse(capped), most):
        raise QueryError(
            f"The query sets max_threads, of which {most} are allowed.",
            hint="Leave it out, or write SETTINGS max_threads = n.",
        )
    return capped


def _is_within(analysis: Analysis, most: int) -> bool:
    return not most or all(0 < threads <= most for threads in analysis.threads)


def _capped(sql: str, most: int) -> str:
    """Every SETTINGS clause with fewer threads; quotes and comments are left alone."""
    pieces, state, at = [], START, 0
    for clause in _SETTINGS.finditer(sql):
        state = scan(state, sql[at : clause.start()])
        text = clause[0]
        fewer_threads = text if state.mode else _THREADS.sub(lambda m: _fewer_in(m, most), text)
        pieces += [sql[at : clause.start()], fewer_threads]
        state, at = scan(state, text), clause.end()
    return "".join((*pieces, sql[at:]))


def _fewer_in(said: re.Match[str], most: int) -> str:
    number = said[2].strip("'")
    return f"{said[1]}{fewer(int(number) if number.isdecimal() else 0, most)}"
