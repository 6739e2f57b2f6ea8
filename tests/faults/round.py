"""One round: start workers, do what the plan says while messages come in, let everything settle."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from contextlib import suppress

from msgspec import Struct, field

from ingest.log.kafka_connection import plain_connection
from ingest.log.kafka_facts import KafkaLogFacts
from ingest.messages import decode_metadata
from shared.errors import LogUnavailableError
from tests.chaos.site import wait_until_dead
from tests.faults import plan as p
from tests.faults.messages import messages
from tests.faults.producer import Producers
from tests.faults.truth import Record, read_everything
from tests.faults.victim import SESSION_S
from tests.faults.workers import Workers
from tests.faults.world import TABLE, Place

START_TIMEOUT_S = 60.0
# Steps that are rare may not be reached in this time.
DIE_TIMEOUT_S = SESSION_S + 6.0
SETTLE_TIMEOUT_S = 120.0


class Happened(Struct, kw_only=True):
    """What a round was; mutable, it is written while it goes on."""

    truth: list[Record] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    engine_died: bool = False
    is_settled: bool = False
    steps_reached: int = 0
    producer_errors: int = 0


class Round:
    """Does a plan at a place.

    Args:
        place: Database, topic and group of its own.
        plan: What happens.
        seed: Of everything that the plan leaves open.
        say: Told what happens.
    """

    def __init__(self, place: Place, plan: p.Plan, seed: str, say: Callable[[str], object]) -> None:
        self._place = place
        self._plan = plan
        self._say = say
        self._rng = random.Random(f"{seed}:round")
        self._world = place.world
        self._workers = Workers(place, self._rng)
        servers = self._world.broker.bootstrap_servers
        self._facts = KafkaLogFacts(plain_connection(servers))
        stream = messages(self._rng.randrange(1 << 30))
        self._producers = Producers(servers, place.topic, stream, self._rng, self._facts)
        self.happened = Happened()

    async def run(self) -> Happened:
        """Everything; afterwards no worker runs and all faults are over."""
        try:
            await self._producers.create(self._plan.partitions)
            for _ in range(self._plan.workers):
                self._workers.start()
            self._producers.start()
            await self._wait_for_rows()
            for step in self._plan.steps:
                await self._wait(step.after_s)
                self._say(f"  {step.fault}")
                self.happened.faults.append(type(step.fault).__name__)
                await self._do(step.fault)
            await self._wait(1.0)
            await self._producers.stop()
            self._heal()
            self.happened.is_settled = await self._settle()
            self.happened.truth += await read_everything(self._facts, self._place.topic)
            await self._stop_workers()
            return self.happened
        finally:
            self.happened.steps_reached = self._workers.steps_reached
            self.happened.producer_errors = self._producers.errors
            self._workers.end()
            self._heal()
            await self._producers.stop()
            await self._facts.close()

    def _heal(self) -> None:
        self._world.proxy.resume()
        self._world.standin.clear_faults()

    async def _wait(self, seconds: float) -> None:
        """Let things go on; who died at a step is replaced."""
        end_s = asyncio.get_running_loop().time() + seconds
        while asyncio.get_running_loop().time() < end_s:
            self._workers.replace_dead()
            await asyncio.sleep(0.05)

    async def _stop_workers(self) -> None:
        for worker in list(self._workers.alive):
            await asyncio.to_thread(self._workers.stop, worker)

    # Faults -----------------------------------------------------------------------------------

    async def _do(self, fault: p.Fault) -> None:
        match fault:
            case p.DieAtStep():
                await self._replace_by_one_that_dies(fault)
            case p.KillWorker():
                if worker := self._workers.any():
                    self._workers.kill(worker)
                    self._workers.start()
            case p.KillAllInserting():
                await self._kill_all_inserting()
            case p.SuspendWorker():
                await self._suspend(fault)
            case p.JoinWorker():
                self._workers.start()
            case p.LeaveWorker():
                await self._leave()
            case p.KillBroker() | p.CutBroker() | p.SilenceBroker():
                await self._harm_broker(fault)
            case p.RefuseInserts() | p.SlowInserts() | p.CutEngine() | p.KillEngine():
                await self._harm_engine(fault)
            case p.AddPartitions():
                await self._alone(self._producers.add_partition)
            case p.RecreateTopic():
                await self._recreate()

    async def _replace_by_one_that_dies(self, fault: p.DieAtStep) -> None:
        if worker := self._workers.any():
            self._workers.kill(worker)
        dying = self._workers.start(fault.action, fault.moment, str(fault.count))
        # Until the others have noticed that one is missing, it gets nothing to do.
        end_s = asyncio.get_running_loop().time() + DIE_TIMEOUT_S
        while dying in self._workers.alive and asyncio.get_running_loop().time() < end_s:
            await self._wait(0.1)

    async def _wait_for_rows(self) -> None:
        """What goes wrong before anything is stored would go wrong for nobody."""
        async with asyncio.timeout(START_TIMEOUT_S):
            while self._place.ask(f"SELECT count() FROM DB.{TABLE}") == [["0"]]:
                await self._wait(0.1)

    async def _slow_down_an_insert(self, seconds: float) -> None:
        """Returns when one waits."""
        standin = self._world.standin
        standin.clear_faults()
        standin.fault("delay", at="before", table=TABLE, seconds=seconds)
        for _ in range(20):
            await self._wait(0.1)
            if standin.faults()[0].get("hits"):
                return

    async def _kill_all_inserting(self) -> None:
        lasts_s = SESSION_S + 3.0
        await self._slow_down_an_insert(lasts_s)
        for worker in list(self._workers.alive):
            self._workers.kill(worker)
            self._workers.start()
        # Others take over when the session is over, and are at work when the insert arrives.
        await self._wait(lasts_s)

    async def _suspend(self, fault: p.SuspendWorker) -> None:
        worker = self._workers.any()
        if worker is None:
            return
        if fault.is_inserting:
            await self._slow_down_an_insert(1.0)
        self._workers.suspend(worker)
        await self._wait(SESSION_S + 1.5)
        self._workers.resume(worker)

    async def _leave(self) -> None:
        if len(self._workers.alive) < 2:
            self._workers.start()
        if worker := self._workers.any():
            await asyncio.to_thread(self._workers.stop, worker)

    async def _harm_broker(self, fault: p.KillBroker | p.CutBroker | p.SilenceBroker) -> None:
        proxy, broker = self._world.proxy, self._world.broker
        match fault:
            case p.KillBroker():
                await asyncio.to_thread(broker.kill)
                await self._wait(fault.down_s)
                await asyncio.to_thread(broker.start)
            case p.CutBroker():
                proxy.cut_after(fault.after_bytes, fault.direction)
            case p.SilenceBroker():
                proxy.stall("answer")
                await self._wait(fault.for_s)
                proxy.resume()

    async def _harm_engine(
        self, fault: p.RefuseInserts | p.SlowInserts | p.CutEngine | p.KillEngine
    ) -> None:
        standin = self._world.standin
        match fault:
            case p.RefuseInserts():
                about: dict[str, object] = {
                    "code": fault.code,
                    "name": fault.name,
                    "text": fault.text,
                }
                about |= {"at": fault.at, "table": fault.table}
                standin.fault("refuse", times=fault.times, **about)
            case p.SlowInserts():
                standin.fault("delay", table=TABLE, seconds=fault.seconds, times=fault.times)
            case p.CutEngine():
                standin.fault(fault.action, at=fault.at, table=fault.table, times=fault.times)
            case p.KillEngine():
                self.happened.engine_died = True
                if fault.at is not None:
                    standin.fault("die", at=fault.at, table=TABLE)
                    await asyncio.to_thread(wait_until_dead, standin, 3.0)
                await asyncio.to_thread(standin.restart, kill=True)

    # The topic --------------------------------------------------------------------------------

    async def _alone(self, change: Callable[[], object]) -> None:
        """Change the topic while nobody sends."""
        await self._producers.stop()
        result = change()
        assert asyncio.iscoroutine(result)
        await result
        self._producers.start()

    async def _recreate(self) -> None:
        """What is in the topic goes with it, so all of it must be stored before."""
        await self._producers.stop()
        self._heal()
        if not await self._settle():
            self._say("  (not settled: the topic stays)")
        else:
            self.happened.truth += await read_everything(self._facts, self._place.topic)
            await self._producers.delete()
            await self._producers.create(self._plan.partitions)
        self._producers.start()

    async def _settle(self) -> bool:
        """Wait until everything is stored; False when a partition waits for a person.

        Raises:
            TimeoutError: Neither comes to be.
        """
        async with asyncio.timeout(SETTLE_TIMEOUT_S):
            while True:
                self._workers.replace_dead()
                with suppress(LogUnavailableError):
                    # The broker may have come back a moment ago.
                    if await self._is_done():
                        return True
                if self.happened.engine_died and self._workers.said("partition_held"):
                    return False
                await asyncio.sleep(0.2)

    async def _is_done(self) -> bool:
        """Whether every position stands at the end of its partition, with no range open."""
        positions = await self._facts.positions(self._place.group, self._place.topic)
        for facts in await self._facts.partitions(self._place.topic):
            position = positions.get(facts.partition.number)
            if position is None:
                if facts.end:
                    return False
                continue
            metadata = decode_metadata(position.metadata)
            if metadata is None or metadata.stream != facts.stream:
                return False
            if metadata.intent is not None or position.offset != facts.end:
                return False
        return True
