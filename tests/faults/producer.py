"""Sends messages as fast as is wanted, for as long as is wanted, whatever the broker does."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice

from aiokafka import AIOKafkaProducer
from aiokafka import errors as kafka_errors
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic

from ingest.log.kafka_facts import KafkaLogFacts
from shared.errors import LogUnavailableError
from tests.faults.messages import Message

_TIMEOUT_S = 3.0
_PAUSE_S = 0.02


class Producers:
    """One producer that goes straight to the broker, and what an administrator does with topics.

    Args:
        bootstrap_servers: The broker.
        topic: Where messages go.
        stream: The messages.
        rng: Chooses partitions and sizes.
    """

    def __init__(
        self,
        bootstrap_servers: str,
        topic: str,
        stream: Iterator[Message],
        rng: random.Random,
        facts: KafkaLogFacts,
    ) -> None:
        self._servers = bootstrap_servers
        self._topic = topic
        self._stream = stream
        self._rng = rng
        self._facts = facts
        self._producer: AIOKafkaProducer | None = None
        self._sending: asyncio.Task[None] | None = None
        self.partitions = 0
        self.errors = 0

    # Sending ----------------------------------------------------------------------------------

    def start(self) -> None:
        """Send until ``stop``."""
        self._sending = asyncio.create_task(self._send_on())

    async def stop(self) -> None:
        """Send nothing more; what was sent has arrived or never will."""
        sending, self._sending = self._sending, None
        if sending is not None:
            sending.cancel()
            await asyncio.wait({sending})
            if not sending.cancelled() and (error := sending.exception()) is not None:
                raise error
        await self._close()

    async def _send_on(self) -> None:
        while True:
            try:
                async with asyncio.timeout(_TIMEOUT_S):
                    await self._send_some()
            except (kafka_errors.KafkaError, TimeoutError, AssertionError, OSError):
                # Whether they arrived nobody knows: what counts is what the log has in the end.
                self.errors += 1
                await self._close()
                await asyncio.sleep(0.2)
            await asyncio.sleep(_PAUSE_S)

    async def _send_some(self) -> None:
        if self._producer is None:
            producer = AIOKafkaProducer(
                bootstrap_servers=self._servers,
                acks="all",
                enable_idempotence=True,
                max_request_size=2 << 20,
                request_timeout_ms=2_000,
                retry_backoff_ms=100,
            )
            try:
                await producer.start()
            except BaseException:
                await producer.stop()
                raise
            self._producer = producer
        producer = self._producer
        partition = self._rng.randrange(self.partitions)
        if self.partitions != len(await producer.partitions_for(self._topic)):
            await producer.client.force_metadata_update()
        futures = [
            await producer.send(self._topic, m.value, key=b"k", partition=partition)
            for m in islice(self._stream, self._rng.choice((1, 5, 20, 60)))
        ]
        await asyncio.gather(*futures)

    async def _close(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            try:
                async with asyncio.timeout(_TIMEOUT_S):
                    await producer.stop()
            except (kafka_errors.KafkaError, TimeoutError):
                self.errors += 1

    # Topics -----------------------------------------------------------------------------------

    async def _admin(self) -> AIOKafkaAdminClient:
        admin = AIOKafkaAdminClient(bootstrap_servers=self._servers, request_timeout_ms=5_000)
        await admin.start()
        return admin

    async def create(self, partitions: int) -> None:
        """Make the topic."""
        admin = await self._admin()
        try:
            await admin.create_topics([NewTopic(self._topic, partitions, 1)])
        finally:
            await admin.close()
        await self._wait_for(partitions)

    async def add_partition(self) -> None:
        """One more, which is sent to at once."""
        admin = await self._admin()
        try:
            count = self.partitions + 1
            await admin.create_partitions({self._topic: NewPartitions(total_count=count)})
        finally:
            await admin.close()
        await self._wait_for(count)

    async def delete(self) -> None:
        """The topic with everything in it."""
        admin = await self._admin()
        try:
            await admin.delete_topics([self._topic])
        finally:
            await admin.close()
        await self._wait_for(0)
        self.partitions = 0

    async def _wait_for(self, partitions: int) -> None:
        """Wait until the broker says so too."""
        async with asyncio.timeout(60):
            while True:
                # Asked where partitions begin of a topic that goes, the library asks on and on.
                with suppress(TimeoutError, LogUnavailableError):
                    async with asyncio.timeout(2):
                        if len(await self._facts.partitions(self._topic)) == partitions:
                            break
                await asyncio.sleep(0.1)
        self.partitions = partitions
