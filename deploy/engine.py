"""Which ClickHouse a process works with: a server where one is named, else the embedded engine."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, runtime_checkable

from shared.clickhouse.allowlist import Analysis
from shared.clickhouse.contract import ClickHouse
from shared.clickhouse.embedded import open_embedded
from shared.errors import ConfigError
from shared.settings import Settings


@runtime_checkable
class Engine(ClickHouse, Protocol):
    """A ClickHouse whose statements can be taken apart before they run."""

    async def parse(self, sql: str) -> Analysis:
        """What a statement is and does; see ``shared/clickhouse/parser.py``."""
        ...


async def open_engine(settings: Settings, *, folder: Path | None = None) -> Engine:
    """Open the engine that the settings name.

    Args:
        settings: Names a server, or the data folder.
        folder: Where the embedded engine keeps its data; in the data folder by default.

    Raises:
        ConfigError: The server refuses us or is not what we need; the folder is owned.
        ClickHouseUnavailableError: The server cannot be reached.
    """
    if settings.clickhouse_url is not None:
        raise ConfigError("The server engine is not there yet.")
    return await open_embedded(folder or settings.data / "clickhouse", fsync=settings.fsync)


async def open_server_engine(settings: Settings, command: str) -> Engine:
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
    return await open_engine(settings)
