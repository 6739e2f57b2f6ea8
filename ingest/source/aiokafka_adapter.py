"""Everything that touches the inside of aiokafka, which is pinned exactly because of it.

Its public interface commits under the member and generation of the moment, makes an object of
every record, and does not know topic ids. ``tests/kafka/test_adapter.py`` fails when one of the
names used here moves.
"""

# The point of this module is to reach into another library, in one place.
# ruff: noqa: SLF001

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Sequence
from enum import Enum
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka import errors as kafka_errors
from aiokafka.consumer import fetcher as aiokafka_fetcher
from aiokafka.consumer.fetcher import FetchResult
from aiokafka.protocol.commit import OffsetCommitRequest, OffsetFetchRequest
from aiokafka.protocol.offset import OffsetRequest
from msgspec import Struct

from ingest.source.kafka_requests import MetadataRequest
from ingest.source.lenient_records import KeptRecords
from ingest.source.record_lists import RecordLists
from shared.clock import steady_s

PINNED_VERSION = "0.14.0"


class Membership(Struct, frozen=True):
    """Who we are in the group; an evicted member never gets the same pair again."""

    member_id: str
    generation: int


class CommitAnswer(Enum):
    """What is known of a commit.

    ``REPEAT``: it had no effect and may be sent again under the same membership. ``UNKNOWN``: it
    may have taken effect, or may yet.
    """

    DONE = "done"
    REFUSED = "refused"
    REPEAT = "repeat"
    UNKNOWN = "unknown"


class Fetched(Struct, frozen=True, kw_only=True):
    """Consecutive records as parallel lists; ``next`` is where to read on."""

    offsets: Sequence[int]
    values: Sequence[bytes | None]
    timestamps_ms: Sequence[int]
    keys: Sequence[bytes | None] | None
    headers: Sequence[Any] | None
    size_bytes: int
    next: int


_REPEATABLE = {
    kafka_errors.GroupLoadInProgressError,
    kafka_errors.GroupCoordinatorNotAvailableError,
    kafka_errors.NotCoordinatorForGroupError,
}
_NOT_A_MEMBER = {kafka_errors.UnknownMemberIdError, kafka_errors.IllegalGenerationError}
_REFUSALS = _NOT_A_MEMBER | {
    kafka_errors.RebalanceInProgressError,
    kafka_errors.OffsetMetadataTooLargeError,
    kafka_errors.InvalidCommitOffsetSizeError,
    kafka_errors.UnknownTopicOrPartitionError,
    kafka_errors.GroupAuthorizationFailedError,
    kafka_errors.TopicAuthorizationFailedError,
}


class GroupMember:
    """One consumer's place in its group: identity, lease, and commits that are really fenced.

    Args:
        consumer: Started, with a group.
    """

    def __init__(self, consumer: AIOKafkaConsumer) -> None:
        self._coordinator: Any = consumer._coordinator
        self._fetcher: Any = consumer._fetcher
        self._group: str = self._coordinator.group_id
        self._one_commit = asyncio.Lock()
        self._renewed_s = 0.0
        heartbeat = self._coordinator._do_heartbeat

        async def counted_heartbeat() -> bool:
            sent_s = steady_s()
            answered = bool(await heartbeat())
            if answered:
                self.renew(sent_s)
            return answered

        self._coordinator._do_heartbeat = counted_heartbeat

    @property
    def membership(self) -> Membership | None:
        """Who we are now; None while we are nobody."""
        if self._coordinator.generation < 0 or not self._coordinator.member_id:
            return None
        return Membership(self._coordinator.member_id, self._coordinator.generation)

    @property
    def lease_age_s(self) -> float:
        """Seconds since the broker certainly counted us as a member."""
        return steady_s() - self._renewed_s

    def renew(self, sent_s: float) -> None:
        """The broker answered something that was sent at this time."""
        self._renewed_s = max(self._renewed_s, sent_s)

    @property
    def failure(self) -> str:
        """The mistake that has ended what the library does in the background, for good."""
        tasks = (self._coordinator._coordination_task, self._fetcher._fetch_task)
        return "; ".join(str(t.exception()) for t in tasks if t.done() and not t.cancelled())

    def check(self) -> None:
        """Raise what went wrong in the background.

        Raises:
            KafkaError: The group cannot be joined.
        """
        self._coordinator.check_errors()

    async def commit(
        self, membership: Membership, partition: TopicPartition, offset: int, metadata: str
    ) -> CommitAnswer:
        """Commit under exactly this membership, once; never two at a time."""
        entry = (partition.topic, [(partition.partition, offset, metadata)])
        request = OffsetCommitRequest(
            self._group, membership.generation, membership.member_id, -1, [entry]
        )
        async with self._one_commit:
            sent_s = steady_s()
            try:
                response = await self._coordinator._send_req(request)
            except (
                kafka_errors.NodeNotReadyError,
                kafka_errors.GroupCoordinatorNotAvailableError,
            ):
                return CommitAnswer.REPEAT
            except kafka_errors.KafkaError:
                return CommitAnswer.UNKNOWN
        ((_, ((_, code),)),) = response.topics
        return self._judge(kafka_errors.for_code(code), membership, sent_s)

    def _judge(self, error: type[Exception], membership: Membership, sent_s: float) -> CommitAnswer:
        if error is kafka_errors.NoError:
            self.renew(sent_s)
            return CommitAnswer.DONE
        if error in _REPEATABLE:
            if error is not kafka_errors.GroupLoadInProgressError:
                self._coordinator.coordinator_dead()
            return CommitAnswer.REPEAT
        if error in _NOT_A_MEMBER and membership == self.membership:
            self._coordinator.reset_generation()
        elif error is kafka_errors.RebalanceInProgressError:
            self._coordinator.request_rejoin()
        return CommitAnswer.REFUSED if error in _REFUSALS else CommitAnswer.UNKNOWN

    async def find_coordinator(self) -> None:
        """Wait until the group's broker is known again."""
        await self._coordinator.ensure_coordinator_known()

    async def leave(self, membership: Membership) -> None:
        """Stop being this member; a new one joins by itself, and what this one sent is refused."""
        if membership != self.membership:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(5.0):
                await self._coordinator._maybe_leave_group()
        if membership == self.membership:
            self._coordinator.reset_generation()

    async def committed(
        self, partitions: Sequence[TopicPartition]
    ) -> dict[TopicPartition, tuple[int, str] | None]:
        """Offset and metadata of each partition; None only where the broker says there is none.

        Raises:
            KafkaError: It is not known.
        """
        topics: dict[str, list[int]] = {}
        for partition in partitions:
            topics.setdefault(partition.topic, []).append(partition.partition)
        await self._coordinator.ensure_coordinator_known()
        request = OffsetFetchRequest(self._group, list(topics.items()))
        response = await self._coordinator._send_req(request)
        found: dict[TopicPartition, tuple[int, str] | None] = {}
        for topic, entries in response.topics:
            for number, offset, metadata, code in entries:
                _raise_for(code)
                known = None if offset == -1 else (offset, metadata or "")
                found[TopicPartition(topic, number)] = known
        _raise_for(getattr(response, "error_code", 0))
        if missing := set(partitions) - found.keys():
            raise kafka_errors.UnknownTopicOrPartitionError(str(missing))
        return found


def _raise_for(code: int) -> None:
    error = kafka_errors.for_code(code)
    if error is not kafka_errors.NoError:
        raise error()


async def stop(consumer: AIOKafkaConsumer) -> None:
    """Leave the group and disconnect, also where the library has failed in the background."""
    try:
        await consumer.stop()
    except kafka_errors.KafkaError:
        # It has stopped half-way.
        fetches = consumer._fetcher._pending_tasks
        for task in fetches:
            task.cancel()
        await asyncio.gather(*fetches, return_exceptions=True)
        await consumer._client.close()


# Records --------------------------------------------------------------------------------------

# What is fetched keeps its bytes, for batches that have to be read a second time.
aiokafka_fetcher.MemoryRecords = KeptRecords


@contextlib.contextmanager
def polling(consumer: AIOKafkaConsumer) -> Iterator[None]:
    """Count as activity, without which the group takes us for dead."""
    with consumer._subscription.fetch_context():
        yield


async def wait_for_records(
    consumer: AIOKafkaConsumer, event: asyncio.Event, timeout_s: float
) -> None:
    """Wait until something was fetched, the event is set, or the time is over.

    Raises:
        KafkaError: Nothing can be fetched.
    """
    fetched = consumer._fetcher._create_fetch_waiter()
    changed = asyncio.ensure_future(event.wait())
    try:
        await asyncio.wait(
            {fetched, changed}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED
        )
        if fetched.done():
            fetched.result()
    finally:
        changed.cancel()
        fetched.cancel()


def take(
    consumer: AIOKafkaConsumer,
    partition: TopicPartition,
    *,
    max_rows: int,
    max_bytes: int,
    with_keys: bool = False,
    with_headers: bool = False,
) -> Fetched | None:
    """Records that were fetched and not taken yet, whole batches of the log at a time.

    Raises:
        KafkaError: What the broker answered instead.
    """
    fetcher = consumer._fetcher
    result = fetcher._records.get(partition)
    if result is None:
        return None
    if not isinstance(result, FetchResult):
        _fetch_on(fetcher, partition)
        result.check_raise()
    if not result.check_assignment(partition):
        if not result.has_more():
            _fetch_on(fetcher, partition)
        return None
    part: Any = result._partition_records
    try:
        taken = _unpack(part, max_rows, max_bytes, with_keys=with_keys, with_headers=with_headers)
    except kafka_errors.KafkaError:
        # What was unpacked of it is lost with the error: fetch it again.
        fetcher.seek_to(partition, result._assignment.state_value(partition).position)
        raise
    result._update_position()
    if not part._records.has_next():
        result._partition_records = None
        _fetch_on(fetcher, partition)
    return taken


def _fetch_on(fetcher: Any, partition: TopicPartition) -> None:
    del fetcher._records[partition]
    fetcher._notify(fetcher._wait_consume_future)


def _unpack(
    part: Any, max_rows: int, max_bytes: int, *, with_keys: bool, with_headers: bool
) -> Fetched:
    """The next batches of a fetched piece of the log, committed records only."""
    lists = RecordLists(with_keys=with_keys, with_headers=with_headers)
    while part._records.has_next() and lists.count < max_rows and lists.size_bytes < max_bytes:
        batch = part._records.next_batch()
        if not batch.validate_crc():
            raise kafka_errors.CorruptRecordException(f"Invalid CRC - {part._tp}")
        if _is_visible(part, batch):
            try:
                lists.extend(batch, first=part.next_fetch_offset)
            except UnicodeDecodeError:
                lenient = part._records.lenient(batch.base_offset)
                lists.extend(lenient, first=part.next_fetch_offset)
        part.next_fetch_offset = batch.next_offset
    return Fetched(
        offsets=lists.offsets,
        values=lists.values,
        timestamps_ms=lists.timestamps_ms,
        keys=lists.keys,
        headers=lists.headers,
        size_bytes=lists.size_bytes,
        next=part.next_fetch_offset,
    )


def _is_visible(part: Any, batch: Any) -> bool:
    """Whether a batch holds records of ours to see: no marker, and not of an aborted producer."""
    if batch.producer_id is None:
        # In the format of before Kafka 0.11: a topic may still have some.
        return True
    part._consume_aborted_up_to(batch.base_offset)
    if batch.is_control_batch:
        if part._contains_abort_marker(batch):
            part._aborted_producers.discard(batch.producer_id)
        return False
    return not (batch.is_transactional and batch.producer_id in part._aborted_producers)


class TopicFacts(Struct, frozen=True, kw_only=True):
    """What tells a topic from every other: also from one that had its name before."""

    cluster_id: str
    topic_id: str
    partitions: int


async def topic_facts(consumer: AIOKafkaConsumer, topic: str) -> TopicFacts | None:
    """Identity and size of a topic; None where the broker is too old to tell.

    Raises:
        KafkaError: The broker does not answer, or the topic does not exist.
    """
    client = consumer._client
    node = client.get_random_node()
    if node is None:
        raise kafka_errors.NodeNotReadyError("no broker is known")
    try:
        response = await client.send(node, MetadataRequest(topic))
    except NotImplementedError:
        return None
    ((code, _, topic_id, _, partitions, *_),) = response.topics
    _raise_for(code)
    return TopicFacts(
        cluster_id=response.cluster_id, topic_id=topic_id.hex, partitions=len(partitions)
    )


class LogBounds(Struct, frozen=True):
    """Where partitions begin and end; why that is not known of the others."""

    known: dict[TopicPartition, tuple[int, int]]
    problems: dict[TopicPartition, str]


_BEGIN, _END = -2, -1


async def log_bounds(
    consumer: AIOKafkaConsumer, partitions: Sequence[TopicPartition], timeout_s: float
) -> LogBounds:
    """Ask each leader once: a partition that has none keeps nobody waiting for the others."""
    client = consumer._client
    problems: dict[TopicPartition, str] = {}
    offsets: dict[tuple[TopicPartition, int], int] = {}
    led: dict[int, list[TopicPartition]] = {}
    for partition in partitions:
        leader = client.cluster.leader_for_partition(partition)
        if leader is None or leader < 0:
            problems[partition] = "no leader"
        else:
            led.setdefault(leader, []).append(partition)

    async def ask(leader: int, asked: Sequence[TopicPartition], which: int) -> None:
        topics: dict[str, list[tuple[int, int]]] = {}
        for partition in asked:
            topics.setdefault(partition.topic, []).append((partition.partition, which))
        request = OffsetRequest(-1, consumer._fetcher._isolation_level, list(topics.items()))
        try:
            async with asyncio.timeout(timeout_s):
                response = await client.send(leader, request)
        except (kafka_errors.KafkaError, TimeoutError) as error:
            problems.update(dict.fromkeys(asked, type(error).__name__))
            return
        for topic, entries in response.topics:
            for number, code, _, offset in entries:
                partition = TopicPartition(topic, number)
                answer = kafka_errors.for_code(code)
                if answer is kafka_errors.NoError:
                    offsets[partition, which] = offset
                else:
                    problems[partition] = answer.__name__

    await asyncio.gather(
        *(ask(leader, asked, which) for leader, asked in led.items() for which in (_BEGIN, _END))
    )
    if problems:
        # Another may have become leader.
        client.force_metadata_update()
    known = {
        partition: (offsets[partition, _BEGIN], offsets[partition, _END])
        for partition in partitions
        if (partition, _BEGIN) in offsets and (partition, _END) in offsets
    }
    return LogBounds(known, problems)
