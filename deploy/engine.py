"""Which ClickHouse a process works with: a server where one is named, else the embedded engine."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Protocol, runtime_checkable

from msgspec import structs

from shared.clickhouse.allowlist import Analysis
from shared.clickhouse.contract import ClickHouse, Statement
from shared.clickhouse.embedded import open_embedded
from shared.clickhouse.server import open_server
from shared.clickhouse.sql import quote_identifier
from shared.clickhouse.url import parse_url
from shared.errors import ConfigError
from shared.settings import Settings


@runtime_checkable
class Engine(ClickHouse, Protocol):
    """A ClickHouse whose statements can be taken apart before they run."""

    async def parse(self, sql: str) -> Analysis:
        """What a statement is and does; see ``shared/clickhouse/parser.py``."""
        ...


async def open_engine(settings: Settings, *, writes: bool = True) -> Engine:
    """Open the engine that the settings name.

    Args:
        settings: Names a server, or the data folder.
        writes: Whether rows or tables will be written; a server's read-only user is refused then.

    Raises:
        ConfigError: The server refuses us or is not what we need; the folder is owned.
        ClickHouseUnavailableError: The server cannot be reached.
    """
    if settings.clickhouse_url is not None:
        return await open_server(settings.clickhouse_url, writes=writes)
    return await open_embedded(settings.data / "clickhouse", fsync=settings.fsync)


async def open_server_engine(settings: Settings, command: str, *, writes: bool = True) -> Engine:
    """Open the server of a process that others share their ClickHouse with.

    Raises:
        ConfigError: No server is named, or see ``open_engine``.
        ClickHouseUnavailableError: The server cannot be reached.
    """
    if settings.clickhouse_url is None:
        raise ConfigError(
            f"pipehouse {command} needs a ClickHouse server: the embedded engine lives in one"
            " process.",
            hint="Set PIPEHOUSE_CLICKHOUSE_URL, or use pipehouse dev.",
        )
    return await open_engine(settings, writes=writes)


@asynccontextmanager
async def throwaway_engine(folder: Path, clickhouse_url: str | None) -> AsyncIterator[Engine]:
    """An engine with an empty database that goes with it.

    Args:
        folder: Where an embedded engine keeps its data; exists and is empty.
        clickhouse_url: A server, where a database of its own is made and dropped again.

    Raises:
        ConfigError: See ``open_engine``.
        ClickHouseUnavailableError: The server cannot be reached.
    """
    if clickhouse_url is None:
        embedded = await open_embedded(folder / "clickhouse")
        try:
            yield embedded
        finally:
            await embedded.close()
        return
    url = parse_url(clickhouse_url)
    # Its database is not one that hosts share.
    url = structs.replace(url, hosts=url.hosts[:1])
    name = f"pipehouse_test_{uuid.uuid4().hex[:12]}"
    outer = await open_server(url)
    try:
        await outer.execute(Statement(sql=f"CREATE DATABASE {quote_identifier(name)}"))
        try:
            inner = await open_server(structs.replace(url, database=name))
            try:
                yield inner
            finally:
                await inner.close()
        finally:
            await outer.execute(Statement(sql=f"DROP DATABASE {quote_identifier(name)} SYNC"))
    finally:
        await outer.close()
