"""What goes wrong in a round, in which order: made of a seed, nothing else; pure.

Every kind of fault, and every step at which a worker can die, is dealt like cards: consecutive
rounds of a seed go through all of them before one comes again.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Literal, TypeVar

from msgspec import Struct

T = TypeVar("T")

ACTIONS = (
    "commit",
    "readagain",
    "lookahead",
    "open",
    "insert",
    "search",
    "quarantine",
    "close",
)
# Once an assignment, or now and then.
_RARE = ("readagain", "lookahead", "open", "search")
STEPS = tuple((action, moment) for action in ACTIONS for moment in ("before", "after"))
FAULTS_PER_ROUND = 7

Point = Literal["query", "data", "before", "after"]
Table = Literal["readings", "readings_quarantine"]


class DieAtStep(Struct, frozen=True, kw_only=True):
    """A worker ends itself at the ``count``-th time it comes to a step of a delivery."""

    action: str
    moment: str
    count: int


class KillWorker(Struct, frozen=True):
    """``kill -9`` at this moment."""


class KillAllInserting(Struct, frozen=True):
    """``kill -9`` of every worker; what one of them inserts goes on until others took over."""


class SuspendWorker(Struct, frozen=True, kw_only=True):
    """SIGSTOP for longer than the session, then SIGCONT; ``is_inserting``: amid a slow insert."""

    is_inserting: bool


class JoinWorker(Struct, frozen=True):
    """One more worker."""


class LeaveWorker(Struct, frozen=True):
    """A worker is stopped as an operator stops it."""


class KillBroker(Struct, frozen=True, kw_only=True):
    """``kill -9`` of the broker, which comes back after a while."""

    down_s: float


class CutBroker(Struct, frozen=True, kw_only=True):
    """A connection to the broker is cut after some bytes; those of ``answer`` took effect."""

    direction: Literal["request", "answer"]
    after_bytes: int


class SilenceBroker(Struct, frozen=True, kw_only=True):
    """Nothing comes from the broker; connections stay open."""

    for_s: float


class RefuseInserts(Struct, frozen=True, kw_only=True):
    """ClickHouse refuses some inserts with one code, perhaps although it stored them."""

    code: int
    name: str
    text: str
    at: Point
    times: int
    table: Table


class SlowInserts(Struct, frozen=True, kw_only=True):
    """Inserts take longer than a lease lasts."""

    seconds: float
    times: int


class CutEngine(Struct, frozen=True, kw_only=True):
    """Connections to ClickHouse are cut; ``after``: what they asked for took effect."""

    action: Literal["cut", "reset"]
    at: Point
    times: int
    table: Table


class KillEngine(Struct, frozen=True, kw_only=True):
    """``kill -9`` of ClickHouse amid an insert, or at this moment where ``at`` is None."""

    at: Point | None


class AddPartitions(Struct, frozen=True):
    """The topic gets one partition more."""


class RecreateTopic(Struct, frozen=True):
    """The topic is deleted when everything of it is stored, and made again."""


Fault = (
    DieAtStep
    | KillWorker
    | KillAllInserting
    | SuspendWorker
    | JoinWorker
    | LeaveWorker
    | KillBroker
    | CutBroker
    | SilenceBroker
    | RefuseInserts
    | SlowInserts
    | CutEngine
    | KillEngine
    | AddPartitions
    | RecreateTopic
)


class _Refusal(Struct, frozen=True):
    """An error of ClickHouse; ``is_definite``: nothing is stored where it is answered."""

    code: int
    name: str
    text: str
    is_definite: bool = True


_IN_VIEW = "Value passed to 'throwIf' is non-zero: while pushing to view faults.list_readings"
_REFUSALS = (
    _Refusal(252, "TOO_MANY_PARTS", "Too many parts (300). Merges are slower than inserts"),
    _Refusal(241, "MEMORY_LIMIT_EXCEEDED", "Memory limit (total) exceeded", is_definite=False),
    _Refusal(242, "TABLE_IS_READ_ONLY", "Table is in readonly mode"),
    _Refusal(159, "TIMEOUT_EXCEEDED", "Timeout exceeded: elapsed 30 s", is_definite=False),
    _Refusal(209, "SOCKET_TIMEOUT", "Timeout exceeded while reading", is_definite=False),
    _Refusal(202, "TOO_MANY_SIMULTANEOUS_QUERIES", "Too many simultaneous queries"),
    _Refusal(319, "UNKNOWN_STATUS_OF_INSERT", "Unknown status of insert", is_definite=False),
    _Refusal(999, "KEEPER_EXCEPTION", "Coordination error: Connection loss", is_definite=False),
    _Refusal(395, "FUNCTION_THROW_IF_VALUE_IS_NON_ZERO", _IN_VIEW, is_definite=False),
    _Refusal(469, "VIOLATED_CONSTRAINT", "Constraint `c` for table is violated"),
    _Refusal(60, "UNKNOWN_TABLE", "Table does not exist"),
)


class Step(Struct, frozen=True):
    """A fault, and how long everything goes on undisturbed before it."""

    after_s: float
    fault: Fault


class Plan(Struct, frozen=True, kw_only=True):
    """One round: how many workers and partitions it begins with, and what happens."""

    workers: int
    partitions: int
    steps: tuple[Step, ...]


# Most rounds leave the engine alive: what a plain server loses with its life is another question.
_KINDS: tuple[type[Struct], ...] = (
    *(DieAtStep, DieAtStep, DieAtStep, DieAtStep),
    *(KillWorker, KillAllInserting, SuspendWorker, SuspendWorker, JoinWorker, LeaveWorker),
    *(KillBroker, CutBroker, CutBroker, SilenceBroker),
    *(RefuseInserts, RefuseInserts, SlowInserts, CutEngine, CutEngine),
    *(AddPartitions, RecreateTopic),
)


def plan_round(seed: int, number: int, *, kills_engine: bool = False) -> Plan:
    """The plan of one round.

    Args:
        seed: Of the run.
        number: From 0; of consecutive numbers each kind of fault comes in turn.
        kills_engine: Whether ClickHouse is killed as well, at least once.
    """
    rng = random.Random(f"{seed}:{number}")
    first = number * FAULTS_PER_ROUND
    kinds = list(islice(_dealt(_KINDS, f"{seed}:kinds"), first, first + FAULTS_PER_ROUND))
    if kills_engine:
        kinds[rng.randrange(len(kinds))] = KillEngine
    before = sum(
        kind is DieAtStep
        for kind in islice(_dealt(_KINDS, f"{seed}:kinds"), number * FAULTS_PER_ROUND)
    )
    steps = islice(_dealt(STEPS, f"{seed}:steps"), before, None)
    refusals = islice(_dealt(_REFUSALS, f"{seed}:refusals"), number * 2, None)
    return Plan(
        workers=rng.choice((2, 2, 3)),
        partitions=rng.choice((2, 3)),
        steps=tuple(
            Step(rng.uniform(0.2, 0.9), _fault(kind, rng, steps, refusals)) for kind in kinds
        ),
    )


def _dealt(cards: Sequence[T], seed: str) -> Iterator[T]:
    """All cards in a random order, then again in another, for ever."""
    rng = random.Random(seed)
    while True:
        yield from rng.sample(cards, len(cards))


def _fault(
    kind: type[Struct],
    rng: random.Random,
    steps: Iterator[tuple[str, str]],
    refusals: Iterator[_Refusal],
) -> Fault:
    table: Table = rng.choice(("readings", "readings", "readings", "readings_quarantine"))
    at: Point = rng.choice(("query", "data", "before", "after", "after"))
    if kind is DieAtStep:
        action, moment = next(steps)
        count = 1 if action in _RARE else rng.randrange(1, 4)
        return DieAtStep(action=action, moment=moment, count=count)
    if kind is SuspendWorker:
        return SuspendWorker(is_inserting=rng.random() < 0.5)
    if kind is KillBroker:
        return KillBroker(down_s=rng.uniform(0.0, 1.5))
    if kind is CutBroker:
        direction: Literal["request", "answer"] = rng.choice(("request", "answer", "answer"))
        return CutBroker(direction=direction, after_bytes=rng.randrange(400))
    if kind is SilenceBroker:
        return SilenceBroker(for_s=rng.uniform(0.5, 4.0))
    if kind is RefuseInserts:
        refusal = next(refusals)
        return RefuseInserts(
            code=refusal.code,
            name=refusal.name,
            text=refusal.text,
            at="before" if refusal.is_definite else rng.choice(("before", "after")),
            times=rng.randrange(1, 4),
            table=table,
        )
    if kind is SlowInserts:
        return SlowInserts(seconds=rng.uniform(0.5, 3.0), times=rng.randrange(1, 4))
    if kind is CutEngine:
        action_: Literal["cut", "reset"] = rng.choice(("cut", "reset"))
        return CutEngine(action=action_, at=at, times=rng.randrange(1, 3), table=table)
    if kind is KillEngine:
        return KillEngine(at=rng.choice((None, "data", "before", "after")))
    plain: Fault = kind()  # type: ignore[assignment]  # the kinds that have no fields
    return plain
