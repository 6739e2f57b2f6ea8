"""Kafka as a process uses it: the log that events go to, and the sources that pipelines read."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import cast

from ingest.log.kafka import KafkaLog, KafkaLogOptions
from ingest.log.kafka_connection import KafkaConnection, named_connection, plain_connection
from ingest.log.kafka_watermarks import KafkaWatermarks
from ingest.source.contract import Source
from ingest.source.kafka import KafkaSource
from ingest.source.kafka_options import KafkaSourceOptions, Reset
from shared.errors import BadRequestError, ConfigError
from shared.model.resources import Connection, Datasource
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
        self._named: Mapping[str, Connection] = {}
        self.log = KafkaLog(connection, KafkaLogOptions(partitions=settings.topic_partitions))
        self.watermarks = KafkaWatermarks(self.log.topics, self._group_of)

    def _group_of(self, topic: str) -> str:
        name = topic.removeprefix(self._settings.topic_prefix)
        return self._settings.group_prefix + name

    def use(self, workspace: Workspace) -> None:
        """Know the connections of another deployment."""
        self._named = workspace.connections

    def topic_of(self, datasource: Datasource) -> str:
        """The topic that events of a data source go to.

        Raises:
            BadRequestError: Its records are published to Kafka by others.
        """
        if datasource.kafka is not None:
            raise BadRequestError(
                f"Data source '{datasource.name}' is fed by the Kafka topic"
                f" '{datasource.kafka.topic}'.",
                hint="Publish the events there.",
            )
        return self._settings.topic_prefix + datasource.name

    def open_source(self, datasource: Datasource) -> Source:
        """The source of a data source: its own topic and group, or those of the Events API.

        Raises:
            ConfigError: Its connection cannot be used.
        """
        found = datasource.kafka
        if found is None:
            topic = self.topic_of(datasource)
            return KafkaSource(
                self._connection,
                topic,
                self._group_of(topic),
                options=KafkaSourceOptions(reset="earliest"),
                create_topic=self.log.create_topic,
            )
        connection = self._named.get(found.connection)
        if connection is None:
            raise ConfigError(f"Connection '{found.connection}' is not deployed.")
        options = KafkaSourceOptions(
            reset=cast(Reset, found.auto_offset_reset),
            with_keys=True,
            with_headers=found.store_headers,
        )
        cluster = named_connection(connection)
        return KafkaSource(cluster, found.topic, found.group_id, options=options)

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
