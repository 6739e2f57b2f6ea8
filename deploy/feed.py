"""Kafka as a process uses it: the log that events go to, and the sources that pipelines read."""

from __future__ import annotations

import asyncio

from ingest.log.kafka import KafkaLog, KafkaLogOptions
from ingest.log.kafka_connection import KafkaConnection, named_connection, plain_connection
from ingest.log.kafka_watermarks import KafkaWatermarks
from ingest.source.contract import Source
from ingest.source.kafka import KafkaSource
from ingest.source.kafka_options import KafkaSourceOptions
from shared.errors import ConfigError
from shared.model.workspace import Workspace
from shared.settings import Settings


class Feed:
    """The cluster of the settings, and those that the project's connections name.

    Args:
        settings: Names the cluster, topics and groups.
        connection: That cluster.
    """

    def __init__(self, settings: Settings, connection: KafkaConnection) -> None:
        self._settings = settings
        self._connection = connection
        self.log = KafkaLog(connection, KafkaLogOptions(partitions=settings.topic_partitions))
        self.watermarks = KafkaWatermarks(self.log.topics, self._group_of)

    def _group_of(self, topic: str) -> str:
        name = topic.removeprefix(self._settings.topic_prefix)
        return self._settings.group_prefix + name

    def use(self, workspace: Workspace) -> None:
        """Know the connections of another deployment."""

    def open_source(self, topic: str, group: str) -> Source:
        """A source over a topic of the settings' cluster."""
        return KafkaSource(
            self._connection,
            topic,
            group,
            options=KafkaSourceOptions(reset="earliest"),
            create_topic=self.log.create_topic,
        )

    async def close(self) -> None:
        """Send what waits and disconnect."""
        await self.log.close()


async def open_feed(settings: Settings) -> Feed:
    """Connect to the cluster of the settings.

    Raises:
        ConfigError: None is named.
        LogUnavailableError: It does not answer.
    """
    if settings.kafka_bootstrap_servers is None:
        raise ConfigError(
            "This process needs Kafka: the embedded log lives in one process.",
            hint="Set PIPEHOUSE_KAFKA_BOOTSTRAP_SERVERS, or use pipehouse dev.",
        )
    feed = Feed(settings, plain_connection(settings.kafka_bootstrap_servers))
    try:
        await feed.log.ping()
    except BaseException:
        await asyncio.shield(feed.close())
        raise
    return feed


_ = named_connection
