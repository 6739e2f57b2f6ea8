"""An engine in this process for taking SQL apart, where the data lies on a server.

Servers older than 26 cannot print a syntax tree, and the list of what may run has to mean the same
everywhere. A process runs one embedded engine at most: the one that is there is used, else one is
opened in a folder that is thrown away, when the first statement comes.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from pathlib import Path

from shared.clickhouse.allowlist import Analysis
from shared.clickhouse.embedded import EmbeddedClickHouse, open_embedded, opened_embedded


class ParsingEngine:
    """Parses; opened when first asked."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._own: EmbeddedClickHouse | None = None
        self._folder: Path | None = None

    async def parse(self, sql: str) -> Analysis:
        """See ``Parser.parse``."""
        engine = self._own or opened_embedded()
        if engine is None:
            engine = await self._open()
        return await engine.parse(sql)

    async def _open(self) -> EmbeddedClickHouse:
        async with self._lock:
            if (engine := self._own or opened_embedded()) is not None:
                return engine
            self._folder = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix="pipehouse-sql-"))
            self._own = await open_embedded(self._folder, readers=2)
            return self._own

    async def close(self) -> None:
        """Throw an engine that was opened here away."""
        if self._own is not None:
            await self._own.close()
            self._own = None
        if self._folder is not None:
            await asyncio.to_thread(shutil.rmtree, self._folder, ignore_errors=True)
            self._folder = None
