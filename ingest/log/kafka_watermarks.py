"""How far data sources are stored, asked of the groups' commits: for other processes' events."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import structlog

from ingest.chunk import Partition
from ingest.log.kafka_topics import KafkaTopics
from shared.errors import LogUnavailableError

log = structlog.get_logger(__name__)

_ASK_EVERY_S = 0.1


class KafkaWatermarks:
    """The ``Watermarks`` of pipelines wherever they run: what is committed is stored.

    Args:
        topics: Where commits are asked for.
        group_of: The group that stores a topic.
    """

    def __init__(self, topics: KafkaTopics, group_of: Callable[[str], str]) -> None:
        self._topics = topics
        self._group_of = group_of

    async def reached(self, partition: Partition, next_: int, timeout_s: float) -> bool:
        """See ``Watermarks``.

        While Kafka does not answer it is asked again: the events are in the log, and who heard of
        an error would send them once more.
        """
        group = self._group_of(partition.topic)
        end_s = time.monotonic() + timeout_s
        while True:
            try:
                committed = await self._topics.committed(group, [partition])
            except LogUnavailableError as error:
                log.warning("commits_not_read", group=group, error=str(error))
                committed = {}
            if committed.get(partition, 0) >= next_:
                return True
            left_s = end_s - time.monotonic()
            if left_s <= 0:
                return False
            await asyncio.sleep(min(_ASK_EVERY_S, left_s))
