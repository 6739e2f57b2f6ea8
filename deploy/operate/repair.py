"""Stores rows that a table lost although they were delivered: past its views, which have them.

A view was served by the very insert whose rows the table lost, so they must not be inserted once
more: they are written to a staging table of the same structure, and its partitions are attached to
the table. What is missing is looked up each time, so a repair that is cut off is simply run again.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct, structs

from deploy.operate.ask import ask
from deploy.operate.evidence import Deletions, PartitionEvidence, gather
from deploy.operate.ranges import Range, Ranges, clip, intersect, of_offsets, shown, size, subtract
from deploy.operate.services import Feed, OperatorServices
from deploy.operate.verdict import missing_offsets
from ingest.batch import Batch, make_batch
from ingest.chunk import Chunk, Partition
from ingest.landing import Landing
from ingest.lease import Lease, take_lease
from ingest.ledger import LedgerEntry
from shared.clickhouse.contract import Statement
from shared.clickhouse.sql import literal, quote_table
from shared.errors import BadRequestError, ConflictError
from shared.model.identity import DEDUPLICATION_WINDOW, carries_identity
from shared.model.resources import Datasource

STAGING_SUFFIX = "__repair"
# Read from the log and attached at once.
PIECE_OFFSETS = 100_000


class Repaired(Struct, frozen=True, kw_only=True):
    """What a repair did in one partition.

    ``stored`` rows went into the table, past its views; ``quarantined`` records are none;
    ``left_out`` rows have expired meanwhile.
    """

    partition: int
    offsets: Ranges
    stored: int
    quarantined: int = 0
    left_out: int = 0


async def repair_missing(
    services: OperatorServices, datasource: Datasource
) -> tuple[Repaired, ...]:
    """Store what is missing below the committed positions and still in the log.

    Raises:
        BadRequestError: The table cannot tell what it lacks.
        ConflictError: Rows were deleted on purpose, or another repair runs.
    """
    require_repairable(datasource)
    feed = services.feed(datasource)
    name = f"repair of {services.clickhouse.database}.{datasource.name}"
    async with take_lease(services.clickhouse, services.clock, name, services.worker) as lease:
        gathered = await gather(services, datasource)
        done = []
        for found in gathered.partitions:
            missing = _missing(found)
            if missing and found.facts is not None:
                since_ms = _stored_ms(found, missing)
                require_no_deletions(datasource, gathered.deletions, missing, since_ms)
                repair = Repair(services, datasource, feed, found.facts.stream, lease)
                done.append(await repair.store(found.facts.partition, missing))
        return tuple(done)


def require_repairable(datasource: Datasource) -> None:
    """Refuse tables in which it cannot be seen which rows are missing.

    Raises:
        BadRequestError: Says why.
    """
    if not carries_identity(datasource):
        raise BadRequestError(
            f"{datasource.engine.name} adds rows up: what '{datasource.name}' lacks cannot be seen."
        )
    if "Replacing" in datasource.engine.name:
        raise BadRequestError(
            f"Storing old rows of '{datasource.name}' again could make them the newest ones."
        )


def _missing(found: PartitionEvidence) -> Ranges:
    """Offsets that are lost and can be read again."""
    left = subtract(missing_offsets(found.evidence), found.evidence.blank)
    facts = found.facts
    return clip(left, facts.start, facts.end) if facts is not None else ()


def _stored_ms(found: PartitionEvidence, missing: Ranges) -> int:
    """When the first of the missing rows was stored at the latest; 0 where that is not known."""
    times = [
        e.at_ms
        for e in found.evidence.recorded
        if e.kind == "batch" and intersect(missing, [Range(e.first, e.next)])
    ]
    return min(times, default=0)


def require_no_deletions(
    datasource: Datasource, deletions: Deletions, missing: Ranges, since_ms: int
) -> None:
    """Refuse to bring back what may have been deleted on purpose since the rows were stored.

    Raises:
        ConflictError: Rows were deleted since.
    """
    if deletions.at_ms and deletions.at_ms // 1000 >= since_ms // 1000:
        raise ConflictError(
            f"'{datasource.name}' lacks {size(missing)} offsets ({shown(missing)}), and a repair"
            f" could bring back what somebody wanted gone. {deletions.text}",
            hint="Insert what you want back by hand.",
        )


class _Name(Struct):
    name: str


class _Count(Struct):
    n: int


class Repair:
    """Stores records of one stream in the table of a data source, past its views.

    Args:
        services: Engine and clock.
        datasource: Whose table.
        feed: Where its records are.
        stream: Whose records.
        lease: Held for the repairs of the data source, and kept while this one lasts.
    """

    def __init__(
        self,
        services: OperatorServices,
        datasource: Datasource,
        feed: Feed,
        stream: int,
        lease: Lease,
    ) -> None:
        self._lease = lease
        self._services = services
        self._clickhouse = services.clickhouse
        self._datasource = datasource
        self._feed = feed
        self._stream = stream
        self._landing = Landing(services.clickhouse, datasource, DEDUPLICATION_WINDOW)
        staged = structs.replace(datasource, name=datasource.name + STAGING_SUFFIX)
        self._staging = Landing(services.clickhouse, staged, DEDUPLICATION_WINDOW)
        self._table = quote_table(self._clickhouse.database, datasource.name)
        self._staged = quote_table(self._clickhouse.database, staged.name)

    async def store(self, partition: Partition, offsets: Ranges) -> Repaired:
        """Store the records at these offsets, each of which the table does not hold.

        Raises:
            ConflictError: They were stored meanwhile, or the lease was lost to another repair.
        """
        await self._announce(partition, offsets)
        stored = quarantined = left_out = 0
        for piece in _pieces(offsets):
            await self._lease.renew()
            batch = await self._read(partition, piece)
            attached = await self._attach(partition, batch)
            stored += attached
            left_out += batch.row_count - attached
            quarantined += len(batch.rejections)
            await self._landing.quarantine(
                batch.rejections,
                stream=self._stream,
                partition=partition,
                token=f"repair:{self._datasource.name}:{self._services.clock.now_ms()}",
                now_s=self._services.clock.now_ms() // 1000,
            )
        return Repaired(
            partition=partition.number,
            offsets=offsets,
            stored=stored,
            quarantined=quarantined,
            left_out=left_out,
        )

    async def _announce(self, partition: Partition, offsets: Ranges) -> None:
        ledger = self._services.ledger
        await ledger.prepare()
        entry = LedgerEntry(
            kind="repair",
            datasource=self._datasource.name,
            topic=partition.topic,
            partition=partition.number,
            stream=self._stream,
            first=offsets[0].first,
            next=offsets[-1].next,
            at_ms=self._services.clock.now_ms(),
            note=f"stored again past the views: {shown(offsets, 100)}",
        )
        await ledger.write([entry], worker=self._services.worker)

    async def _read(self, partition: Partition, piece: Range) -> Batch:
        assert self._feed.log is not None
        chunks = await self._feed.log.read(partition, piece.first, piece.next)
        decoded = [self._landing.decoder.decode(_trimmed(c, piece)) for c in chunks]
        return make_batch(piece.first, piece.next, decoded)

    async def _attach(self, partition: Partition, batch: Batch) -> int:
        """Bring the rows in through the staging table; how many there were in the end."""
        if not batch.row_count:
            return 0
        await self._drop()
        await self._execute(
            f"CREATE TABLE {self._staged} AS {self._table} COMMENT 'rows to be attached'"
        )
        try:
            await self._staging.insert(
                batch, stream=self._stream, partition=partition.number, token=""
            )
            if self._datasource.engine.ttl:
                await self._execute(f"OPTIMIZE TABLE {self._staged} FINAL")
            # Two repairs share the staging table: without the lease its rows may be another's.
            await self._lease.renew()
            await self._require_absent(partition, batch)
            return await self._move()
        finally:
            await self._drop()

    async def _require_absent(self, partition: Partition, batch: Batch) -> None:
        """The last look before the rows go in: nobody else stored them meanwhile."""
        held = await self._landing.held_offsets(
            self._stream, partition.number, batch.first, batch.next
        )
        wanted = {o for run in batch.runs for o in range(run.first, run.first + run.count)}
        if held & wanted:
            raise ConflictError(
                f"Offsets {shown(of_offsets(held & wanted))} of {partition.topic} were stored"
                " meanwhile; nothing of them was repaired.",
                hint="Run it again.",
            )

    async def _move(self) -> int:
        clickhouse = self._clickhouse
        name = self._datasource.name + STAGING_SUFFIX
        rows = await ask(clickhouse, _Count, f"SELECT toInt64(count()) AS n FROM {self._staged}")
        partitions = await ask(
            clickhouse,
            _Name,
            "SELECT DISTINCT partition_id AS name FROM system.parts WHERE active AND rows > 0"
            " AND database = {database:String} AND table = {table:String} ORDER BY name",
            {"database": clickhouse.database, "table": name},
        )
        for partition in partitions:
            await self._execute(
                f"ALTER TABLE {self._table} ATTACH PARTITION ID {literal(partition.name)}"
                f" FROM {self._staged}"
            )
        return rows[0].n

    async def _drop(self) -> None:
        await self._execute(f"DROP TABLE IF EXISTS {self._staged} SYNC")

    async def _execute(self, sql: str) -> None:
        await self._clickhouse.execute(Statement(sql=sql))


def _pieces(offsets: Ranges) -> Sequence[Range]:
    return [
        Range(first, min(item.next, first + PIECE_OFFSETS))
        for item in offsets
        for first in range(item.first, item.next, PIECE_OFFSETS)
    ]


def _trimmed(chunk: Chunk, piece: Range) -> Chunk:
    """The records of the piece: a log may answer with more."""
    keep = [i for i, offset in enumerate(chunk.offsets) if piece.first <= offset < piece.next]
    if len(keep) == len(chunk.offsets):
        return chunk
    return chunk.pick(keep)
