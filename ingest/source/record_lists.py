"""Records of Kafka taken apart into parallel lists, as the pipeline takes them."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from typing import Any

from ingest.chunk import size_bytes

# What Kafka itself has where a record has no time.
NO_TIMESTAMP_MS = -1


class RecordLists:
    """The fields of consecutive records, one list each.

    Args:
        with_keys: Whether keys are wanted; else ``keys`` is None.
        with_headers: The same for headers.
    """

    def __init__(self, *, with_keys: bool = False, with_headers: bool = False) -> None:
        self.values: list[bytes | None] = []
        self.timestamps_ms: list[int] = []
        self.keys: list[bytes | None] | None = [] if with_keys else None
        self.headers: list[Any] | None = [] if with_headers else None
        self.size_bytes = 0
        self._offsets: list[int] = []

    @property
    def count(self) -> int:
        """How many records there are."""
        return len(self._offsets)

    @property
    def offsets(self) -> Sequence[int]:
        """The offsets, as a range where there are no holes."""
        found = self._offsets
        if found and found[-1] - found[0] == len(found) - 1:
            return range(found[0], found[-1] + 1)
        return found

    def extend(self, batch: Iterable[Any], *, first: int) -> None:
        """Add the records of a batch of the client library; those before ``first`` are left out.

        No record is kept: thousands alive together would set off the garbage collector, which
        costs as much again as reading them.

        Raises:
            UnicodeDecodeError: A header has a name that is not UTF-8; nothing was added.
        """
        start = self.count
        add_offset, add_value = self._offsets.append, self.values.append
        add_timestamp = self.timestamps_ms.append
        add_key = None if self.keys is None else self.keys.append
        add_headers = None if self.headers is None else self.headers.append
        try:
            for record in batch:
                add_offset(record.offset)
                add_value(record.value)
                add_timestamp(record.timestamp)
                if add_key is not None:
                    add_key(record.key)
                if add_headers is not None:
                    add_headers(record.headers)
        except UnicodeDecodeError:
            self._drop(start, self.count)
            raise
        if self.count > start and self.timestamps_ms[start] is None:
            # The oldest format of Kafka has no times.
            self.timestamps_ms[start:] = [NO_TIMESTAMP_MS] * (self.count - start)
        self._drop(start, bisect_left(self._offsets, first, start))
        self.size_bytes += size_bytes(self.values[start:])

    def _drop(self, start: int, stop: int) -> None:
        if start == stop:
            return
        for each in (self._offsets, self.values, self.timestamps_ms, self.keys, self.headers):
            if each is not None:
                del each[start:stop]
