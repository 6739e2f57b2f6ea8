"""One topic and group whose workers die one after another, each at a step that is named."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.process import BaseProcess

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic, RecordsToDelete
from aiokafka.protocol.group import LeaveGroupRequest
from msgspec import Struct

from ingest.chunk import Partition
from ingest.log.facts import Position
from ingest.log.kafka_facts import KafkaLogFacts
from ingest.messages import decode_metadata
from tests.faults.nursery import start_worker
from tests.faults.truth import Record, read_everything
from tests.faults.world import TABLE, Place

# Far more than is needed: what waits for it has failed.
_PATIENCE_S = 60.0


class Death(Struct, frozen=True):
    """A worker dies at the ``count``-th time it comes to a step; whether a range is open then."""

    action: str
    moment: str
    count: int
    leaves_open: bool


class Cluster(Struct, frozen=True, kw_only=True):
    """Clients that lanes share."""

    producer: AIOKafkaProducer
    admin: AIOKafkaAdminClient
    facts: KafkaLogFacts


class Lane:
    """A topic with one partition, so that whoever comes next has to take over.

    Args:
        place: Where everything lands; lanes share its tables.
        cluster: The broker.
        name: Prefix of topic and group.
        values: Makes the values of some more records.
        environ: More settings of its workers.
    """

    def __init__(
        self,
        place: Place,
        cluster: Cluster,
        name: str,
        values: Callable[[], Sequence[bytes | None]],
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self._cluster = cluster
        self._values = values
        self._environ = {
            **place.environ(proxied=False),
            "PIPEHOUSE_TOPIC_PREFIX": f"{name}.",
            "PIPEHOUSE_GROUP_PREFIX": f"{name}-group.",
            **(environ or {}),
        }
        self.topic = f"{name}.{TABLE}"
        self.group = f"{name}-group.{TABLE}"
        self.partition = Partition(self.topic, 0)
        self.truth: list[Record] = []
        self._log = place.folder / f"{name}.log"
        self._worker: BaseProcess | None = None

    async def create(self) -> None:
        """Make the topic."""
        await self._cluster.admin.create_topics([NewTopic(self.topic, 1, 1)])
        async with asyncio.timeout(_PATIENCE_S):
            while True:
                if await self._cluster.facts.partitions(self.topic):
                    return
                await asyncio.sleep(0.05)

    async def send(self) -> None:
        """Some more records; they have arrived."""
        producer = self._cluster.producer
        sent = [await producer.send(self.topic, v, key=b"k", partition=0) for v in self._values()]
        await asyncio.gather(*sent)

    async def die(self, *deaths: Death) -> None:
        """Let workers die, one after another; each finds what the one before has left."""
        for death in deaths:
            await self.send()
            self.start(death)
            await self.dead(death)

    def start(self, death: Death | None = None) -> None:
        """Start the next worker."""
        crash = (death.action, death.moment, str(death.count)) if death else ()
        self._worker = start_worker(self._log, self._environ, crash)

    async def dead(self, death: Death) -> None:
        """Wait until the worker has died there.

        Raises:
            AssertionError: It did not, or the log says something else.
        """
        worker = self._worker
        assert worker is not None
        async with asyncio.timeout(_PATIENCE_S):
            while worker.exitcode is None:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        assert worker.exitcode == -signal.SIGKILL, f"{death}: {worker.exitcode}\n{self._words()}"
        self._worker = None
        await self.evict()
        position = await self.position()
        metadata = decode_metadata(position.metadata) if position else None
        is_open = metadata is not None and metadata.intent is not None
        assert is_open is death.leaves_open, f"{death}: {position}\n{self._words()}"

    async def evict(self) -> None:
        """Take everybody for dead, as the broker does when a session is over."""
        admin = self._cluster.admin
        (answer,) = await admin.describe_consumer_groups([self.group])
        ((_, _, _, _, _, members, *_),) = answer.groups
        node = await admin.find_coordinator(self.group)
        for member_id, *_ in members:
            await admin._send_request(LeaveGroupRequest(self.group, member_id), node)

    async def position(self) -> Position | None:
        """Where the group stands."""
        return (await self._cluster.facts.positions(self.group, self.topic)).get(0)

    async def lose(self, offset: int) -> None:
        """Retention removes what lies before an offset."""
        tp = TopicPartition(self.topic, 0)
        await self._cluster.admin.delete_records({tp: RecordsToDelete(before_offset=offset)})

    async def end(self) -> int:
        """The offset behind the last record."""
        (facts,) = await self._cluster.facts.partitions(self.topic)
        return facts.end

    async def move(self, position: Position) -> None:
        """Move the group, which has no members."""
        await self._cluster.facts.move(self.group, self.partition, position)

    async def snapshot(self) -> None:
        """Keep what is in the topic, before it goes."""
        self.truth += await read_everything(self._cluster.facts, self.topic)

    async def finish(self) -> None:
        """A worker that stays alive completes everything; what was to be stored is in ``truth``."""
        self.start()
        end = await self.end()
        async with asyncio.timeout(_PATIENCE_S):
            while True:
                position = await self.position()
                metadata = decode_metadata(position.metadata) if position else None
                if position and position.offset == end and metadata and metadata.intent is None:
                    break
                assert self._worker is not None and self._worker.is_alive(), self._words()
                await asyncio.sleep(0.1)
        await self.snapshot()
        await asyncio.to_thread(self.close)

    def close(self) -> None:
        """No worker of the lane runs any more."""
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.kill()
            worker.join()

    def _words(self) -> str:
        return self._log.read_text(errors="replace")[-3000:]
