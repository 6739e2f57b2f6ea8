"""The delivery protocol of one partition, as a table of decisions: events in, actions out.

Nothing here waits, reads a clock or touches the world. ``step`` takes the state and one event and
returns the new state and what is to be done; whoever does it (``ingest/partition.py``) answers each
action with one event. The rules that make this exactly once:

1. *Intent before insert.* The range ``[first, next)`` of a batch is committed to the log, as
   metadata of the unchanged offset, before anything of it is inserted. From then on first, next
   and walk never change, whoever owns the partition; only the excluded offsets may grow.
2. *One range, one block, one token.* Every attempt at a range, also by the next owner, goes in
   under the same token, and ClickHouse drops what it already has, in the table and in each view.
3. *Claim before replay.* A new owner first commits the position it found once more; if that is
   refused it owns nothing.
4. *Replay even what the table has*, as long as its memory of tokens is certain: that is what heals
   views. When it is not certain, look first; a range that is partly there waits for a person.
5. *Refused for good* means guilty rows are searched for outside the table, excluded by a commit,
   and the rest goes in under the same token. An error of a view is never taken apart: the same
   block is repeated until the view is mended.
6. *Quarantine after the table, before the closing commit.* After a clean first attempt it takes
   what was rejected; after anything else, everything of the range that the table does not hold.
7. *The closing commit of one range may carry the intent of the next*: one commit a batch.
8. *Look ahead before records flow.* What the table has behind the position is left out under a new
   walk; what the log has lost is a gap, reported and passed over.
9. *Doubt after a restart of the engine*: a token may be remembered whose rows were lost. The range
   is compared with the table; what is missing waits for a person.
"""

from __future__ import annotations

from msgspec import Struct, field, structs

from ingest.messages import (
    METADATA_VERSION,
    Action,
    Ahead,
    Assigned,
    Close,
    Commit,
    Committed,
    Drain,
    Drop,
    Event,
    Fault,
    Fenced,
    Forgotten,
    Found,
    Hold,
    Holding,
    Insert,
    InsertFailed,
    Intent,
    Look,
    LookAhead,
    Looked,
    Metadata,
    Open,
    Phase,
    Quarantine,
    Quarantined,
    ReadAgain,
    Ready,
    ReportGap,
    Reread,
    Search,
    State,
    Stored,
    Verified,
    Verify,
)
from ingest.runs import clip_runs, merge_runs
from shared.clickhouse.contract import Run


class ProtocolError(Exception):
    """An event that the phase cannot get: a mistake of ours."""


class Step(Struct, frozen=True):
    """The new state and what is to be done, in order."""

    state: State
    actions: tuple[Action, ...] = field(default=())


def insert_token(state: State, intent: Intent) -> str:
    """The deduplication token of a range: the same for every attempt by every owner."""
    return f"ph1:{state.name}:{state.stream:016x}:{state.walk}:{state.position}-{intent.next}"


def step(state: State, event: Event) -> Step:
    """What follows from one event.

    Raises:
        ProtocolError: The phase cannot get this event.
    """
    match event:
        case Assigned():
            return _assigned(state, event)
        case Fenced():
            return Step(structs.replace(state, phase=Phase.LOST), (Drop(),))
        case Committed():
            return _committed(state)
        case Reread():
            return _reread(state, event)
        case Ready():
            return _ready(state, event)
        case Ahead():
            return _ahead(state, event)
        case Stored():
            return _acknowledged(_expect(state, event, Phase.INSERTING), event)
        case Verified():
            return _verified(_expect(state, event, Phase.VERIFYING), event.missing)
        case InsertFailed():
            return _insert_failed(_expect(state, event, Phase.INSERTING), event.fault)
        case Forgotten():
            return _look(_expect(state, event, Phase.INSERTING))
        case Looked():
            return _looked(_expect(state, event, Phase.LOOKING), event.holding)
        case Found():
            return _found(_expect(state, event, Phase.SEARCHING), event.guilty)
        case Quarantined():
            return _close(_expect(state, event, Phase.QUARANTINING))
        case Drain():
            return _drain(state)


def _expect(state: State, event: Event, phase: Phase) -> State:
    if state.phase is not phase or state.intent is None:
        raise ProtocolError(f"{type(event).__name__} while {state.phase.value}")
    return state


def _metadata(state: State, intent: Intent | None) -> Metadata:
    return Metadata(
        version=METADATA_VERSION,
        stream=state.stream,
        walk=state.walk,
        intent=intent,
        partitions=state.partitions,
    )


def _assigned(state: State, event: Assigned) -> Step:
    ours = event.metadata is not None and event.metadata.stream == event.stream
    found = event.metadata if ours else None
    state = State(
        name=state.name,
        phase=Phase.CLAIMING,
        stream=event.stream,
        walk=found.walk if found else event.walk,
        position=event.offset,
        intent=found.intent if found else None,
        partitions=event.partitions,
    )
    return Step(state, (Commit(state.position, _metadata(state, state.intent)),))


def _committed(state: State) -> Step:
    match state.phase:
        case Phase.CLAIMING:
            if state.intent is None:
                return _open(state, ())
            return Step(
                structs.replace(state, phase=Phase.REREADING),
                (ReadAgain(state.position, state.intent.next),),
            )
        case Phase.DECLARING | Phase.EXCLUDING:
            return _insert(state)
        case Phase.CLOSING:
            return _closed(state)
        case _:
            raise ProtocolError(f"Committed while {state.phase.value}")


def _reread(state: State, event: Reread) -> Step:
    state = _expect(state, event, Phase.REREADING)
    assert state.intent is not None
    if event.log_end < state.intent.next:
        return _hold(
            state,
            f"the log ends at {event.log_end}, before the end of [{state.position},"
            f" {state.intent.next}), which was being inserted",
        )
    # What is left of a range that retention has reached keeps its token.
    gap = _gap(state.position, min(event.log_start, state.intent.next))
    state = structs.replace(state, is_repeat=True)
    following = _insert(state) if event.is_certain else _look(state)
    return Step(following.state, gap + following.actions)


def _gap(first: int, next_: int) -> tuple[Action, ...]:
    return (ReportGap(first, next_),) if first < next_ else ()


def _hold(state: State, reason: str) -> Step:
    return Step(structs.replace(state, phase=Phase.HELD), (Hold(reason),))


def _ready(state: State, event: Ready) -> Step:
    if state.draining or state.phase in (Phase.HELD, Phase.LOST):
        return Step(state)
    if state.phase is not Phase.OPEN:
        if state.intent is None or event.intent.next <= state.intent.next:
            raise ProtocolError(f"Ready({event.intent.next}) while {state.phase.value}")
        waiting = _leave_out(state, event.intent, state.intent.next)
        return Step(structs.replace(state, waiting=waiting))
    if event.intent.next <= state.position:
        raise ProtocolError(f"Ready({event.intent.next}) at {state.position}")
    intent = _leave_out(state, event.intent, state.position)
    state = structs.replace(state, phase=Phase.DECLARING, intent=intent)
    return Step(state, (Commit(state.position, _metadata(state, intent)),))


def _leave_out(state: State, intent: Intent, first: int) -> Intent:
    """The intent without what the table has already of its range, which begins at ``first``."""
    stored = clip_runs(state.ahead, first, intent.next)
    if not stored:
        return intent
    return structs.replace(intent, excluded=merge_runs(intent.excluded + stored))


def _is_repeat(state: State) -> bool:
    """Whether the table may hold rows of the range that the running attempt did not store."""
    return state.is_repeat or any(run.first + run.count > state.position for run in state.ahead)


def _insert(state: State, *, of_view: bool = False, is_absent: bool = False) -> Step:
    assert state.intent is not None
    state = structs.replace(state, phase=Phase.INSERTING, attempt=state.attempt + 1, refused=False)
    assert state.intent is not None
    action = Insert(
        first=state.position,
        next=state.intent.next,
        excluded=state.intent.excluded,
        token=insert_token(state, state.intent),
        attempt=state.attempt,
        is_repeat=_is_repeat(state) and not is_absent,
        of_view=of_view,
    )
    return Step(state, (action,))


def _look(state: State) -> Step:
    assert state.intent is not None
    state = structs.replace(state, phase=Phase.LOOKING)
    assert state.intent is not None
    return Step(state, (Look(state.position, state.intent.next),))


def _acknowledged(state: State, event: Stored) -> Step:
    if not event.is_doubtful:
        return _stored(state)
    assert state.intent is not None
    action = Verify(state.position, state.intent.next)
    return Step(structs.replace(state, phase=Phase.VERIFYING), (action,))


def _verified(state: State, missing: tuple[Run, ...]) -> Step:
    if not missing:
        return _stored(state)
    assert state.intent is not None
    count = sum(run.count for run in missing)
    return _hold(
        state,
        f"ClickHouse was restarted and {count} rows of [{state.position}, {state.intent.next})"
        f" are not in the table, the first at offset {missing[0].first}, though it takes them for"
        " stored; or they were deleted meanwhile",
    )


def _stored(state: State) -> Step:
    assert state.intent is not None
    action = Quarantine(
        first=state.position,
        next=state.intent.next,
        excluded=state.intent.excluded,
        token=insert_token(state, state.intent),
        is_complement=_is_repeat(state),
    )
    return Step(structs.replace(state, phase=Phase.QUARANTINING), (action,))


def _insert_failed(state: State, fault: Fault) -> Step:
    assert state.intent is not None
    match fault:
        case Fault.RETRIABLE:
            return _insert(state)
        case Fault.UNKNOWN:
            return _insert(structs.replace(state, is_repeat=True, unanswered=True))
        case Fault.VIEW:
            # The table and inner views may hold the block already.
            return _insert(structs.replace(state, is_repeat=True), of_view=True)
        case Fault.REFUSED if state.unanswered or _is_repeat(state):
            # An earlier attempt may have stored it: only a range the table knows nothing of may
            # lose rows to the search.
            return _look(structs.replace(state, refused=True))
        case Fault.REFUSED:
            return _search(state)


def _search(state: State) -> Step:
    assert state.intent is not None
    return Step(
        structs.replace(state, phase=Phase.SEARCHING),
        (Search(state.position, state.intent.next),),
    )


def _looked(state: State, holding: Holding) -> Step:
    assert state.intent is not None
    match holding:
        case Holding.ALL:
            return _stored(structs.replace(state, is_repeat=True))
        case Holding.PART:
            return _hold(
                state,
                f"the table holds only a part of [{state.position}, {state.intent.next}) and"
                " its memory of tokens is not certain",
            )
        case Holding.NOTHING if state.refused:
            return _search(state)
        case Holding.NOTHING:
            return _insert(state, is_absent=True)


def _found(state: State, guilty: tuple[Run, ...]) -> Step:
    assert state.intent is not None
    if not guilty:
        return _insert(structs.replace(state, is_repeat=True))
    excluded = merge_runs(state.intent.excluded + guilty)
    intent = structs.replace(state.intent, excluded=excluded)
    state = structs.replace(state, phase=Phase.EXCLUDING, intent=intent, unanswered=False)
    return Step(state, (Commit(state.position, _metadata(state, intent)),))


def _close(state: State) -> Step:
    assert state.intent is not None
    following = None if state.draining else state.waiting
    state = structs.replace(state, phase=Phase.CLOSING, waiting=following)
    assert state.intent is not None
    return Step(state, (Commit(state.intent.next, _metadata(state, following)),))


def _closed(state: State) -> Step:
    assert state.intent is not None
    done = Close(state.intent.next)
    state = structs.replace(
        state,
        position=state.intent.next,
        intent=state.waiting,
        waiting=None,
        attempt=0,
        is_repeat=False,
        unanswered=False,
    )
    if state.intent is None:
        return _open(state, (done,))
    following = _insert(state)
    return Step(following.state, (done, *following.actions))


def _open(state: State, before: tuple[Action, ...]) -> Step:
    """Go on with new records; the first time the way ahead is looked at before."""
    if state.is_flowing or state.draining:
        return Step(structs.replace(state, phase=Phase.OPEN), before)
    state = structs.replace(state, phase=Phase.LOOKING_AHEAD)
    return Step(state, (*before, LookAhead(state.position)))


def _ahead(state: State, event: Ahead) -> Step:
    if state.phase is not Phase.LOOKING_AHEAD:
        raise ProtocolError(f"Ahead while {state.phase.value}")
    if state.draining:
        return Step(structs.replace(state, phase=Phase.OPEN))
    if event.log_end < state.position:
        return _hold(
            state,
            f"the log ends at {event.log_end}, before the committed position {state.position}:"
            " records were lost, and their offsets may be used again",
        )
    position = max(state.position, event.log_start)
    gap = _gap(state.position, position)
    state = structs.replace(
        state,
        phase=Phase.OPEN,
        is_flowing=True,
        position=position,
        ahead=event.stored,
        walk=event.walk if event.stored else state.walk,
    )
    return Step(state, (*gap, Open(position)))


def _drain(state: State) -> Step:
    # A closing commit under way carries the waiting intent already: that one must be completed.
    waiting = state.waiting if state.phase is Phase.CLOSING else None
    return Step(structs.replace(state, draining=True, waiting=waiting))
