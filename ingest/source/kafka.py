"""Reads a topic of Kafka as a member of a consumer group.

The library joins the group, keeps the membership alive and fetches. What decides whether a record
is stored once is ours: commits go out under the member id and generation of the assignment and are
never repeated under another; no record passes before ``open``; positions are never reset by the
client. A rebalance takes every partition; the holder may finish the range under way before it
calls ``let_go``, for as long as the group waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka import errors as kafka_errors
from msgspec import Struct

from ingest.chunk import Chunk, Partition
from ingest.log.kafka_connection import KafkaConnection
from ingest.source.aiokafka_adapter import (
    CommitAnswer,
    GroupMember,
    Membership,
    polling,
    stop,
    take,
    topic_facts,
    wait_for_records,
)
from ingest.source.contract import Assignment, Poll
from ingest.source.kafka_lookup import Ask, LookedUp, assignments, look_up
from ingest.source.kafka_options import KafkaSourceOptions, fetch_options
from ingest.source.kafka_reader import RangeReader
from ingest.source.kafka_values import chunk_of
from shared.clock import steady_s
from shared.errors import LogUnavailableError

log = structlog.get_logger(__name__)

_REPEAT_COMMIT_AFTER_S = 0.1
# Between two questions about partitions that do not answer.
_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 10.0


class _Owned(Struct, kw_only=True):
    """A partition that was handed out; mutable because it is opened, paused and taken back."""

    membership: Membership
    log_end: int
    is_open: bool = False
    is_paused: bool = False


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]
    """Tells the source what the group decides; must not raise, the library would swallow it."""

    def __init__(self, source: KafkaSource) -> None:
        self._source = source

    async def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        await self._source._take_back()  # noqa: SLF001

    async def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        self._source._assign(assigned)  # noqa: SLF001


class KafkaSource:
    """The ``Source`` of one group over one topic of a cluster.

    Args:
        connection: The cluster.
        topic: Read by this source only, within this process and group.
        group: Whose commits these are.
        options: How it is read.
        create_topic: Makes the topic where it does not exist; without it its absence is an error.
        ask: Finds out about partitions before they are handed out.
    """

    def __init__(
        self,
        connection: KafkaConnection,
        topic: str,
        group: str,
        *,
        options: KafkaSourceOptions | None = None,
        create_topic: Callable[[str], Awaitable[object]] | None = None,
        ask: Ask = look_up,
    ) -> None:
        self._connection = connection
        self._topic = topic
        self._group = group
        self._options = options or KafkaSourceOptions()
        self._create_topic = create_topic
        self._ask = ask
        self._consumer: AIOKafkaConsumer | None = None
        self._member: GroupMember | None = None
        self._reader = RangeReader(connection, fetch_options(self._options))
        self._owned: dict[Partition, _Owned] = {}
        self._fresh: dict[Partition, Membership] = {}
        self._lookup: asyncio.Task[LookedUp] | None = None
        self._look_up_at_s = 0.0
        self._pause_s = _FIRST_PAUSE_S
        self._revoked: set[Partition] = set()
        self._kept: set[Partition] = set()
        self._lapsed: set[Partition] = set()
        self._all_let_go = asyncio.Event()
        self._changed = asyncio.Event()
        self._closed = False

    def __repr__(self) -> str:
        return f"KafkaSource({self._topic}, {self._group}, owned={len(self._owned)})"

    # Starting ---------------------------------------------------------------------------------

    async def _started(self) -> AIOKafkaConsumer:
        if self._consumer is not None:
            return self._consumer
        if self._create_topic is not None:
            await self._create_topic(self._topic)
        consumer = AIOKafkaConsumer(
            group_id=self._group,
            **self._connection.client_options(),
            **self._options.consumer_options(),
        )
        try:
            await consumer.start()
            await topic_facts(consumer, self._topic)
            self._member = GroupMember(consumer)
            consumer.subscribe([self._topic], listener=_Listener(self))
        except BaseException as error:
            await stop(consumer)
            if isinstance(error, kafka_errors.KafkaError):
                raise self._unavailable(error) from error
            raise
        self._consumer = consumer
        return consumer

    async def _start_anew(self, consumer: AIOKafkaConsumer) -> None:
        """Go on with a new client, as a new member: the old one does nothing any more."""
        self._consumer = None
        self._lose_everything()
        await stop(consumer)
        # What was assigned while it stopped.
        self._lose_everything()

    def _lose_everything(self) -> None:
        self._end_lookup()
        self._revoked |= self._owned.keys()
        for lost in (self._owned, self._fresh, self._lapsed, self._kept):
            lost.clear()
        self._all_let_go.set()

    def _unavailable(self, error: Exception) -> LogUnavailableError:
        if isinstance(error, kafka_errors.UnknownTopicOrPartitionError):
            return LogUnavailableError(
                f"Topic '{self._topic}' does not exist in Kafka.", hint="Create it."
            )
        return self._connection.failure(f"Kafka does not serve topic '{self._topic}'", error)

    # Rebalances -------------------------------------------------------------------------------

    async def _take_back(self) -> None:
        """The group is about to rebalance: wait for ranges under way, then let go of everything."""
        self._end_lookup()
        self._fresh.clear()
        self._lapsed.clear()
        self._revoked |= self._owned.keys()
        self._kept = set(self._owned)
        self._all_let_go.clear()
        self._changed.set()
        assert self._member is not None
        is_member = any(o.membership == self._member.membership for o in self._owned.values())
        if self._kept and is_member and not self._closed:
            try:
                async with asyncio.timeout(self._options.revoke_timeout_s):
                    await self._all_let_go.wait()
            except TimeoutError:
                log.warning("partitions_not_let_go", topic=self._topic, count=len(self._kept))
        self._owned.clear()

    def let_go(self, partition: Partition) -> None:
        """See ``Source``."""
        if partition in self._lapsed and (owned := self._owned.pop(partition, None)):
            self._lapsed.discard(partition)
            self._add_fresh(partition, owned.membership)
        self._kept.discard(partition)
        if not self._kept:
            self._all_let_go.set()

    def _assign(self, assigned: Iterable[TopicPartition]) -> None:
        assert self._member is not None
        membership = self._member.membership
        if membership is None:
            return
        self._member.renew(steady_s())
        for tp in assigned:
            self._pause(tp)
            self._add_fresh(Partition(tp.topic, tp.partition), membership)

    def _pause(self, tp: TopicPartition) -> None:
        if self._consumer is not None and tp in self._consumer.assignment():
            self._consumer.pause(tp)

    # Handing out ------------------------------------------------------------------------------

    def _add_fresh(self, partition: Partition, membership: Membership) -> None:
        self._fresh[partition] = membership
        self._look_up_soon()
        self._changed.set()

    def _look_up_soon(self) -> None:
        self._look_up_at_s, self._pause_s = 0.0, _FIRST_PAUSE_S

    def _fresh_ones(self, consumer: AIOKafkaConsumer) -> tuple[Assignment, ...]:
        """Hand out what was looked up; others are read while the rest is asked for."""
        assigned: tuple[Assignment, ...] = ()
        if self._lookup is not None and self._lookup.done():
            lookup, self._lookup = self._lookup, None
            if lookup.exception() is not None:
                # Whoever hears of it waits before the next poll.
                self._look_up_soon()
            assigned = self._hand_out(lookup.result())
        if self._fresh and self._lookup is None and steady_s() >= self._look_up_at_s:
            self._look_up_at_s = steady_s() + self._pause_s
            self._pause_s = min(self._pause_s * 2, _LONGEST_PAUSE_S)
            assert self._member is not None
            asking = self._ask(consumer, self._member, self._topic, dict(self._fresh))
            self._lookup = asyncio.create_task(asking)
            self._lookup.add_done_callback(lambda _: self._changed.set())
        return assigned

    def _end_lookup(self) -> None:
        lookup, self._lookup = self._lookup, None
        if lookup is not None and not lookup.cancel() and not lookup.cancelled():
            # It is over, and what it found or failed with is of no use any more.
            lookup.exception()

    def _hand_out(self, found: LookedUp) -> tuple[Assignment, ...]:
        if found.bounds.problems and self._pause_s >= _LONGEST_PAUSE_S:
            log.warning(
                "partitions_without_answer",
                topic=self._topic,
                partitions={tp.partition: why for tp, why in found.bounds.problems.items()},
            )
        wanted = {p for p, membership in found.fresh.items() if self._fresh.get(p) is membership}
        assigned = assignments(found, wanted, self._options)
        for one in assigned:
            membership = self._fresh.pop(one.partition)
            self._owned[one.partition] = _Owned(membership=membership, log_end=one.log_end)
        return tuple(assigned)

    # Reading ----------------------------------------------------------------------------------

    async def poll(self, *, max_rows: int, max_bytes: int, timeout_s: float) -> Poll:
        """See ``Source``."""
        consumer = await self._started()
        assert self._member is not None
        if failure := self._member.failure:
            log.error("kafka_client_failed", topic=self._topic, error=failure)
            await self._start_anew(consumer)
            consumer = await self._started()
        try:
            self._member.check()
            self._changed.clear()
            if self._revoked:
                revoked, self._revoked = tuple(self._revoked), set()
                return Poll(revoked=revoked)
            with polling(consumer):
                # Not awaited where a broker does not tell where partitions begin: a member that
                # does not poll is put out of its group, joins again, and is put out again.
                if assigned := self._fresh_ones(consumer):
                    return Poll(assigned=assigned)
                chunks = self._drain(consumer, max_rows, max_bytes)
                if not chunks:
                    await wait_for_records(consumer, self._changed, timeout_s)
                    chunks = self._drain(consumer, max_rows, max_bytes)
        except kafka_errors.KafkaError as error:
            raise self._unavailable(error) from error
        return Poll(chunks=tuple(chunks))

    def _drain(self, consumer: AIOKafkaConsumer, max_rows: int, max_bytes: int) -> list[Chunk]:
        """What was fetched of open partitions; the others get their turn at the next poll."""
        chunks = []
        for partition, owned in list(self._owned.items()):
            if not owned.is_open or owned.is_paused or max_rows <= 0 or max_bytes <= 0:
                continue
            try:
                fetched = take(
                    consumer,
                    TopicPartition(partition.topic, partition.number),
                    max_rows=max_rows,
                    max_bytes=max_bytes,
                    with_keys=self._options.with_keys,
                    with_headers=self._options.with_headers,
                )
            except kafka_errors.OffsetOutOfRangeError:
                self._reassign(partition, owned)
                continue
            if fetched is None:
                continue
            # The next poll begins with another partition.
            self._owned[partition] = self._owned.pop(partition)
            max_rows -= len(fetched.offsets)
            max_bytes -= fetched.size_bytes
            chunks.append(chunk_of(partition, fetched))
        return chunks

    def _reassign(self, partition: Partition, owned: _Owned) -> None:
        """Take a partition back; once it is let go it is handed out under the same membership."""
        owned.is_open = False
        self._pause(TopicPartition(partition.topic, partition.number))
        self._revoked.add(partition)
        self._lapsed.add(partition)
        self._changed.set()

    def open(self, partition: Partition, offset: int) -> None:
        """See ``Source``."""
        owned = self._owned.get(partition)
        tp = TopicPartition(partition.topic, partition.number)
        if owned is None or self._consumer is None or tp not in self._consumer.assignment():
            return
        owned.is_open, owned.is_paused = True, False
        self._consumer.seek(tp, offset)
        self._consumer.resume(tp)
        self._changed.set()

    def pause(self, partition: Partition) -> None:
        """See ``Source``."""
        if owned := self._owned.get(partition):
            owned.is_paused = True
            self._pause(TopicPartition(partition.topic, partition.number))

    def resume(self, partition: Partition) -> None:
        """See ``Source``."""
        owned = self._owned.get(partition)
        tp = TopicPartition(partition.topic, partition.number)
        if owned is None or self._consumer is None or tp not in self._consumer.assignment():
            return
        owned.is_paused = False
        self._consumer.resume(tp)
        self._changed.set()

    async def read(self, partition: Partition, first: int, next_: int) -> Sequence[Chunk]:
        """See ``Source``."""
        try:
            fetched = await self._reader.read(
                TopicPartition(partition.topic, partition.number),
                first,
                next_,
                with_keys=self._options.with_keys,
                with_headers=self._options.with_headers,
            )
        except kafka_errors.KafkaError as error:
            raise self._unavailable(error) from error
        return [chunk_of(partition, piece) for piece in fetched]

    async def bounds(self, partition: Partition) -> tuple[int, int]:
        """See ``Source``; the end is that of what was committed by its producers."""
        try:
            return await self._reader.bounds(TopicPartition(partition.topic, partition.number))
        except kafka_errors.KafkaError as error:
            raise self._unavailable(error) from error

    def lag(self, partition: Partition, position: int) -> int:
        """See ``Source``."""
        owned = self._owned.get(partition)
        tp = TopicPartition(partition.topic, partition.number)
        if owned is None or self._consumer is None or tp not in self._consumer.assignment():
            return 0
        end = self._consumer.highwater(tp)
        return max(0, (owned.log_end if end is None else end) - position)

    # Owning -----------------------------------------------------------------------------------

    def holds(self, partition: Partition) -> bool:
        """See ``Source``."""
        owned = self._owned.get(partition)
        return (
            owned is not None
            and self._member is not None
            and owned.membership == self._member.membership
            and self._member.lease_age_s < self._options.lease_s
        )

    async def commit(self, partition: Partition, offset: int, metadata: str) -> bool:
        """See ``Source``; what is not answered makes us leave the group and join anew."""
        assert self._member is not None
        tp = TopicPartition(partition.topic, partition.number)
        end_s = steady_s() + self._options.commit_timeout_s
        while (owned := self._owned.get(partition)) is not None:
            answer = CommitAnswer.UNKNOWN
            try:
                async with asyncio.timeout(self._options.commit_timeout_s):
                    answer = await self._member.commit(owned.membership, tp, offset, metadata)
                    if answer is CommitAnswer.REPEAT:
                        await asyncio.sleep(_REPEAT_COMMIT_AFTER_S)
                        await self._member.find_coordinator()
            except TimeoutError:
                pass
            if answer is CommitAnswer.DONE:
                return True
            if answer is CommitAnswer.UNKNOWN:
                log.warning("commit_not_answered", topic=tp.topic, partition=tp.partition)
                await self._member.leave(owned.membership)
            if answer is not CommitAnswer.REPEAT or steady_s() > end_s:
                return False
        return False

    async def release(self, partition: Partition) -> None:
        """See ``Source``; while the group rebalances, it is what assigns the partition anew."""
        owned = self._owned.get(partition)
        assert self._member is not None
        if owned is None or owned.membership != self._member.membership:
            return
        del self._owned[partition]
        self._pause(TopicPartition(partition.topic, partition.number))
        self._add_fresh(partition, owned.membership)

    async def close(self) -> None:
        """See ``Source``; leaves the group, so that others take over at once."""
        self._closed = True
        self._kept.clear()
        self._all_let_go.set()
        self._owned.clear()
        self._end_lookup()
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            await stop(consumer)
        await self._reader.close()
