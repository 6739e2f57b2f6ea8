"""Excluded offsets that are too many for a commit: kept in ClickHouse under their digest."""

from __future__ import annotations

import hashlib
from typing import Protocol, runtime_checkable

import msgspec
from msgspec import structs

from ingest.ledger import DATABASE
from ingest.messages import Metadata
from shared.clickhouse.contract import ClickHouse, Run, Statement
from shared.clickhouse.prepare import prepare_table
from shared.clickhouse.rows import insert_rows
from shared.errors import ClickHouseUnavailableError

TABLE = "excluded_offsets"
# Kafka takes 4 KB of metadata by default.
LONGEST_METADATA_BYTES = 3_000
_COLUMNS = (("digest", "String"), ("runs", "String"), ("at", "DateTime"))
TABLES = (
    f"CREATE DATABASE IF NOT EXISTS {DATABASE}",
    f"CREATE TABLE IF NOT EXISTS {DATABASE}.{TABLE}"
    " (digest String, runs String, at DateTime DEFAULT now())"
    " ENGINE = ReplacingMergeTree ORDER BY digest TTL at + INTERVAL 90 DAY",
)


@runtime_checkable
class ExcludedStore(Protocol):
    """Keeps runs of offsets under the digest of their text."""

    async def keep(self, runs: tuple[Run, ...]) -> str:
        """Write them down; the digest. Harmless when repeated.

        Raises:
            AppError: They are not kept.
        """
        ...

    async def find(self, digest: str) -> tuple[Run, ...]:
        """What is kept under a digest.

        Raises:
            AppError: It cannot be read, or is not there.
        """
        ...


class ClickHouseExcludedStore:
    """The store in the product's own database.

    Args:
        clickhouse: The engine that the pipelines write to.
    """

    def __init__(self, clickhouse: ClickHouse) -> None:
        self._clickhouse = clickhouse

    async def keep(self, runs: tuple[Run, ...]) -> str:
        """See ``ExcludedStore``."""
        text = msgspec.json.encode([(run.first, run.count) for run in runs])
        digest = hashlib.blake2b(text, digest_size=16).hexdigest()
        await prepare_table(self._clickhouse, DATABASE, TABLE, TABLES)
        row = {"digest": digest, "runs": text.decode()}
        await insert_rows(self._clickhouse, DATABASE, TABLE, _COLUMNS[:2], [row])
        return digest

    async def find(self, digest: str) -> tuple[Run, ...]:
        """See ``ExcludedStore``."""
        result = await self._clickhouse.fetch(
            Statement(
                sql=f"SELECT runs FROM {DATABASE}.{TABLE} WHERE digest = {{digest:String}} LIMIT 1",
                parameters={"digest": digest},
                format="TSVRaw",
            )
        )
        if not result.body:
            raise ClickHouseUnavailableError(
                f"The excluded offsets {digest} of a range under way are not in"
                f" {DATABASE}.{TABLE}.",
                hint="Restore that table; the range cannot go on without them.",
            )
        pairs = msgspec.json.decode(result.body, type=list[tuple[int, int]])
        return tuple(Run(first, count) for first, count in pairs)


async def fit(metadata: Metadata, store: ExcludedStore) -> Metadata:
    """The metadata as it can be committed: long lists of offsets are put into the store."""
    intent = metadata.intent
    if intent is None or len(metadata.encode()) <= LONGEST_METADATA_BYTES:
        return metadata
    digest = await store.keep(intent.excluded)
    return structs.replace(metadata, intent=structs.replace(intent, excluded=(), digest=digest))


async def restored(metadata: Metadata, store: ExcludedStore) -> Metadata:
    """The metadata as it was before ``fit``."""
    intent = metadata.intent
    if intent is None or not intent.digest:
        return metadata
    excluded = await store.find(intent.digest)
    return structs.replace(metadata, intent=structs.replace(intent, excluded=excluded, digest=""))
