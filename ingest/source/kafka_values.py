"""What Kafka answers, as the values of the pipeline."""

from __future__ import annotations

from collections.abc import Iterable

from ingest.chunk import Chunk, Partition
from ingest.messages import decode_metadata
from ingest.source.aiokafka_adapter import Fetched


def first_partitions(committed: Iterable[tuple[int, str] | None]) -> int | None:
    """How many partitions the topic had when the group began; None when it begins now."""
    found = [decode_metadata(entry[1]) for entry in committed if entry is not None]
    if not found:
        return None
    # Where another program began, every partition without a commit was added later.
    return max(metadata.partitions if metadata else 0 for metadata in found)


def chunk_of(partition: Partition, fetched: Fetched) -> Chunk:
    """What was fetched, as the pipeline takes it."""
    return Chunk(
        partition=partition,
        offsets=fetched.offsets,
        values=fetched.values,
        timestamps_ms=fetched.timestamps_ms,
        next=fetched.next,
        keys=fetched.keys,
        headers=fetched.headers,
    )
