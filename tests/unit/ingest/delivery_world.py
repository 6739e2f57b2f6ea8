"""A small explicit world for the delivery protocol; ``delivery_explorer.py`` tries all of it.

One partition with a handful of records, one table with one view behind it, a quarantine table and
up to two workers, one of which may be a zombie. Everything that can go wrong once may go wrong, up
to a budget: a worker dies, an answer is lost before or after its effect, a request takes effect
late, a view fails after the table took the block, the guilty row is cured, the partition moves to
another worker, the engine dies and keeps a token without its rows. What the rules demand of the
world (fenced commits, no attempt overlaps another) is modelled; what they demand of the worker is
the code under test.
"""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct, structs

from ingest import messages as m
from shared.clickhouse.contract import Run

STREAM = 7
REJECTED = 1  # the decoder refuses this record, always
POISON = 2  # ClickHouse refuses this record until it is cured

Rows = tuple[int, ...]


class Effect(Struct, frozen=True):
    """An insert that was sent and may still land."""

    token: str
    rows: Rows


class LateCommit(Struct, frozen=True):
    generation: int
    offset: int
    metadata: m.Metadata


class Worker(Struct, frozen=True, kw_only=True):
    generation: int
    state: m.State
    todo: tuple[m.Action, ...] = ()


class World(Struct, frozen=True, kw_only=True):
    records: int
    offset: int = 0
    metadata: m.Metadata | None = None
    generation: int = 0
    draws: int = 0
    table: Rows = ()
    table_tokens: frozenset[str] = frozenset()
    view: Rows = ()
    view_tokens: frozenset[str] = frozenset()
    quarantine: frozenset[int] = frozenset()
    cured: bool = False
    workers: tuple[Worker, ...] = ()
    flying: frozenset[Effect] = frozenset()
    late: frozenset[LateCommit] = frozenset()
    crashes: int = 0
    faults: int = 0
    moves: int = 0
    rewinds: int = 0
    deaths: int = 0


class Violation(Exception):
    """The world is in a state that the protocol promises never to reach."""


class Bug(Struct, frozen=True, kw_only=True):
    """A mistake planted into the worker or the adapter, to see that it is found."""

    name: str = "none"
    token: Callable[[m.State, str], str] = lambda state, token: token
    forgets_intent: bool = False
    commits_before_insert: bool = False
    skips_replay: bool = False
    commits_unfenced: bool = False
    splits_view_errors: bool = False
    ignores_lease: bool = False
    overwrites_intent: bool = False
    repeats_forgotten: bool = False
    looks_not_ahead: bool = False
    trusts_restarted_engine: bool = False


def rows_of(first: int, next_: int, excluded: tuple[Run, ...]) -> Rows:
    out = {o for run in excluded for o in range(run.first, run.first + run.count)}
    return tuple(o for o in range(first, next_) if o != REJECTED and o not in out)


def land(world: World, token: str, rows: Rows, *, base: bool = True, view: bool = True) -> World:
    """What ClickHouse does with a block: each table drops what carries a token it knows."""
    if not rows:
        return world
    if base and token not in world.table_tokens:
        world = structs.replace(
            world,
            table=tuple(sorted(world.table + rows)),
            table_tokens=world.table_tokens | {token},
        )
    if view and token not in world.view_tokens:
        world = structs.replace(
            world,
            view=tuple(sorted(world.view + rows)),
            view_tokens=world.view_tokens | {token},
        )
    return world


def check(world: World, *, remembers: bool = True) -> None:
    for name, rows in (("table", world.table), ("view", world.view)):
        if len(set(rows)) != len(rows):
            raise Violation(f"doubled in the {name}: {rows}")
    settled = all(not w.todo for w in world.workers) and not world.flying
    if world.metadata is None or world.metadata.intent is not None or not settled:
        return
    if world.offset == world.records:
        missing = set(range(world.records)) - set(world.table) - world.quarantine
        if missing:
            raise Violation(f"lost: {missing}")
        if remembers and world.view != world.table:
            raise Violation(f"view {world.view} is not table {world.table}")
