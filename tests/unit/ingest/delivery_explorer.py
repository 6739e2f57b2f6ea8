"""Tries every interleaving of the delivery protocol in a small world, each state once."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import structs

from ingest import delivery as d
from ingest import messages as m
from shared.clickhouse.contract import Run
from tests.unit.ingest.delivery_world import (
    POISON,
    STREAM,
    Bug,
    Effect,
    LateCommit,
    Rows,
    Violation,
    Worker,
    World,
    check,
    land,
    rows_of,
)


class Explorer:
    """Enumerates every state that can be reached, once."""

    def __init__(
        self,
        *,
        records: int,
        crashes: int,
        faults: int,
        moves: int,
        rewinds: int = 0,
        deaths: int = 0,
        bug: Bug | None = None,
        remembers: bool = True,
    ) -> None:
        self.remembers = remembers
        self.start = World(records=records)
        self.crashes, self.faults, self.moves = crashes, faults, moves
        self.rewinds, self.deaths = rewinds, deaths
        self.bug = bug or Bug()
        self.finished = 0
        self.announced = 0

    def run(self, most_states: int = 5_000_000) -> int:
        """Visit everything; the number of states. Raises Violation with the story so far."""
        seen = {self.start}
        stack = [self.start]
        while stack:
            world = stack.pop()
            moved = False
            for following in self.moves_from(world):
                moved = True
                if following not in seen:
                    check(following, remembers=self.remembers)
                    seen.add(following)
                    stack.append(following)
                    assert len(seen) < most_states, "the model is larger than it was meant to be"
            if not moved:
                self._check_end(world)
        return len(seen)

    def _check_end(self, world: World) -> None:
        self.finished += 1
        if any(w.state.phase is m.Phase.HELD for w in world.workers) and world.deaths:
            # Announced: an operator brings the rows back. There must be some.
            if set(rows_of(0, world.records, ())) - {POISON} <= set(world.table):
                raise Violation(f"held, although nothing is missing: {world}")
            self.announced += 1
            return
        if world.offset != world.records:
            raise Violation(f"stuck at {world.offset}: {world}")

    # What may happen next -----------------------------------------------------------------

    def moves_from(self, world: World) -> Iterator[World]:
        active = next((w for w in world.workers if w.generation == world.generation), None)
        if active is None:
            yield self._assign(world)
        elif world.moves < self.moves:
            yield self._assign(structs.replace(world, moves=world.moves + 1))
        for effect in world.flying:
            gone = structs.replace(world, flying=world.flying - {effect})
            yield gone
            yield land(gone, effect.token, effect.rows)
            yield land(gone, effect.token, effect.rows, view=False)
        for late in world.late:
            gone = structs.replace(world, late=world.late - {late})
            yield gone
            if late.generation == world.generation or self.bug.commits_unfenced:
                yield structs.replace(gone, offset=late.offset, metadata=late.metadata)
        if world.rewinds < self.rewinds and _is_settled(world) and world.offset:
            for offset in range(world.offset):
                yield structs.replace(
                    world,
                    rewinds=world.rewinds + 1,
                    offset=offset,
                    metadata=None,
                    generation=world.generation + 1,
                )
        if not world.cured and world.faults < self.faults:
            yield structs.replace(world, cured=True, faults=world.faults + 1)
        for index, worker in enumerate(world.workers):
            if world.crashes < self.crashes:
                yield self._without(structs.replace(world, crashes=world.crashes + 1), index)
                yield self._drain(structs.replace(world, crashes=world.crashes + 1), index, worker)
            yield from self._prefetch(world, index, worker)
            if worker.todo:
                yield from self._act(world, index, worker)
            elif worker.state.draining:
                yield self._without(world, index)
            elif worker.generation == world.generation:
                yield from self._feed(world, index, worker)

    def _assign(self, world: World) -> World:
        generation = world.generation + 1
        metadata = world.metadata
        if metadata is not None and self.bug.overwrites_intent:
            metadata = structs.replace(metadata, intent=None)
        event = m.Assigned(
            offset=world.offset,
            metadata=metadata,
            stream=STREAM,
            walk=f"w{world.draws}",
        )
        fresh = world.metadata is None
        taken = d.step(m.State(name="t"), event)
        worker = Worker(generation=generation, state=taken.state, todo=taken.actions)
        kept = tuple(w for w in world.workers if w.todo)[-1:]
        return structs.replace(
            world, generation=generation, draws=world.draws + fresh, workers=(*kept, worker)
        )

    def _without(self, world: World, index: int) -> World:
        dead = world.workers[index]
        workers = world.workers[:index] + world.workers[index + 1 :]
        generation = world.generation + (dead.generation == world.generation)
        return structs.replace(world, workers=workers, generation=generation)

    def _feed(self, world: World, index: int, worker: Worker) -> Iterator[World]:
        """A batch closes: any length, after what is under way."""
        state = worker.state
        if state.phase is m.Phase.OPEN:
            for next_ in range(state.position + 1, world.records + 1):
                yield self._tell(world, index, worker, m.Ready(_intent(world, next_)))

    def _prefetch(self, world: World, index: int, worker: Worker) -> Iterator[World]:
        """A batch closes while the one before is being inserted."""
        state = worker.state
        is_free = state.waiting is None and state.is_flowing and not state.draining
        if state.phase is m.Phase.INSERTING and state.intent is not None and is_free:
            for next_ in range(state.intent.next + 1, world.records + 1):
                taken = d.step(state, m.Ready(_intent(world, next_)))
                assert not taken.actions
                yield self._with(world, index, structs.replace(worker, state=taken.state))

    def _drain(self, world: World, index: int, worker: Worker) -> World:
        """The worker is told to finish what is under way and leave."""
        taken = d.step(worker.state, m.Drain())
        assert not taken.actions
        return self._with(world, index, structs.replace(worker, state=taken.state))

    def _with(self, world: World, index: int, worker: Worker) -> World:
        workers = (*world.workers[:index], worker, *world.workers[index + 1 :])
        return structs.replace(world, workers=workers)

    def _tell(self, world: World, index: int, worker: Worker, event: m.Event) -> World:
        taken = d.step(worker.state, event)
        todo = tuple(
            a for a in worker.todo[1:] + taken.actions if not isinstance(a, m.Close | m.Open)
        )
        changed = structs.replace(worker, state=taken.state, todo=todo)
        return self._with(world, index, changed)

    # What one action may come to -----------------------------------------------------------------

    def _act(self, world: World, index: int, worker: Worker) -> Iterator[World]:
        action = worker.todo[0]
        none: frozenset[str] = frozenset()
        may_fail = world.faults < self.faults
        failing = structs.replace(world, faults=world.faults + 1)
        match action:
            case m.Commit():
                yield from self._commit(world, index, worker, action, may_fail)
            case m.ReadAgain():
                if world.flying:
                    return  # waits until nothing of an earlier attempt runs
                if self.bug.skips_replay and set(rows_of(action.first, action.next, ())) <= set(
                    world.table
                ):
                    skipped = structs.replace(worker, state=_inserting(worker.state))
                    yield self._tell(world, index, skipped, m.Stored())
                    return
                if not self.remembers:
                    world = structs.replace(world, table_tokens=none, view_tokens=none)
                reread = m.Reread(log_start=0, log_end=world.records, is_certain=self.remembers)
                yield self._tell(world, index, worker, reread)
            case m.Insert():
                if world.flying and action.attempt > 1:
                    return
                if not self.remembers and action.is_repeat:
                    world = structs.replace(world, table_tokens=none, view_tokens=none)
                    if not self.bug.repeats_forgotten:
                        yield self._tell(world, index, worker, m.Forgotten())
                        return
                yield from self._insert(world, failing, index, worker, action, may_fail)
            case m.LookAhead():
                if not world.flying:
                    yield self._look_ahead(world, index, worker, action)
            case m.Look():
                if not world.flying:
                    yield self._tell(world, index, worker, m.Looked(_holding(world, action)))
            case m.Verify():
                wanted = set(rows_of(action.first, action.next, _excluded(worker)))
                lost = tuple(Run(o, 1) for o in sorted(wanted - set(world.table)))
                yield self._tell(world, index, worker, m.Verified(lost))
            case m.Search():
                guilty = action.first <= POISON < action.next and not world.cured
                yield self._tell(world, index, worker, m.Found((Run(POISON, 1),) if guilty else ()))
            case m.Quarantine():
                yield self._quarantine(world, index, worker, action)
            case m.Hold():
                pass  # an operator is needed; modelled by the worker being restarted
            case m.Drop():
                yield self._without(world, index)

    def _look_ahead(self, world: World, index: int, worker: Worker, action: m.LookAhead) -> World:
        found = [Run(o, 1) for o in world.table if o >= action.position]
        if self.bug.looks_not_ahead:
            found = []
        drawn = structs.replace(world, draws=world.draws + bool(found))
        event = m.Ahead(
            log_start=0, log_end=world.records, stored=tuple(found), walk=f"a{world.draws}"
        )
        return self._tell(drawn, index, worker, event)

    def _commit(
        self, world: World, index: int, worker: Worker, action: m.Commit, may_fail: bool
    ) -> Iterator[World]:
        metadata = action.metadata
        if self.bug.forgets_intent:
            metadata = structs.replace(metadata, intent=None)
        is_owner = worker.generation == world.generation
        applied = structs.replace(world, offset=action.offset, metadata=metadata)
        if not is_owner and not self.bug.commits_unfenced:
            yield self._tell(world, index, worker, m.Fenced())
            return
        yield self._tell(applied, index, worker, m.Committed())
        if self.bug.forgets_intent and worker.state.phase is m.Phase.DECLARING:
            return
        if may_fail:
            used = world.faults + 1
            unanswered = structs.replace(world, faults=used)
            yield self._tell(unanswered, index, worker, m.Fenced())
            yield self._tell(structs.replace(applied, faults=used), index, worker, m.Fenced())
            late = LateCommit(worker.generation, action.offset, metadata)
            yield self._tell(
                structs.replace(unanswered, late=world.late | {late}),
                index,
                worker,
                m.Fenced(),
            )

    def _insert(
        self,
        world: World,
        failing: World,
        index: int,
        worker: Worker,
        action: m.Insert,
        may_fail: bool,
    ) -> Iterator[World]:
        if worker.generation != world.generation and not self.bug.ignores_lease:
            yield self._tell(world, index, worker, m.Fenced())
            return
        token = self.bug.token(worker.state, action.token)
        rows = rows_of(action.first, action.next, action.excluded)
        if self.bug.commits_before_insert:
            ahead = d._metadata(worker.state, None)
            world = structs.replace(world, offset=action.next, metadata=ahead)
            failing = structs.replace(failing, offset=action.next, metadata=ahead)
        if POISON in rows and not world.cured and token not in world.table_tokens:
            yield self._tell(world, index, worker, m.InsertFailed(m.Fault.REFUSED))
            return
        stored = m.Stored(self._is_doubtful(world, worker))
        yield self._tell(land(world, token, rows), index, worker, stored)
        if rows and world.deaths < self.deaths:
            yield from self._die(world, index, worker, token, rows)
        if not may_fail:
            return
        tell = self._tell
        yield tell(failing, index, worker, m.InsertFailed(m.Fault.RETRIABLE))
        unknown = m.InsertFailed(m.Fault.UNKNOWN)
        yield tell(land(failing, token, rows), index, worker, unknown)
        yield tell(land(failing, token, rows, view=False), index, worker, unknown)
        flying = structs.replace(failing, flying=failing.flying | {Effect(token, rows)})
        yield tell(flying, index, worker, unknown)
        viewless = land(failing, token, rows, view=False)
        if self.bug.splits_view_errors:
            for row in rows:
                viewless = land(viewless, f"{token}:{row}", (row,))
            yield tell(viewless, index, worker, m.Stored())
        else:
            yield tell(viewless, index, worker, m.InsertFailed(m.Fault.VIEW))

    def _is_doubtful(self, world: World, worker: Worker) -> bool:
        assert worker.state.intent is not None
        is_same = worker.state.intent.boot == f"b{world.deaths}"
        return not is_same and not self.bug.trusts_restarted_engine

    def _die(
        self, world: World, index: int, worker: Worker, token: str, rows: Rows
    ) -> Iterator[World]:
        """The engine dies amid an insert; it may have written down a token before its rows."""
        dead = structs.replace(world, deaths=world.deaths + 1)
        orphaned = structs.replace(dead, table_tokens=dead.table_tokens | {token})
        unknown = m.InsertFailed(m.Fault.UNKNOWN)
        for after in (dead, orphaned, land(dead, token, rows), land(dead, token, rows, view=False)):
            yield self._tell(after, index, worker, unknown)

    def _quarantine(self, world: World, index: int, worker: Worker, action: m.Quarantine) -> World:
        span = range(action.first, action.next)
        if action.is_complement:
            wanted = set(span) - set(world.table)
        else:
            wanted = set(span) - set(rows_of(action.first, action.next, action.excluded))
        stored = structs.replace(world, quarantine=world.quarantine | wanted)
        return self._tell(stored, index, worker, m.Quarantined())


def _is_settled(world: World) -> bool:
    """Whether the group is at rest, as an operator leaves it who moves its position."""
    return (
        world.metadata is not None
        and world.metadata.intent is None
        and not world.flying
        and all(not w.todo for w in world.workers)
    )


def _intent(world: World, next_: int) -> m.Intent:
    return m.Intent(next=next_, at_ms=0, boot=f"b{world.deaths}", schema="s")


def _inserting(state: m.State) -> m.State:
    return structs.replace(state, phase=m.Phase.INSERTING, is_repeat=True)


def _excluded(worker: Worker) -> tuple[Run, ...]:
    assert worker.state.intent is not None
    return worker.state.intent.excluded


def _holding(world: World, action: m.Look) -> m.Holding:
    wanted = set(rows_of(action.first, action.next, ()))
    held = wanted & set(world.table)
    if not held:
        return m.Holding.NOTHING
    # The poison may be excluded: what is missing is then no part of the block.
    return m.Holding.ALL if held >= wanted - {POISON} else m.Holding.PART
