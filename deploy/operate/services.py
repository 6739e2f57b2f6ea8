"""What operator commands work with, in a running server and directly."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from msgspec import Struct

from deploy.state import State, read_state
from ingest.ledger import Ledger
from ingest.log.facts import LogFacts
from ingest.worker import Worker, takes_events
from shared.clickhouse.contract import ClickHouse
from shared.clock import Clock
from shared.errors import NotFoundError
from shared.model.resources import Datasource


class Feed(Struct, frozen=True, kw_only=True):
    """Where the records of a data source come from; ``log`` is None where it is not known."""

    topic: str
    group: str
    log: LogFacts | None


class OperatorServices(Struct, frozen=True, kw_only=True):
    """The engine, the logs, and the pipelines where they run in this process.

    ``feed`` tells where a data source reads. ``data`` is the data folder of an embedded engine.
    ``fsync``: whether parts survive the loss of power, None where that is the server's matter.
    """

    clickhouse: ClickHouse
    clock: Clock
    feed: Callable[[Datasource], Feed]
    ingestion: Worker | None = None
    data: Path | None = None
    fsync: bool | None = None
    worker: str = "operator"

    @property
    def ledger(self) -> Ledger:
        """What became of every range."""
        return Ledger(self.clickhouse)

    async def state(self) -> State:
        """What is deployed."""
        return await read_state(self.clickhouse)

    async def datasource(self, name: str) -> Datasource:
        """A deployed data source.

        Raises:
            NotFoundError: There is none of that name.
        """
        found = (await self.state()).datasources
        if name not in found:
            raise NotFoundError(
                f"There is no data source '{name}'.",
                hint=f"There are: {', '.join(sorted(found)) or 'none; nothing is deployed'}.",
            )
        return found[name]

    async def fed_datasources(self, name: str = "") -> list[Datasource]:
        """The data sources that read events, by name; only the named one where one is named.

        Raises:
            NotFoundError: There is none of that name.
        """
        if name:
            return [await self.datasource(name)]
        found = (await self.state()).datasources
        return [d for _, d in sorted(found.items()) if takes_events(d)]


def prefixed_feed(
    topic_prefix: str, group_prefix: str, log: LogFacts | None
) -> Callable[[Datasource], Feed]:
    """The feeds of data sources that all read one log under names made of prefixes."""

    def feed(datasource: Datasource) -> Feed:
        return Feed(
            topic=topic_prefix + datasource.name, group=group_prefix + datasource.name, log=log
        )

    return feed
