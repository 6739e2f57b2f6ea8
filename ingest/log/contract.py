"""Where events are kept until they are rows: what every log promises.

Kafka in production, one SQLite file on one machine. The Events API appends to it; the pipeline
reads it through a ``Source`` (``ingest/source/contract.py``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from msgspec import Struct

from ingest.chunk import Partition


class Appended(Struct, frozen=True):
    """Where the records of one call are: within ``[first, next)`` of one partition, in order.

    Where a log has several writers, records of others may lie between those of a large call.
    """

    partition: Partition
    first: int
    next: int


@runtime_checkable
class Log(Protocol):
    """Topics that can be appended to."""

    async def append(self, topic: str, values: Sequence[bytes]) -> Appended:
        """Append records; returning means they survive the end of this process.

        The records of one call are in one partition, in order. A topic that does not exist is
        created.

        Raises:
            LogUnavailableError: Not all was appended, or it is not known whether it was.
            SaturatedError: More is waiting than fits; nothing was appended.
        """
        ...

    async def ping(self) -> None:
        """Return when records can be appended.

        Raises:
            LogUnavailableError: They cannot.
        """
        ...


@runtime_checkable
class Watermarks(Protocol):
    """How far each partition is stored, for those who wait for their own events."""

    async def reached(self, partition: Partition, next_: int, timeout_s: float) -> bool:
        """Return True once everything below ``next_`` can be queried or is quarantined.

        False when ``timeout_s`` is over first.
        """
        ...
