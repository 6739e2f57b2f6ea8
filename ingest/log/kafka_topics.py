"""Topics of a Kafka cluster: made when asked for, never by surprise; and what groups committed."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from aiokafka import TopicPartition
from aiokafka import errors as kafka_errors
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.structs import OffsetAndMetadata

from ingest.chunk import Partition
from ingest.log.kafka_connection import KafkaConnection
from shared.errors import ConfigError

_TIMEOUT_S = 10.0
_REPEAT_AFTER_S = 0.1
_NOT_THERE = (
    kafka_errors.UnknownTopicOrPartitionError,
    kafka_errors.LeaderNotAvailableError,
)


class KafkaTopics:
    """Asks a cluster about topics and groups; connects when it is first needed.

    Args:
        connection: The cluster.
        partitions: Of topics that are made.
        replication: Of topics that are made; -1 is the cluster's default.
    """

    def __init__(
        self, connection: KafkaConnection, *, partitions: int = 1, replication: int = -1
    ) -> None:
        self._connection = connection
        self._new = (partitions, replication)
        self._admin: AIOKafkaAdminClient | None = None
        self._connecting = asyncio.Lock()
        self._known: dict[str, int] = {}

    def known(self, topic: str) -> int:
        """How many partitions a topic has, as far as was asked; 0 when it was not."""
        return self._known.get(topic, 0)

    def forget(self, topic: str) -> None:
        """Ask again before the topic is used next."""
        self._known.pop(topic, None)

    async def create(self, topic: str) -> int:
        """Make a topic where it does not exist; how many partitions it has.

        Raises:
            LogUnavailableError: The cluster does not answer, or refuses.
            ConfigError: The name cannot be one of a topic.
        """
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                admin = await self._started()
                count = await self._count(admin, topic)
                if not count:
                    await self._make(admin, topic)
                while not count:
                    # It is made by one broker and heard of by the others a little later.
                    count = await self._count(admin, topic)
                    await asyncio.sleep(0.0 if count else 0.05)
        except kafka_errors.InvalidTopicError as error:
            raise ConfigError(f"'{topic}' cannot be the name of a Kafka topic.") from error
        except (kafka_errors.KafkaError, TimeoutError) as error:
            what = f"Kafka topic '{topic}' cannot be looked up or made"
            raise self._connection.failure(what, error) from error
        self._known[topic] = count
        return count

    async def _make(self, admin: AIOKafkaAdminClient, topic: str) -> None:
        partitions, replication = self._new
        # An empty assignment is what the library wants to see beside a default replication.
        assignments: dict[int, list[int]] | None = {} if replication == -1 else None
        new = NewTopic(topic, partitions, replication, assignments)
        response = await admin.create_topics([new])
        for _, code, *_ in response.topic_errors:
            error = kafka_errors.for_code(code)
            if error not in (kafka_errors.NoError, kafka_errors.TopicAlreadyExistsError):
                raise error()

    async def _count(self, admin: AIOKafkaAdminClient, topic: str) -> int:
        """How many partitions a topic has; 0 when it does not exist, or not everywhere yet."""
        (found,) = await admin.describe_topics([topic])
        error = kafka_errors.for_code(found["error_code"])
        if error in (
            kafka_errors.UnknownTopicOrPartitionError,
            kafka_errors.LeaderNotAvailableError,
        ):
            return 0
        if error is not kafka_errors.NoError:
            raise error()
        return len(found["partitions"])

    async def committed(self, group: str, partitions: Sequence[Partition]) -> dict[Partition, int]:
        """The offset that a group has committed for each partition, where it has.

        Raises:
            LogUnavailableError: The cluster does not answer.
        """
        wanted = [TopicPartition(p.topic, p.number) for p in partitions]
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                found = await self._offsets(group, wanted)
        except (kafka_errors.KafkaError, TimeoutError) as error:
            what = f"Kafka does not tell the offsets of group '{group}'"
            raise self._connection.failure(what, error) from error
        return {
            Partition(tp.topic, tp.partition): entry.offset
            for tp, entry in found.items()
            if entry.offset >= 0
        }

    async def _offsets(
        self, group: str, wanted: list[TopicPartition]
    ) -> dict[TopicPartition, OffsetAndMetadata]:
        """Ask until the group's broker is there; the first group of a cluster waits for it."""
        while True:
            admin = await self._started()
            try:
                found: dict[TopicPartition, OffsetAndMetadata]
                found = await admin.list_consumer_group_offsets(group, partitions=wanted)
            except kafka_errors.KafkaError as error:
                if not error.retriable:
                    raise
            else:
                return found
            await asyncio.sleep(_REPEAT_AFTER_S)

    async def ping(self) -> None:
        """Return when the cluster answers.

        Raises:
            KafkaError: It does not.
            TimeoutError: Not in time.
        """
        async with asyncio.timeout(_TIMEOUT_S):
            admin = await self._started()
            await admin.describe_cluster()

    async def _started(self) -> AIOKafkaAdminClient:
        async with self._connecting:
            if self._admin is None:
                admin = AIOKafkaAdminClient(
                    **self._connection.client_options(), request_timeout_ms=int(_TIMEOUT_S * 1000)
                )
                try:
                    await admin.start()
                except BaseException:
                    await admin.close()
                    raise
                self._admin = admin
            return self._admin

    async def close(self) -> None:
        """Disconnect."""
        admin, self._admin = self._admin, None
        if admin is not None:
            await admin.close()
