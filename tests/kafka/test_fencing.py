"""What the delivery protocol takes for granted of a broker's consumer groups, on a real one."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from aiokafka import (
    AIOKafkaConsumer,
    ConsumerRebalanceListener,
    TopicPartition,
)

from ingest.log.kafka_connection import plain_connection
from ingest.log.kafka_topics import KafkaTopics
from ingest.source.aiokafka_adapter import CommitAnswer, GroupMember, Membership, topic_facts
from tests.kafka.fixture import KafkaBroker

WAIT_S = 60.0


class _Assignments(ConsumerRebalanceListener):  # type: ignore[misc]
    def __init__(self) -> None:
        self.held: set[TopicPartition] = set()
        self.count = 0
        self.changed = asyncio.Event()

    async def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        self.held = set()

    async def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        self.held = set(assigned)
        self.count += 1
        self.changed.set()

    async def wait_for(self, partitions: int, *, after: int = 0) -> None:
        async with asyncio.timeout(WAIT_S):
            while len(self.held) != partitions or self.count <= after:
                self.changed.clear()
                await self.changed.wait()


class Party:
    """A consumer in a group and what it was assigned."""

    def __init__(self, consumer: AIOKafkaConsumer) -> None:
        self.consumer = consumer
        self.member = GroupMember(consumer)
        self.assignments = _Assignments()

    @property
    def membership(self) -> Membership:
        found = self.member.membership
        assert found is not None
        return found


class Group:
    """A topic with two partitions and a group that reads it."""

    def __init__(self, servers: str) -> None:
        self.connection = plain_connection(servers)
        self.topic = f"fencing-{uuid.uuid4().hex[:8]}"
        self.name = f"group-{uuid.uuid4().hex[:8]}"
        self.tp = TopicPartition(self.topic, 0)

    async def create(self) -> None:
        topics = KafkaTopics(self.connection, partitions=2)
        await topics.create(self.topic)
        await topics.close()

    @asynccontextmanager
    async def join(self) -> AsyncIterator[Party]:
        consumer = AIOKafkaConsumer(
            group_id=self.name,
            enable_auto_commit=False,
            auto_offset_reset="none",
            session_timeout_ms=6_000,
            heartbeat_interval_ms=300,
            **self.connection.client_options(),
        )
        await consumer.start()
        party = Party(consumer)
        consumer.subscribe([self.topic], listener=party.assignments)
        try:
            yield party
        finally:
            await consumer.stop()


@asynccontextmanager
async def open_group(broker: KafkaBroker) -> AsyncIterator[Group]:
    group = Group(broker.bootstrap_servers)
    await group.create()
    yield group


async def test_a_commit_carries_metadata_and_gives_it_back(kafka_broker: KafkaBroker) -> None:
    async with open_group(kafka_broker) as group, group.join() as one:
        await one.assignments.wait_for(2)
        assert await one.member.committed([group.tp]) == {group.tp: None}
        answer = await one.member.commit(one.membership, group.tp, 7, '["text",1]')
        assert answer is CommitAnswer.DONE
        assert await one.member.committed([group.tp]) == {group.tp: (7, '["text",1]')}


async def test_a_member_may_commit_a_partition_that_it_does_not_hold(
    kafka_broker: KafkaBroker,
) -> None:
    """So holding on to the partition decides nothing: the pair of the assignment must."""
    async with open_group(kafka_broker) as group, group.join() as one:
        await one.assignments.wait_for(2)
        before = one.membership
        async with group.join() as two:
            await two.assignments.wait_for(1)
            await one.assignments.wait_for(1)
            (lost,) = two.assignments.held
            assert one.membership.generation > before.generation
            # With the pair of the assignment in which it held the partition: refused.
            answer = await one.member.commit(before, lost, 1, "late")
            assert answer is CommitAnswer.REFUSED
            assert await two.member.committed([lost]) == {lost: None}
            # With the pair of the moment, as the library would send it: taken.
            answer = await one.member.commit(one.membership, lost, 1, "late")
            assert answer is CommitAnswer.DONE


async def test_a_commit_without_generation_is_taken_by_an_empty_group_only(
    kafka_broker: KafkaBroker,
) -> None:
    """So generation -1 must never be sent: nothing fences it once everybody has left."""
    nobody = Membership("", -1)
    async with open_group(kafka_broker) as group, group.join() as one:
        await one.assignments.wait_for(2)
        member = one.membership
        assert await one.member.commit(member, group.tp, 5, "ours") is CommitAnswer.DONE
        assert await one.member.commit(nobody, group.tp, 1, "stray") is CommitAnswer.REFUSED
        assert await one.member.committed([group.tp]) == {group.tp: (5, "ours")}
        consumer = one.consumer
        consumer.unsubscribe()
        await one.member.leave(member)
        await one.member.find_coordinator()
        assert await one.member.commit(nobody, group.tp, 1, "stray") is CommitAnswer.DONE
        assert await one.member.committed([group.tp]) == {group.tp: (1, "stray")}


async def test_a_late_copy_of_a_commit_is_refused_after_leaving(kafka_broker: KafkaBroker) -> None:
    async with open_group(kafka_broker) as group, group.join() as one:
        await one.assignments.wait_for(2)
        before, count = one.membership, one.assignments.count
        assert await one.member.commit(before, group.tp, 5, "first") is CommitAnswer.DONE
        await one.member.leave(before)
        await one.assignments.wait_for(2, after=count)
        assert one.membership.member_id != before.member_id
        assert await one.member.commit(one.membership, group.tp, 9, "new") is CommitAnswer.DONE
        # The copy of the commit that the member before had sent, and a duplicate of it.
        for _ in range(2):
            assert await one.member.commit(before, group.tp, 5, "first") is CommitAnswer.REFUSED
        assert await one.member.committed([group.tp]) == {group.tp: (9, "new")}


async def test_a_topic_made_again_under_its_name_has_another_id(kafka_broker: KafkaBroker) -> None:
    async with open_group(kafka_broker) as group, group.join() as one:
        before = await topic_facts(one.consumer, group.topic)
        assert before is not None and before.partitions == 2
        topics = KafkaTopics(group.connection, partitions=3)
        await (await topics._started()).delete_topics([group.topic])
        await topics.create(group.topic)
        await topics.close()
        after = await topic_facts(one.consumer, group.topic)
        assert after is not None
        assert after.cluster_id == before.cluster_id
        assert after.topic_id != before.topic_id
