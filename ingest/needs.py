"""What the partitions of one data source share, and what they make of failures."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from msgspec import Struct

from ingest.batch import BatchLimits, InsertBudget
from ingest.chunk import Chunk, Decoded, Partition
from ingest.excluded import ExcludedStore
from ingest.landing import Landing
from ingest.messages import Fault
from ingest.observe import PipelineObserver
from ingest.progress import Progress
from ingest.source.contract import Source
from shared.clickhouse.failures import InsertFailureError, InsertRefusedError, InsertViewError
from shared.clock import Clock
from shared.errors import UnavailableError

LONGEST_BACKOFF_S = 15.0


def backoff_s(attempt: int) -> float:
    """How long to wait before an attempt; the first goes at once."""
    return 0.0 if attempt <= 1 else min(LONGEST_BACKOFF_S, 0.1 * 2.0 ** min(attempt - 2, 10))


def fault_of(error: InsertFailureError | UnavailableError) -> Fault:
    """What the protocol has to know of a failure; all but a refusal is repeated for ever."""
    if isinstance(error, InsertViewError):
        return Fault.VIEW
    if isinstance(error, InsertRefusedError):
        return Fault.REFUSED
    if isinstance(error, UnavailableError):
        return Fault.UNKNOWN
    return Fault.RETRIABLE if error.stored == "no" else Fault.UNKNOWN


class PartitionNeeds(Struct, frozen=True, kw_only=True):
    """What the partitions of one data source share.

    ``name`` is the data source's, ``schema`` its revision. ``on_settled`` is told of a partition
    that ended without an open range, ``on_held`` that one waits for an operator, ``on_room`` that
    one holds less in memory, ``on_refused`` of how many rows of a range that had fitted ClickHouse
    refused how many.
    """

    name: str
    schema: str
    limits: BatchLimits
    budget: InsertBudget
    source: Source
    landing: Landing
    progress: Progress
    clock: Clock
    observer: PipelineObserver
    excluded: ExcludedStore
    decode: Callable[[Chunk], Awaitable[Decoded]]
    on_settled: Callable[[Partition], None]
    on_held: Callable[[], None]
    on_room: Callable[[], None]
    on_refused: Callable[[Partition, int, int], None]
