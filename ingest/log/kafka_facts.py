"""``LogFacts`` of a Kafka cluster: asked with clients of its own, without a trace in any group."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka import errors as kafka_errors
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.structs import OffsetAndMetadata

from ingest.chunk import Chunk, Partition
from ingest.log.facts import LogTraits, PartitionFacts, Position
from ingest.log.kafka_connection import KafkaConnection, start_reader
from ingest.source.aiokafka_adapter import topic_facts
from ingest.source.kafka_options import KafkaSourceOptions, fetch_options, stream_of
from ingest.source.kafka_reader import RangeReader
from ingest.source.kafka_values import chunk_of
from shared.errors import ConflictError, LogUnavailableError

_TIMEOUT_S = 20.0
_UNKNOWN = (
    kafka_errors.UnknownTopicOrPartitionError,
    kafka_errors.LeaderNotAvailableError,
    kafka_errors.InvalidTopicError,
)
# What a group that has members answers to a commit of somebody who is none.
_READ_BY_OTHERS = (
    kafka_errors.UnknownMemberIdError,
    kafka_errors.IllegalGenerationError,
    kafka_errors.RebalanceInProgressError,
    kafka_errors.CommitFailedError,
)


class KafkaLogFacts:
    """Asks one cluster; connects when it is first needed.

    Args:
        connection: The cluster.
        epoch: That of the re-ingestion, part of every stream.
    """

    def __init__(self, connection: KafkaConnection, *, epoch: int = 0) -> None:
        self._connection = connection
        self._epoch = epoch
        self._fetch = fetch_options(KafkaSourceOptions())
        self._reader = RangeReader(connection, self._fetch)
        self._admin: AIOKafkaAdminClient | None = None
        self._consumer: AIOKafkaConsumer | None = None
        self._connecting = asyncio.Lock()

    async def partitions(self, topic: str) -> Sequence[PartitionFacts]:
        """See ``LogFacts``."""
        async with self._asking(f"topic '{topic}'"):
            consumer = await self._started_consumer()
            try:
                facts = await topic_facts(consumer, topic)
            except _UNKNOWN:
                return ()
            if facts is None:
                raise LogUnavailableError(
                    "This Kafka broker does not tell topic ids.", hint="Kafka 2.8 or later does."
                )
            tps = [TopicPartition(topic, number) for number in range(facts.partitions)]
            starts = await consumer.beginning_offsets(tps)
            ends = await consumer.end_offsets(tps)
        stream = stream_of(facts, self._epoch)
        return [
            PartitionFacts(
                partition=Partition(topic, tp.partition),
                stream=stream,
                start=starts[tp],
                end=ends[tp],
            )
            for tp in tps
        ]

    async def positions(self, group: str, topic: str) -> Mapping[int, Position]:
        """See ``LogFacts``."""
        numbers = [facts.partition.number for facts in await self.partitions(topic)]
        if not numbers:
            return {}
        async with self._asking(f"group '{group}'"):
            admin = await self._started_admin()
            found = await admin.list_consumer_group_offsets(
                group, partitions=[TopicPartition(topic, number) for number in numbers]
            )
        return {
            tp.partition: Position(offset=entry.offset, metadata=entry.metadata or "")
            for tp, entry in found.items()
            if entry.offset >= 0
        }

    async def read(self, partition: Partition, first: int, next_: int) -> Sequence[Chunk]:
        """See ``LogFacts``."""
        tp = TopicPartition(partition.topic, partition.number)
        async with self._asking(f"topic '{partition.topic}'", timeout_s=None):
            pieces = await self._reader.read(tp, first, next_, with_keys=True, with_headers=True)
        return [chunk_of(partition, piece) for piece in pieces]

    async def move(self, group: str, partition: Partition, position: Position) -> None:
        """See ``LogFacts``: the broker takes it only while the group has no members."""
        consumer = AIOKafkaConsumer(
            group_id=group,
            # It would commit once more when it stops, without the metadata.
            enable_auto_commit=False,
            **self._connection.client_options(),
            **self._fetch,
        )
        tp = TopicPartition(partition.topic, partition.number)
        try:
            async with self._asking(f"group '{group}'"):
                await consumer.start()
                consumer.assign([tp])
                await consumer.commit({tp: OffsetAndMetadata(position.offset, position.metadata)})
        except _READ_BY_OTHERS as error:
            raise ConflictError(
                f"Workers still read with the group '{group}'.",
                hint="Stop them, do this, and start them again.",
            ) from error
        finally:
            await consumer.stop()

    async def traits(self, topic: str) -> LogTraits:
        """See ``LogFacts``."""
        async with self._asking(f"topic '{topic}'"):
            admin = await self._started_admin()
            (described,) = await admin.describe_topics([topic])
            if not described["partitions"]:
                return LogTraits(kind="Kafka")
            resource = ConfigResource(ConfigResourceType.TOPIC, topic)
            answers = await admin.describe_configs([resource])
        values = _configs(answers)
        retention_ms = int(values.get("retention.ms", "-1"))
        return LogTraits(
            kind="Kafka",
            replication_factor=min(len(p["replicas"]) for p in described["partitions"]),
            min_insync_replicas=int(values.get("min.insync.replicas", "1")),
            unclean_leader_election=values.get("unclean.leader.election.enable") == "true",
            compacted="compact" in values.get("cleanup.policy", ""),
            retention_s=None if retention_ms < 0 else retention_ms / 1000,
        )

    @asynccontextmanager
    async def _asking(
        self, what: str, *, timeout_s: float | None = _TIMEOUT_S
    ) -> AsyncIterator[None]:
        """Failures of the library as our errors, but for those that say something themselves."""
        try:
            async with asyncio.timeout(timeout_s):
                yield
        except _READ_BY_OTHERS:
            raise
        except (kafka_errors.KafkaError, TimeoutError) as error:
            failure = self._connection.failure(f"Kafka cannot be asked about {what}", error)
            raise LogUnavailableError(
                failure.message,
                hint=failure.hint
                or "See that the brokers run and that the address and login are right.",
            ) from error

    async def _started_admin(self) -> AIOKafkaAdminClient:
        async with self._connecting:
            if self._admin is None:
                admin = AIOKafkaAdminClient(**self._connection.client_options())
                try:
                    await admin.start()
                except BaseException:
                    await admin.close()
                    raise
                self._admin = admin
            return self._admin

    async def _started_consumer(self) -> AIOKafkaConsumer:
        async with self._connecting:
            if self._consumer is None:
                self._consumer = await start_reader(self._connection, self._fetch)
            return self._consumer

    async def close(self) -> None:
        """Disconnect."""
        admin, self._admin = self._admin, None
        consumer, self._consumer = self._consumer, None
        if admin is not None:
            await admin.close()
        if consumer is not None:
            await consumer.stop()
        await self._reader.close()


def _configs(answers: Sequence[Any]) -> dict[str, str]:
    """The settings of one topic, by name."""
    values: dict[str, str] = {}
    for answer in answers:
        for code, message, _, _, entries in answer.resources:
            error = kafka_errors.for_code(code)
            if error is not kafka_errors.NoError:
                raise error(message)
            values |= {entry[0]: entry[1] or "" for entry in entries}
    return values
