"""Reads ranges of a topic once more, beside the group and without a trace in it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka import errors as kafka_errors

from ingest.log.kafka_connection import KafkaConnection, start_reader
from ingest.source.aiokafka_adapter import Fetched, polling, take, wait_for_records

_WAIT_S = 1.0
# Without an answer for so long the cluster counts as gone.
_PATIENCE_S = 30.0
_UNLIMITED = 1 << 62


class RangeReader:
    """A consumer of its own for what is read again; connects when it is first needed.

    Args:
        connection: The cluster.
        options: How records are fetched.
    """

    def __init__(self, connection: KafkaConnection, options: Mapping[str, Any]) -> None:
        self._connection = connection
        self._options = options
        self._consumer: AIOKafkaConsumer | None = None
        self._one_at_a_time = asyncio.Lock()

    async def read(
        self,
        partition: TopicPartition,
        first: int,
        next_: int,
        *,
        with_keys: bool,
        with_headers: bool,
    ) -> list[Fetched]:
        """The records of ``[first, next_)`` that are still there, up to the end of the log.

        Raises:
            KafkaError: They cannot be read now.
        """
        async with self._one_at_a_time:
            consumer = await self._started()
            consumer.assign([partition])
            start = (await consumer.beginning_offsets([partition]))[partition]
            # The last stable offset: what lies behind it cannot be read by anybody.
            end = min(next_, (await consumer.end_offsets([partition]))[partition])
            position = max(first, start)
            pieces: list[Fetched] = []
            if position >= end:
                return pieces
            consumer.seek(partition, position)
            waited_s = 0.0
            while position < end:
                with polling(consumer):
                    fetched = take(
                        consumer,
                        partition,
                        max_rows=_UNLIMITED,
                        max_bytes=_UNLIMITED,
                        with_keys=with_keys,
                        with_headers=with_headers,
                    )
                    if fetched is None:
                        if waited_s > _PATIENCE_S:
                            raise kafka_errors.KafkaTimeoutError(f"reading {partition} again")
                        await wait_for_records(consumer, asyncio.Event(), _WAIT_S)
                        waited_s += _WAIT_S
                        continue
                position, waited_s = fetched.next, 0.0
                pieces.append(_before(fetched, next_))
            consumer.pause(partition)
            return pieces

    async def bounds(self, partition: TopicPartition) -> tuple[int, int]:
        """The oldest offset that can be read, and the one behind the newest.

        Raises:
            KafkaError: They are not known.
        """
        async with self._one_at_a_time:
            consumer = await self._started()
            starts = await consumer.beginning_offsets([partition])
            ends = await consumer.end_offsets([partition])
            return starts[partition], ends[partition]

    async def _started(self) -> AIOKafkaConsumer:
        if self._consumer is None:
            self._consumer = await start_reader(self._connection, self._options)
        return self._consumer

    async def close(self) -> None:
        """Disconnect."""
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            await consumer.stop()


def _before(fetched: Fetched, next_: int) -> Fetched:
    """Without what lies at or behind an offset; batches of the log do not end where ours do."""
    if fetched.next <= next_:
        return fetched
    count = sum(offset < next_ for offset in fetched.offsets)
    return Fetched(
        offsets=fetched.offsets[:count],
        values=fetched.values[:count],
        timestamps_ms=fetched.timestamps_ms[:count],
        keys=None if fetched.keys is None else fetched.keys[:count],
        headers=None if fetched.headers is None else fetched.headers[:count],
        size_bytes=sum(len(value) for value in fetched.values[:count] if value is not None),
        next=next_,
    )
