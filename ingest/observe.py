"""What a pipeline tells about itself."""

from __future__ import annotations

from typing import Protocol

from ingest.chunk import Partition


class PipelineObserver(Protocol):
    """Told of every step of one pipeline; must return at once."""

    def step(self, partition: Partition, action: str, moment: str) -> None:
        """An action of the delivery protocol is about to be done, or was: ``before``, ``after``."""
        ...

    def flushed(self, *, rows: int, size_bytes: int, elapsed_s: float) -> None:
        """A block was inserted."""
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


class SilentObserver:
    """Listens to nothing."""

    def step(self, partition: Partition, action: str, moment: str) -> None:
        """See ``PipelineObserver``."""

    def flushed(self, *, rows: int, size_bytes: int, elapsed_s: float) -> None:
        """See ``PipelineObserver``."""

    def failed(self, code: str) -> None:
        """See ``PipelineObserver``."""

    def quarantined(self, rows: int) -> None:
        """See ``PipelineObserver``."""

    def closed(self, partition: Partition, *, lag_rows: int) -> None:
        """See ``PipelineObserver``."""
