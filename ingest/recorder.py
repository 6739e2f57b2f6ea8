"""Writes the ledger beside the pipelines, in bulk; delivery never waits for it."""

from __future__ import annotations

import asyncio
from collections import deque

import structlog

from ingest.ledger import Ledger, LedgerEntry
from shared.clock import Deadline
from shared.errors import AppError
from shared.observe.metrics import Metrics

log = structlog.get_logger(__name__)

FLUSH_INTERVAL_S = 2.0
# What waits while ClickHouse does not answer; the oldest entries are dropped beyond it.
MAX_WAITING = 50_000
MAX_ENTRIES_PER_INSERT = 5_000
_QUEUE = "ledger"


class LedgerRecorder:
    """Collects entries and writes them every few seconds.

    Args:
        ledger: Where they go.
        metrics: Counts what is dropped.
        worker: What this process is called in the ledger.
    """

    def __init__(self, ledger: Ledger, metrics: Metrics, *, worker: str) -> None:
        self._ledger = ledger
        self._dropped = metrics.dropped.labels(_QUEUE)
        self._worker = worker
        self._waiting: deque[LedgerEntry] = deque()
        self._is_prepared = False

    def record(self, entry: LedgerEntry) -> None:
        """Take an entry; returns at once. When too many wait the oldest one is dropped."""
        if len(self._waiting) >= MAX_WAITING:
            self._waiting.popleft()
            self._dropped.inc()
        self._waiting.append(entry)

    async def run(self) -> None:
        """Write what was taken, until cancelled; ``close`` writes the rest."""
        while True:
            await asyncio.sleep(FLUSH_INTERVAL_S)
            await self._try_flush()

    async def flush(self) -> None:
        """Write everything that waits.

        Raises:
            AppError: ClickHouse did not take it; what was not written waits on.
        """
        if not self._waiting:
            return
        if not self._is_prepared:
            await self._ledger.prepare()
            self._is_prepared = True
        while self._waiting:
            entries = [self._waiting.popleft() for _ in range(self._next_count())]
            try:
                await self._ledger.write(entries, worker=self._worker)
            except BaseException:
                # Perhaps it was written: entries are keyed, so a second time does no harm.
                self._waiting.extendleft(reversed(entries))
                raise

    def _next_count(self) -> int:
        return min(len(self._waiting), MAX_ENTRIES_PER_INSERT)

    async def close(self, deadline: Deadline) -> None:
        """Write what waits; what ClickHouse does not take is dropped."""
        await self._try_flush()
        self._dropped.inc(len(self._waiting))
        self._waiting.clear()

    async def _try_flush(self) -> None:
        try:
            await self.flush()
        except AppError as error:
            # The table may be gone.
            self._is_prepared = False
            log.warning("ledger_not_written", error=str(error), waiting=len(self._waiting))
