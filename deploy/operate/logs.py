"""Where each data source reads, for operator commands: the cluster of the settings, and others."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from deploy.operate.services import Feed
from ingest.log.kafka_connection import KafkaConnection, named_connection, plain_connection
from ingest.log.kafka_facts import KafkaLogFacts
from shared.model.resources import Connection, Datasource
from shared.settings import Settings


class KafkaFeeds:
    """The feeds of data sources on Kafka; connects to each cluster when it is first asked.

    Args:
        settings: Names the cluster, topics and groups of data sources without Kafka lines.
        connections: The connections of the project as it is deployed, by name.
    """

    def __init__(
        self, settings: Settings, connections: Callable[[], Mapping[str, Connection]]
    ) -> None:
        self._settings = settings
        self._connections = connections
        self._clusters: dict[KafkaConnection, KafkaLogFacts] = {}

    def feed(self, datasource: Datasource) -> Feed:
        """Where a data source reads; without a log where its cluster is not known.

        Raises:
            ConfigError: Its connection cannot be used.
        """
        found = datasource.kafka
        settings = self._settings
        if found is None:
            servers = settings.kafka_bootstrap_servers
            return Feed(
                topic=settings.topic_prefix + datasource.name,
                group=settings.group_prefix + datasource.name,
                log=None if servers is None else self._log(plain_connection(servers)),
            )
        connection = self._connections().get(found.connection)
        return Feed(
            topic=found.topic,
            group=found.group_id,
            log=None if connection is None else self._log(named_connection(connection)),
        )

    def _log(self, connection: KafkaConnection) -> KafkaLogFacts:
        if connection not in self._clusters:
            self._clusters[connection] = KafkaLogFacts(connection)
        return self._clusters[connection]

    async def close(self) -> None:
        """Disconnect from every cluster."""
        while self._clusters:
            _, log = self._clusters.popitem()
            await log.close()
