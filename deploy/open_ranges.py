"""Ranges that a worker has declared and that are not closed, as the groups' commits say."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from deploy.operate.services import Feed
from ingest.messages import decode_metadata
from shared.model.resources import Datasource


async def open_ranges(
    feed: Callable[[Datasource], Feed], datasources: Iterable[Datasource]
) -> tuple[list[str], list[str]]:
    """The open ranges of data sources in words, and the data sources whose log is not known.

    Args:
        feed: Where a data source reads.
        datasources: As they are deployed: a range belongs to the group that declared it.

    Raises:
        LogUnavailableError: A log does not answer.
        ConfigError: A connection cannot be used.
    """
    found: list[str] = []
    unknown: list[str] = []
    for datasource in datasources:
        where = feed(datasource)
        if where.log is None:
            unknown.append(datasource.name)
            continue
        positions = await where.log.positions(where.group, where.topic)
        for number, position in sorted(positions.items()):
            metadata = decode_metadata(position.metadata)
            if metadata is not None and metadata.intent is not None:
                range_ = f"{position.offset}-{metadata.intent.next - 1}"
                found.append(f"{datasource.name} partition {number}, offsets {range_}")
    return found, unknown
