"""What a pipeline tells about itself, and the metrics made of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from msgspec import Struct

from ingest.chunk import Partition
from ingest.ledger import LedgerEntry
from shared.observe.metrics import Metrics


class Watched(Struct, frozen=True, kw_only=True):
    """How far behind one pipeline is; ``lag_rows`` and ``behind_s`` by number of the partition.

    ``behind_s`` is at least how old what can be queried is where records wait, in the log or in
    memory. ``age_s`` is the age of the oldest record in memory that is not stored.
    """

    lag_rows: Mapping[int, int]
    behind_s: Mapping[int, float]
    age_s: float
    paused: int


NOTHING_WATCHED = Watched(lag_rows={}, behind_s={}, age_s=0.0, paused=0)


class PipelineObserver(Protocol):
    """Told of every step of one pipeline; must return at once."""

    def step(self, partition: Partition, action: str, moment: str) -> None:
        """An action of the delivery protocol is about to be done, or was: ``before``, ``after``."""
        ...

    def flushed(self, *, rows: int, size_bytes: int, elapsed_s: float) -> None:
        """A block was inserted; ``size_bytes`` is that of the raw values, 0 when read again."""
        ...

    def lost(self, rows: int) -> None:
        """The log lost records before they were stored."""
        ...

    def failed(self, code: str) -> None:
        """An insert was not acknowledged."""
        ...

    def quarantined(self, rows: int) -> None:
        """Records went into quarantine."""
        ...

    def closed(self, partition: Partition, *, lag_rows: int) -> None:
        """A range was completed; so many records lie behind it."""
        ...

    def held(self, partitions: int) -> None:
        """So many partitions wait for an operator."""
        ...

    def watched(self, watched: Watched) -> None:
        """How far behind the pipeline is, about once a second."""
        ...

    def stopped(self, *, is_stopped: bool) -> None:
        """The pipeline gave up because too much goes to quarantine, or begins anew."""
        ...

    def recorded(self, entry: LedgerEntry) -> None:
        """Something happened that the ledger should know."""
        ...


def nothing(partition: Partition, action: str, moment: str) -> None:
    """The step listener that does nothing."""


def unrecorded(entry: LedgerEntry) -> None:
    """The listener for ledger entries that keeps none."""


class MetricsObserver:
    """Counts what one pipeline does.

    Args:
        metrics: Where to count.
        datasource: The label.
        on_step: Told of every step before it is done and after; tests stop the process there.
        on_entry: Takes entries for the ledger.
    """

    def __init__(
        self,
        metrics: Metrics,
        datasource: str,
        on_step: Callable[[Partition, str, str], None] = nothing,
        on_entry: Callable[[LedgerEntry], None] = unrecorded,
    ) -> None:
        self.step = on_step
        self.recorded = on_entry
        self._rows = metrics.rows_stored.labels(datasource)
        self._bytes = metrics.bytes_stored.labels(datasource)
        self._lost = metrics.rows_lost.labels(datasource)
        self._batches = metrics.batches.labels(datasource)
        self._seconds = metrics.flush_seconds.labels(datasource)
        self._retries = metrics.insert_retries.labels(datasource)
        self._quarantined = metrics.rows_quarantined.labels(datasource)
        self._datasource = datasource
        self._lag, self._behind = metrics.lag, metrics.behind_seconds
        self._watched: set[int] = set()
        self._age = metrics.open_batch_age.labels(datasource)
        self._paused = metrics.paused_partitions.labels(datasource)
        self._stopped = metrics.pipeline_stopped.labels(datasource)
        self._held = metrics.held_partitions.labels(datasource)

    def flushed(self, *, rows: int, size_bytes: int, elapsed_s: float) -> None:
        """See ``PipelineObserver``."""
        self._rows.inc(rows)
        self._bytes.inc(size_bytes)
        self._seconds.observe(elapsed_s)

    def lost(self, rows: int) -> None:
        """See ``PipelineObserver``."""
        self._lost.inc(rows)

    def failed(self, code: str) -> None:
        """See ``PipelineObserver``."""
        self._retries.inc()

    def quarantined(self, rows: int) -> None:
        """See ``PipelineObserver``."""
        self._quarantined.inc(rows)

    def closed(self, partition: Partition, *, lag_rows: int) -> None:
        """See ``PipelineObserver``."""
        self._batches.inc()

    def watched(self, watched: Watched) -> None:
        """See ``PipelineObserver``."""
        for number in self._watched - watched.lag_rows.keys():
            # Another worker tells of it now.
            self._lag.remove(self._datasource, str(number))
            self._behind.remove(self._datasource, str(number))
        self._watched = set(watched.lag_rows)
        for number, rows in watched.lag_rows.items():
            self._lag.labels(self._datasource, str(number)).set(rows)
            self._behind.labels(self._datasource, str(number)).set(watched.behind_s[number])
        self._age.set(watched.age_s)
        self._paused.set(watched.paused)

    def stopped(self, *, is_stopped: bool) -> None:
        """See ``PipelineObserver``."""
        self._stopped.set(is_stopped)

    def held(self, partitions: int) -> None:
        """See ``PipelineObserver``."""
        self._held.set(partitions)
