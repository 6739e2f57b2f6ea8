"""Where the rows of one data source go: its table, its quarantine table, and questions to both.

Everything the delivery protocol asks of ClickHouse is here; ``ingest/partition.py`` decides when.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence

import msgspec
import structlog
from msgspec import structs

from ingest.batch import Batch, make_batch
from ingest.chunk import CellError, Chunk, Partition, Rejection
from ingest.constraints import violators
from ingest.decode import Decoder, concat_blocks
from ingest.held import held_block
from ingest.ledger import Ledger
from ingest.messages import Holding, Intent
from ingest.quarantine import QuarantineTable
from shared.clickhouse.contract import ClickHouse, Identity, Insert, Run, Statement, Summary
from shared.clickhouse.failures import InsertRefusedError
from shared.clickhouse.replicated import WINDOW_S
from shared.clickhouse.sql import quote_table
from shared.model.identity import carries_identity
from shared.model.resources import Datasource

log = structlog.get_logger(__name__)

# The token memory of a table is trusted while at most this share of its window was used.
CERTAIN_SHARE = 0.5
# For a search for refused rows, where it exists: a writer may make tables there and nowhere else.
SCRATCH_DATABASE = "pipehouse_scratch"
REFUSED_MESSAGE = "ClickHouse refused this record"


class Landing:
    """The tables of one data source in one engine.

    Args:
        clickhouse: The engine.
        datasource: Whose tables these are; they exist.
        window: How many tokens the table and its view targets remember.
    """

    def __init__(self, clickhouse: ClickHouse, datasource: Datasource, window: int) -> None:
        self._clickhouse = clickhouse
        self._datasource = datasource
        self._window = window
        self._quarantine = QuarantineTable(datasource)
        columnar = clickhouse.capabilities.takes_columns
        self.decoder = Decoder(datasource, columnar=columnar)
        self.carries_identity = carries_identity(datasource)
        engine = datasource.engine
        # Whether a row that the table does not hold was never stored: not where the table itself
        # replaces rows or lets them expire.
        self.keeps_every_row = (
            self.carries_identity and "Replacing" not in engine.name and not engine.ttl
        )

    @property
    def needs_verification(self) -> bool:
        """Whether an answer may be wrong after a restart of the engine, and can be checked."""
        return self.keeps_every_row and self._clickhouse.capabilities.may_lose_stored

    @property
    def boot_id(self) -> str:
        """The engine's boot id, recorded in intents."""
        return self._clickhouse.boot_id

    # Rows -------------------------------------------------------------------------------------

    async def insert(
        self,
        batch: Batch,
        *,
        stream: int,
        partition: int,
        token: str,
        is_held: Callable[[], bool] | None = None,
    ) -> Summary:
        """Insert a batch as one block.

        Args:
            batch: The rows.
            stream: Where they come from.
            partition: Its number.
            token: What the block is known by.
            is_held: Asked in the sending thread whether it may still be sent.

        Raises:
            InsertError: See ``shared/clickhouse/failures.py``.
            LeaseLostError: It may not; nothing was sent.
        """
        insert = self._insert(self._datasource.name, batch, token)
        if is_held is not None:
            insert = structs.replace(insert, block=held_block(insert.block, is_held))
        if self.carries_identity:
            identity = Identity(stream=stream, partition=partition, runs=batch.runs)
            insert = structs.replace(insert, identity=identity)
        summary = await self._clickhouse.insert(insert)
        log.debug(
            "batch_inserted",
            datasource=self._datasource.name,
            stream=f"{stream:016x}",
            partition=partition,
            first=batch.first,
            next=batch.next,
            rows=batch.row_count,
            # What ClickHouse's own log of queries has begins with it.
            query_id=token,
            elapsed_s=round(summary.elapsed_s, 6),
        )
        return summary

    def _insert(self, table: str, batch: Batch, token: str) -> Insert:
        return Insert(
            database=self._clickhouse.database,
            table=table,
            columns=self.decoder.columns,
            block=concat_blocks(batch.blocks),
            defaults=self.decoder.defaults,
            token=token,
            query_id=token,
        )

    async def find_guilty(self, partition: int, chunks: Sequence[Chunk]) -> dict[int, str]:
        """The offsets that ClickHouse refuses for good, with its reason for each.

        Rows are tried in a table that keeps nothing and has the same columns and constraints, so
        the real table and its views see none of it. What breaks a constraint is found at once; for
        every other reason there are about two inserts a refused row.

        Raises:
            InsertError: Something else failed; nothing is known then.
        """
        source = quote_table(self._clickhouse.database, self._datasource.name)
        database, scratch = await self._scratch(partition)
        target = quote_table(database, scratch)
        await self._clickhouse.execute(Statement(sql=f"DROP TABLE IF EXISTS {target}"))
        await self._clickhouse.execute(
            Statement(
                sql=f"CREATE TABLE {target} AS {source}"
                # A comment of its own: the copied one would make it a deployed data source.
                " ENGINE = Null COMMENT 'a search for refused rows'"
            )
        )
        guilty: dict[int, str] = {}
        try:
            for chunk in chunks:
                await self._search(database, scratch, chunk, guilty)
        finally:
            await self._clickhouse.execute(Statement(sql=f"DROP TABLE IF EXISTS {target}"))
        return guilty

    async def _scratch(self, partition: int) -> tuple[str, str]:
        """Database and name of the table for a search; partitions may search at the same time."""
        own = self._clickhouse.database
        name = f"{self._datasource.name}__scratch_{partition}"
        found = await self._clickhouse.fetch(
            Statement(
                sql="SELECT count() FROM system.databases WHERE name = {name:String}",
                parameters={"name": SCRATCH_DATABASE},
                format="TSV",
            )
        )
        return (SCRATCH_DATABASE, f"{own}__{name}") if int(found.body) else (own, name)

    async def _search(
        self, database: str, scratch: str, chunk: Chunk, guilty: dict[int, str]
    ) -> None:
        pending = [chunk] if chunk.offsets else []
        while pending:
            part = pending.pop()
            batch = make_batch(part.offsets[0], part.next, [self.decoder.decode(part)])
            if not batch.row_count:
                continue
            insert = structs.replace(self._insert(scratch, batch, ""), database=database)
            try:
                await self._clickhouse.insert(insert)
            except InsertRefusedError as error:
                if len(part.offsets) == 1:
                    guilty[part.offsets[0]] = error.message
                elif found := await violators(self._clickhouse, insert, batch.runs, error):
                    guilty |= found
                    rest = [i for i, offset in enumerate(part.offsets) if offset not in found]
                    pending += [part.pick(rest)] if rest else []
                else:
                    middle = len(part.offsets) // 2
                    pending += [slice_chunk(part, 0, middle), slice_chunk(part, middle, None)]

    async def settle(self, token: str) -> None:
        """Return when nothing that was sent under the token runs any more.

        Raises:
            ClickHouseUnavailableError: It is not known.
        """
        await self._clickhouse.kill(f"{token}:")

    # Questions --------------------------------------------------------------------------------

    async def _caught_up(self) -> str:
        """The table, quoted, once the host that is asked has what others have stored."""
        table = quote_table(self._clickhouse.database, self._datasource.name)
        if self._clickhouse.capabilities.replicates:
            await self._clickhouse.execute(Statement(sql=f"SYSTEM SYNC REPLICA {table}"))
        return table

    async def stored_from(self, stream: int, partition: int, position: int) -> tuple[Run, ...]:
        """The offsets from a position on that the table holds; none where it cannot tell."""
        if not self.carries_identity:
            return ()
        table = await self._caught_up()
        result = await self._clickhouse.fetch(
            Statement(
                # A window: the engine leaves an inner ORDER BY out when the outer query sorts.
                sql="SELECT min(o) AS first, count()"
                " FROM (SELECT o, o - row_number() OVER (ORDER BY o) AS g"
                f" FROM (SELECT DISTINCT __offset AS o FROM {table}"
                " WHERE __stream = {stream:UInt64} AND __partition = {partition:Int32}"
                " AND __offset >= {position:Int64})) GROUP BY g ORDER BY first",
                parameters={"stream": stream, "partition": partition, "position": position},
                format="TSV",
            )
        )
        lines = [line.split() for line in result.body.splitlines()]
        return tuple(Run(int(first), int(count)) for first, count in lines)

    async def next_known(self, stream: int, partition: int) -> int | None:
        """Behind the highest offset that table or ledger know; None where they know nothing."""
        known = await Ledger(self._clickhouse).highest_next(
            self._datasource.name, stream, partition
        )
        if self.carries_identity:
            table = await self._caught_up()
            result = await self._clickhouse.fetch(
                Statement(
                    sql=f"SELECT max(__offset) + 1 FROM {table} WHERE __stream = {{stream:UInt64}}"
                    " AND __partition = {partition:Int32} HAVING count() > 0",
                    parameters={"stream": stream, "partition": partition},
                    format="TSV",
                )
            )
            known = max([*(int(line) for line in result.body.split()), known or 0]) or known
        return known

    async def held_offsets(self, stream: int, partition: int, first: int, next_: int) -> set[int]:
        """Which offsets of ``[first, next_)`` the table holds; needs ``carries_identity``."""
        table = await self._caught_up()
        result = await self._clickhouse.fetch(
            Statement(
                sql=f"SELECT DISTINCT __offset FROM {table} WHERE __stream = {{stream:UInt64}}"
                " AND __partition = {partition:Int32} AND __offset >= {first:Int64}"
                " AND __offset < {next:Int64}",
                parameters={
                    "stream": stream,
                    "partition": partition,
                    "first": first,
                    "next": next_,
                },
                format="TSV",
            )
        )
        return {int(line) for line in result.body.split()}

    async def holding(self, batch: Batch, stream: int, partition: int) -> Holding:
        """How much of a batch's rows the table holds.

        A table without identity columns cannot tell; ``PART`` makes the partition wait.
        """
        if not batch.row_count:
            return Holding.ALL
        if not self.carries_identity:
            return Holding.PART
        wanted = {o for run in batch.runs for o in range(run.first, run.first + run.count)}
        held = await self.held_offsets(stream, partition, batch.first, batch.next) & wanted
        if not held:
            return Holding.NOTHING
        return Holding.ALL if held == wanted else Holding.PART

    async def remembers(self, intent: Intent) -> bool:
        """Whether the tokens used since the intent are certainly still known.

        The window counts inserts, and for replicated tables seconds too. Block numbers count every
        part that a table ever got: what the parts from before the intent do not reach is the most
        that can have been inserted since. Views write to tables of the same database, whose windows
        are as large.
        """
        result = await self._clickhouse.fetch(
            Statement(
                sql="SELECT sum(used) FROM (SELECT table, max(max_block_number)"
                " - maxIf(max_block_number, modification_time < fromUnixTimestamp({at:UInt32}))"
                " + if(any(startsWith(engine, 'Replicated')) AND now() >= fromUnixTimestamp("
                "{at:UInt32} + {certain_s:UInt32}), {window:UInt32}, 0) AS used"
                " FROM system.parts WHERE database = {database:String}"
                # Replicated tables number the blocks of each partition.
                " GROUP BY table, if(startsWith(engine, 'Replicated'), partition_id, ''))"
                " GROUP BY table",
                parameters={
                    "at": intent.at_ms // 1000,
                    "certain_s": int(WINDOW_S * CERTAIN_SHARE),
                    "window": self._window,
                    "database": self._clickhouse.database,
                },
                format="TSV",
            )
        )
        used = max((int(line) for line in result.body.split()), default=0)
        return used < self._window * CERTAIN_SHARE

    # Quarantine -------------------------------------------------------------------------------

    async def quarantine(
        self,
        rejections: Sequence[Rejection],
        *,
        stream: int,
        partition: Partition,
        token: str,
        now_s: int,
        boot_id: str = "",
    ) -> None:
        """Put records into the quarantine table.

        The token is that of the range and the offsets, so that repeating it adds nothing, while
        other records of the same range are never taken for these. Where the engine is not the one
        of ``boot_id`` any more, it may remember the token of rows that it lost: they are sent once
        more under another one, and the table makes one row of two.

        Raises:
            InsertError: See ``shared/clickhouse/failures.py``.
        """
        if not rejections:
            return
        block = self._quarantine.block(rejections, stream=stream, partition=partition, now_s=now_s)
        offsets = msgspec.json.encode([r.offset for r in rejections])
        digest = hashlib.blake2b(offsets, digest_size=8).hexdigest()
        insert = Insert(
            database=self._clickhouse.database,
            table=self._quarantine.name,
            columns=self._quarantine.insert_columns,
            block=block,
            token=f"{token}:q:{digest}",
        )
        summary = await self._clickhouse.insert(insert)
        is_doubtful = self._clickhouse.capabilities.may_lose_stored
        if boot_id and is_doubtful and summary.boot_id != boot_id:
            again = f"{insert.token}:{summary.boot_id}"
            await self._clickhouse.insert(structs.replace(insert, token=again))


def slice_chunk(chunk: Chunk, start: int, stop: int | None) -> Chunk:
    """Some consecutive records of a chunk."""
    found = chunk.pick(range(len(chunk.offsets))[start:stop])
    return structs.replace(found, next=found.offsets[-1] + 1)


def without(chunks: Sequence[Chunk], excluded: Sequence[Run]) -> list[Chunk]:
    """The chunks minus the records at the excluded offsets."""
    gone = {o for run in excluded for o in range(run.first, run.first + run.count)}
    if not gone:
        return list(chunks)
    return [
        chunk.pick([i for i, offset in enumerate(chunk.offsets) if offset not in gone])
        for chunk in chunks
    ]


def refusals(chunks: Sequence[Chunk], reasons: Mapping[int, str]) -> list[Rejection]:
    """Rejections for these offsets, found in the chunks, with ClickHouse's reasons."""
    found = []
    for chunk in chunks:
        for offset, value, at_ms in zip(
            chunk.offsets, chunk.values, chunk.timestamps_ms, strict=True
        ):
            if offset in reasons and value is not None:
                found.append(
                    Rejection(
                        offset=offset,
                        timestamp_ms=at_ms,
                        raw=value,
                        errors=(CellError("", reasons[offset]),),
                    )
                )
    return found
