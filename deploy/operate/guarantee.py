"""Which guarantee holds for a data source and its views, and why; plain code.

Every record goes in under a token that its table, and the table of every view, remember for a
while. What can go wrong is that a token is forgotten before the insert under it is repeated, or
that a token is remembered whose rows a crash of the engine took away.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from msgspec import Struct

from deploy.operate.tables import TableFacts, ViewFacts
from ingest.landing import CERTAIN_SHARE
from shared.clickhouse.contract import Capabilities
from shared.model.identity import DEDUPLICATION_WINDOW, carries_identity
from shared.model.resources import Datasource

Level = Literal["ok", "warning", "bad"]

# What delivery relies on: up to so many inserts after a range was begun it is simply repeated.
NEEDED_WINDOW = int(DEDUPLICATION_WINDOW * CERTAIN_SHARE)
# Where nothing was inserted lately: the most that one worker inserts into a table.
_FULL_RATE_PER_HOUR = 4 * 3_600
_WEEK_S = 7 * 24 * 3_600

_SUSPENDED = (
    "A worker that is suspended in the moment before it sends, and wakes after the tables have"
    " forgotten the token, stores a range twice, unless its statement has a deadline: only those"
    " have one that take defaults row by row or send rows as lines."
)

EXACTLY_ONCE = "exactly once"
NOT_VERIFIABLE = "exactly once, not verifiable"
AT_LEAST_ONCE = "at least once"


class Guarantee(Struct, frozen=True, kw_only=True):
    """What holds for one data source, in words; ``fixes`` say what would make it better."""

    datasource: str
    verdict: str
    level: Level
    reasons: tuple[str, ...]
    fixes: tuple[str, ...] = ()


class Subject(Struct, frozen=True, kw_only=True):
    """What is judged: a data source with its table and the views behind it."""

    datasource: Datasource
    table: TableFacts
    views: tuple[ViewFacts, ...]
    engine: Capabilities


def judge(subject: Subject) -> Guarantee:
    """The guarantee of one data source."""
    table, views = subject.table, subject.views
    reasons, fixes = [], []
    forgetful = [v for v in views if v.target is not None and forgets(v.target)]
    unproven = [v for v in views if not _is_view_safe(v, subject.engine)]
    table_forgets = not table.keeps_nothing and forgets(table)
    for facts in [table, *(v.target for v in views if v.target)]:
        reasons.append(_memory(facts))
        if not facts.keeps_nothing and forgets(facts):
            fixes.append(_fix(facts))
    doubts = list(_doubts(subject))
    verdict = NOT_VERIFIABLE if doubts else EXACTLY_ONCE
    level: Level = "ok"
    if table_forgets:
        verdict, level = AT_LEAST_ONCE, "bad"
    elif forgetful:
        in_table = "" if table.keeps_nothing else "exactly once in the table, "
        verdict, level = f"{in_table}at least once in {_named(forgetful)}", "bad"
    elif unproven:
        verdict = f"exactly once in the table, not verifiable in {_named(unproven)}"
        level = "warning"
    reasons += doubts
    if not (table.is_replicated or table.keeps_nothing or subject.engine.repairs_orphans):
        reasons.append(_orphans(subject))
    reasons += [_view_doubt(v) for v in unproven]
    if not subject.engine.shares_process:
        reasons.append(_SUSPENDED)
    return Guarantee(
        datasource=subject.datasource.name,
        verdict=verdict,
        level=level,
        reasons=tuple(r for r in reasons if r),
        fixes=tuple(fixes),
    )


def forgets(table: TableFacts) -> bool:
    """Whether a token may be forgotten while delivery still relies on it."""
    too_few = table.window < NEEDED_WINDOW
    too_short = table.window_s is not None and table.window_s < _WEEK_S
    return not table.keeps_nothing and (too_few or too_short)


def covered_s(table: TableFacts) -> float:
    """The longest outage after which every token is still known, at the present rate."""
    by_count = table.window * 3_600 / (table.parts_last_hour or _FULL_RATE_PER_HOUR)
    return by_count if table.window_s is None else min(by_count, table.window_s)


def _is_view_safe(view: ViewFacts, engine: Capabilities) -> bool:
    """Whether a view's table cannot have lost rows whose token it remembers."""
    if view.target is None:
        return False
    return view.target.is_replicated or engine.repairs_orphans


def _view_doubt(view: ViewFacts) -> str:
    if view.target is None:
        return f"View {view.name} was not deployed from a project; its table is not known."
    return (
        f"View {view.name}: when the server crashes, {view.target.name} ({view.target.engine}) may"
        " remember a token whose rows are gone; its rows carry no offsets that would show it."
    )


def _doubts(subject: Subject) -> Sequence[str]:
    """Why the table cannot show what it holds."""
    engine = subject.datasource.engine
    table = subject.table
    doubts = []
    if table.keeps_nothing:
        doubts.append("Null keeps no rows: only its views have them, under the same tokens.")
    elif not carries_identity(subject.datasource):
        doubts.append(
            f"{engine.name} adds rows up, so they carry no offsets. After an outage that is longer"
            " than its memory a range is held for an operator, not repeated. A group that is moved"
            " back adds its rows again."
        )
    elif "Replacing" in engine.name:
        doubts.append(f"{engine.name} lets newer rows take the place of older ones.")
    if engine.ttl or table.has_ttl:
        doubts.append("Rows expire (TTL); what has expired can no longer be verified.")
    return doubts


def _orphans(subject: Subject) -> str:
    text = (
        f"When the server crashes, {subject.table.name} ({subject.table.engine}) may remember a"
        " token whose rows are gone"
    )
    if carries_identity(subject.datasource):
        return f"{text}; their offsets show it, and 'pipehouse audit --repair' brings them back."
    return f"{text}, and nothing shows it."


def _memory(table: TableFacts) -> str:
    if table.keeps_nothing:
        return ""
    if not table.window:
        return f"{table.name} ({table.engine}) remembers no inserts: what is repeated is doubled."
    lasting = f" for {duration(table.window_s)}" if table.window_s is not None else ""
    rate = f"{table.parts_last_hour:,} parts" if table.parts_last_hour else "at most 4 a second"
    return (
        f"{table.name} ({table.engine}) remembers {table.window:,} inserted parts{lasting}: an"
        f" outage of {duration(covered_s(table))} at the present rate ({rate} in the last hour)."
    )


def _fix(table: TableFacts) -> str:
    if table.is_replicated:
        setting = (
            f"replicated_deduplication_window = {DEDUPLICATION_WINDOW},"
            f" replicated_deduplication_window_seconds = {_WEEK_S}"
        )
    else:
        setting = f"non_replicated_deduplication_window = {DEDUPLICATION_WINDOW}"
    return f"ALTER TABLE {table.name} MODIFY SETTING {setting}"


def _named(views: Sequence[ViewFacts]) -> str:
    noun = "view" if len(views) == 1 else "views"
    return f"{noun} {', '.join(v.name for v in views)}"


def duration(seconds: float) -> str:
    """A span of time with its two largest units."""
    units = (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1))
    left = int(seconds)
    parts = []
    for name, length in units:
        if left >= length:
            parts.append(f"{left // length} {name}")
            left %= length
    return " ".join(parts[:2]) or "less than 1 s"
