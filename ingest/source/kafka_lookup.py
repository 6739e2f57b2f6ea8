"""What is asked of Kafka about partitions before they are handed out."""

from __future__ import annotations

from collections.abc import Callable, Container, Coroutine, Mapping

from aiokafka import AIOKafkaConsumer, TopicPartition
from msgspec import Struct

from ingest.chunk import Partition
from ingest.source.aiokafka_adapter import (
    GroupMember,
    LogBounds,
    Membership,
    TopicFacts,
    log_bounds,
    topic_facts,
)
from ingest.source.contract import Assignment
from ingest.source.kafka_options import KafkaSourceOptions, stream_of
from ingest.source.kafka_values import first_partitions
from shared.errors import ConfigError

# A leader that does not tell where its partitions begin keeps the others waiting so long, once.
_BOUNDS_TIMEOUT_S = 5.0


class LookedUp(Struct, frozen=True):
    """What was asked about partitions that are to be handed out, and under which membership."""

    fresh: Mapping[Partition, Membership]
    facts: TopicFacts
    committed: Mapping[TopicPartition, tuple[int, str] | None]
    bounds: LogBounds


Ask = Callable[
    [AIOKafkaConsumer, GroupMember, str, Mapping[Partition, Membership]],
    Coroutine[None, None, LookedUp],
]


async def look_up(
    consumer: AIOKafkaConsumer,
    member: GroupMember,
    topic: str,
    fresh: Mapping[Partition, Membership],
) -> LookedUp:
    """Ask everything that the holders of these partitions have to know.

    Raises:
        ConfigError: The broker is too old.
        KafkaError: Topic or commits are not told; partitions that are not are in the result.
    """
    facts = await topic_facts(consumer, topic)
    if facts is None:
        raise ConfigError(
            "This Kafka broker does not tell topic ids.", hint="Kafka 2.8 or later does."
        )
    # A broker may not know of new partitions yet that were assigned already.
    count = max(facts.partitions, *(p.number + 1 for p in fresh))
    everything = [TopicPartition(topic, n) for n in range(count)]
    committed = await member.committed(everything)
    wanted = [everything[p.number] for p in fresh]
    return LookedUp(fresh, facts, committed, await log_bounds(consumer, wanted, _BOUNDS_TIMEOUT_S))


def assignments(
    found: LookedUp, wanted: Container[Partition], options: KafkaSourceOptions
) -> list[Assignment]:
    """The assignments of those wanted partitions whose leader has answered."""
    born = first_partitions(found.committed.values())
    made = []
    for partition in found.fresh:
        tp = TopicPartition(partition.topic, partition.number)
        if partition not in wanted or tp not in found.bounds.known:
            continue
        start, end = found.bounds.known[tp]
        committed = found.committed[tp]
        is_old = born is None or partition.number < born
        made.append(
            Assignment(
                partition=partition,
                offset=committed[0] if committed else None,
                metadata=committed[1] if committed else None,
                stream=stream_of(found.facts, options.epoch),
                log_start=start,
                log_end=end,
                start=_start(options, start, end, is_old=is_old),
                partitions=born or len(found.committed),
            )
        )
    return made


def _start(
    options: KafkaSourceOptions, log_start: int, log_end: int, *, is_old: bool
) -> int | None:
    """Where a partition begins that has no commit; partitions added later from their start."""
    if not is_old or options.reset == "earliest":
        return log_start
    return log_end if options.reset == "latest" else None
