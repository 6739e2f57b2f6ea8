"""The quarantine table of a data source, and how a rejected record becomes a row of it.

``<name>_quarantine`` has every column of the data source as text, the failing columns with one
message each, and where the record came from. Its rows are keyed by stream, partition and offset;
the last version wins.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from datetime import UTC, datetime

import msgspec

from ingest.chunk import Partition, Rejection
from ingest.decode import LineBlock
from shared.model.resources import Datasource

QUARANTINE_SUFFIX = "_quarantine"

_OWN_COLUMNS = (
    ("c__error_column", "Array(String)"),
    ("c__error", "Array(String)"),
    ("c__import_id", "Nullable(String)"),
    ("insertion_date", "DateTime"),
    ("__topic", "LowCardinality(String)"),
    ("__partition", "Int32"),
    ("__offset", "Int64"),
    ("__timestamp", "DateTime64(3)"),
    ("__raw", "String"),
)


# Hidden beside the columns: with partition and offset the key of a row.
STREAM_COLUMN = ("__stream", "UInt64")


class QuarantineTable:
    """Name, columns and rows of the quarantine table of one data source."""

    def __init__(self, datasource: Datasource) -> None:
        own = {name for name, _ in _OWN_COLUMNS}
        self.name = datasource.name + QUARANTINE_SUFFIX
        self.columns: tuple[tuple[str, str], ...] = (
            *((c.name, "Nullable(String)") for c in datasource.columns if c.name not in own),
            *_OWN_COLUMNS,
        )

    @property
    def insert_columns(self) -> tuple[tuple[str, str], ...]:
        """The columns and the hidden stream."""
        return (*self.columns, STREAM_COLUMN)

    def block(
        self,
        rejections: Sequence[Rejection],
        *,
        stream: int,
        partition: Partition,
        now_s: int,
    ) -> LineBlock:
        """The rows of some rejections."""
        origin: dict[str, object] = {
            "__stream": stream,
            "__topic": partition.topic,
            "__partition": partition.number,
            "insertion_date": now_s,
        }
        lines = tuple(self._line(r, origin) + b"\n" for r in rejections)
        return LineBlock(lines, len(lines))

    def _line(self, rejection: Rejection, origin: dict[str, object]) -> bytes:
        known = {name for name, _ in self.columns}
        row: dict[str, object] = {k: v for k, v in rejection.cells if k in known}
        row |= origin | {
            "c__error_column": [e.column for e in rejection.errors],
            "c__error": [e.message for e in rejection.errors],
            "__offset": rejection.offset,
            "__timestamp": _timestamp(rejection.timestamp_ms),
            "__raw": rejection.raw.decode("utf-8", "replace"),
        }
        return msgspec.json.encode(row)


# What DateTime64 holds of what a producer may claim: from 1970 to the end of 2299.
_LAST_TIMESTAMP_MS = 10_413_791_999_999


def _timestamp(timestamp_ms: int) -> str:
    timestamp_ms = min(max(timestamp_ms, 0), _LAST_TIMESTAMP_MS)
    return f"{datetime.fromtimestamp(timestamp_ms / 1000, UTC):%Y-%m-%d %H:%M:%S.%f}"[:-3]


class QuarantineLimit:
    """Notices when most of what comes goes to quarantine: a producer or a schema gone wrong.

    Args:
        max_ratio: The share of rejected rows that is still taken; 1 takes everything.
        window_rows: Over so many of the latest rows.
    """

    def __init__(self, max_ratio: float, window_rows: int = 10_000) -> None:
        self._max_ratio = max_ratio
        self._window_rows = window_rows
        self._latest: deque[tuple[int, int]] = deque()
        self._rows = 0
        self._rejected = 0

    def add(self, rows: int, rejected: int) -> bool:
        """Count rows, of which some were rejected; whether it is still within the limit."""
        self._latest.append((rows, rejected))
        self._rows += rows
        self._rejected += rejected
        while self._rows - self._latest[0][0] >= self._window_rows:
            old_rows, old_rejected = self._latest.popleft()
            self._rows -= old_rows
            self._rejected -= old_rejected
        if self._max_ratio >= 1.0 or self._rows < self._window_rows:
            return True
        return self._rejected <= self._rows * self._max_ratio

    def refuse(self, rows: int, refused: int) -> bool:
        """Count rows of which some were refused though they had fitted, instead of as good ones.

        They may be many more than those that are looked back on, and are judged as a whole.
        """
        left = rows
        for place, (counted, rejected) in enumerate(self._latest):
            taken = min(counted - rejected, left)
            self._latest[place] = (counted - taken, rejected)
            self._rows -= taken
            left -= taken
        return self.add(rows, refused)

    @property
    def text(self) -> str:
        """What was counted, for people."""
        return f"{self._rejected} of the latest {self._rows} rows"
