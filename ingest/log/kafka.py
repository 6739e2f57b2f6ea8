"""Appends to Kafka: an idempotent producer that waits for every replica, and topics on request.

Calls that come while records are on their way are sent together with the next ones (group
commit), each in order and in one partition.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka import errors as kafka_errors
from msgspec import Struct

from ingest.chunk import Partition
from ingest.log.contract import Appended
from ingest.log.kafka_connection import KafkaConnection, named
from ingest.log.kafka_topics import KafkaTopics
from shared.errors import LogUnavailableError, SaturatedError

log = structlog.get_logger(__name__)

_LAST_FLUSH_S = 10.0
_CONNECT_PAUSE_S = 1.0


class KafkaLogOptions(Struct, frozen=True, kw_only=True):
    """How records are sent.

    ``max_batch_bytes`` is the largest piece that lies together in a partition; a larger record
    goes alone. ``max_inflight_bytes`` bounds what is not acknowledged yet. ``partitions`` and
    ``replication`` are for topics that are made; a replication of -1 is the cluster's default.
    """

    compression: str = "lz4"
    max_batch_bytes: int = 512 << 10
    max_inflight_bytes: int = 128 << 20
    request_timeout_s: float = 15.0
    partitions: int = 1
    replication: int = -1


class _Call(Struct, kw_only=True):
    """One caller's records; mutable because their places come with the batches.

    A place is the number of a batch and a position in it; ``last`` lies behind the last record.
    """

    values: Sequence[bytes]
    size_bytes: int
    future: asyncio.Future[Appended]
    first: tuple[int, int] = (0, 0)
    last: tuple[int, int] = (0, 0)


class KafkaLog:
    """The ``Log`` over a Kafka cluster; connects when it is first needed.

    Args:
        connection: The cluster.
        options: How records are sent.
    """

    def __init__(self, connection: KafkaConnection, options: KafkaLogOptions | None = None) -> None:
        self._connection = connection
        self._options = options or KafkaLogOptions()
        self.topics = KafkaTopics(
            connection,
            partitions=self._options.partitions,
            replication=self._options.replication,
        )
        self._producer: AIOKafkaProducer | None = None
        self._connecting = asyncio.Lock()
        self._refusal: LogUnavailableError | None = None
        self._refused_until_s = 0.0
        self._calls: dict[Partition, list[_Call]] = {}
        self._flushing: dict[Partition, asyncio.Task[None]] = {}
        self._ending: set[asyncio.Task[None]] = set()
        self._turn = 0
        self._inflight_bytes = 0

    def __repr__(self) -> str:
        return f"KafkaLog({self._connection.bootstrap_servers}, inflight={self._inflight_bytes})"

    async def create_topic(self, name: str) -> int:
        """Make a topic where it does not exist; how many partitions it has."""
        return await self.topics.create(name)

    async def append(self, topic: str, values: Sequence[bytes]) -> Appended:
        """See ``Log``; partitions take turns, a call at a time.

        Raises:
            SaturatedError: Too much is waiting to be acknowledged.
            LogUnavailableError: See ``Log``.
        """
        size = sum(map(len, values))
        if self._inflight_bytes and self._inflight_bytes + size > self._options.max_inflight_bytes:
            raise SaturatedError("Kafka does not take events as fast as they come.")
        self._inflight_bytes += size
        try:
            count = self.topics.known(topic) or await self.topics.create(topic)
            self._turn += 1
            partition = Partition(topic, self._turn % count)
            if not values:
                return Appended(partition, 0, 0)
            future: asyncio.Future[Appended] = asyncio.get_running_loop().create_future()
            call = _Call(values=values, size_bytes=size, future=future)
            self._calls.setdefault(partition, []).append(call)
            if partition not in self._flushing:
                name = f"append-{topic}-{partition.number}"
                self._flushing[partition] = asyncio.create_task(self._flush(partition), name=name)
            return await future
        finally:
            self._inflight_bytes -= size

    # Sending ----------------------------------------------------------------------------------

    async def _flush(self, partition: Partition) -> None:
        """Send until nobody waits any more."""
        group: list[_Call] = []
        try:
            while waiting := self._calls.get(partition):
                group = self._take_group(waiting)
                await self._send(partition, group)
        finally:
            # Whatever was raised, nobody is left waiting.
            _fail([*group, *self._calls.pop(partition, [])], "the producer stopped")
            del self._flushing[partition]

    def _take_group(self, waiting: list[_Call]) -> list[_Call]:
        """Calls that go together; at least one."""
        size, count = 0, 0
        for call in waiting:
            size += call.size_bytes
            if count and size > self._options.max_batch_bytes:
                break
            count += 1
        group = waiting[:count]
        del waiting[:count]
        return group

    async def _send(self, partition: Partition, group: list[_Call]) -> None:
        try:
            producer = await self._started()
        except LogUnavailableError as error:
            _fail(group, error.message)
            return
        batches = self._batches(producer, group)
        offsets, failure = await self._acknowledged(producer, partition, batches)
        if failure is not None:
            # Its numbering of batches has a hole now, which the broker would refuse.
            self._discard(producer)
            self.topics.forget(partition.topic)
        for call in group:
            bases = offsets[call.first[0] : call.last[0] + 1]
            known = [base for base in bases if base is not None]
            if len(known) <= call.last[0] - call.first[0]:
                _fail([call], _reason(failure))
            elif not call.future.done():
                first, end = known[0] + call.first[1], known[-1] + call.last[1]
                call.future.set_result(Appended(partition, first, end))

    async def _acknowledged(
        self, producer: AIOKafkaProducer, partition: Partition, batches: Sequence[object]
    ) -> tuple[list[int | None], BaseException | None]:
        """The offsets of the batches, None where one was not acknowledged, and why.

        The library would try for ever, because the batches are numbered; callers would wait and
        their events lie in memory.
        """
        limit_s = self._options.request_timeout_s
        futures: list[asyncio.Future[Any]] = []
        failure: BaseException | None = None
        try:
            async with asyncio.timeout(limit_s):
                for batch in batches:
                    number = partition.number
                    sent = await producer.send_batch(batch, partition.topic, partition=number)
                    # It may fail when nobody asks any more.
                    sent.add_done_callback(lambda done: done.cancelled() or done.exception())
                    futures.append(sent)
                await asyncio.wait(futures)
        except kafka_errors.KafkaError as error:
            failure = error
        except TimeoutError:
            failure = LogUnavailableError(
                f"no answer within {limit_s:g} s; they may have been appended all the same"
            )
        offsets: list[int | None] = []
        for future in futures:
            if future.cancelled() or not future.done():
                offsets.append(None)
            elif (problem := future.exception()) is not None:
                offsets.append(None)
                failure = failure or problem
            else:
                offsets.append(future.result().offset)
        if failure is None and None in offsets:
            failure = LogUnavailableError("the producer stopped")
        return offsets, failure

    def _batches(self, producer: AIOKafkaProducer, group: list[_Call]) -> list[object]:
        """The records of the calls as batches of the log; notes where each call lies."""
        batch = producer.create_batch()
        batches = [batch]
        count = 0
        for call in group:
            is_first = True
            for value in call.values:
                if batch.append(key=None, value=value, timestamp=None) is None:
                    batch = producer.create_batch()
                    batches.append(batch)
                    batch.append(key=None, value=value, timestamp=None)
                    count = 0
                if is_first:
                    call.first, is_first = (len(batches) - 1, count), False
                count += 1
            call.last = (len(batches) - 1, count)
        return batches

    # The producer -----------------------------------------------------------------------------

    async def _started(self) -> AIOKafkaProducer:
        async with self._connecting:
            if self._producer is None:
                if self._refusal is not None and time.monotonic() < self._refused_until_s:
                    # Who waited for the attempt that failed need not wait for another.
                    raise self._refusal
                producer = AIOKafkaProducer(
                    **self._connection.client_options(),
                    acks="all",
                    enable_idempotence=True,
                    compression_type=self._options.compression,
                    max_batch_size=self._options.max_batch_bytes,
                    request_timeout_ms=int(self._options.request_timeout_s * 1000),
                )
                try:
                    async with asyncio.timeout(self._options.request_timeout_s):
                        await producer.start()
                except (kafka_errors.KafkaError, TimeoutError) as error:
                    await producer.stop()
                    self._refusal = self._connection.failure("Kafka does not answer", error)
                    self._refused_until_s = time.monotonic() + _CONNECT_PAUSE_S
                    raise self._refusal from error
                self._refusal = None
                self._producer = producer
            return self._producer

    def _discard(self, producer: AIOKafkaProducer) -> None:
        """Begin with a new producer; the old one ends in the background."""
        if self._producer is producer:
            self._producer = None
            task = asyncio.create_task(_stop(producer), name="stop-producer")
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)

    async def ping(self) -> None:
        """See ``Log``."""
        try:
            await self.topics.ping()
        except (kafka_errors.KafkaError, TimeoutError) as error:
            raise self._connection.failure("Kafka does not answer", error) from error

    async def close(self) -> None:
        """Send what is waiting, for a short time, and disconnect."""
        if self._flushing:
            await asyncio.wait(self._flushing.values(), timeout=_LAST_FLUSH_S)
        for task in self._flushing.values():
            task.cancel()
        if self._producer is not None:
            self._discard(self._producer)
        await asyncio.gather(*self._flushing.values(), *self._ending, return_exceptions=True)
        await self.topics.close()


def _fail(calls: Sequence[_Call], reason: str) -> None:
    for call in calls:
        if not call.future.done():
            call.future.set_exception(
                LogUnavailableError(f"Kafka did not take the events: {reason}")
            )


async def _stop(producer: AIOKafkaProducer) -> None:
    try:
        async with asyncio.timeout(_LAST_FLUSH_S):
            await producer.stop()
    except (kafka_errors.KafkaError, TimeoutError) as error:
        log.warning("producer_not_stopped", error=str(error) or "it waits for the broker")
        # Else it goes on in the background, with everything that it was given.
        await producer._sender.close()  # noqa: SLF001 - there is no other way to end it
        await producer.client.close()


def _reason(failure: BaseException | None) -> str:
    if isinstance(failure, LogUnavailableError):
        return failure.message
    return named(failure) if failure else "no answer"
