"""Which offsets a table holds: asked in pieces, so that billions of rows need little memory."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from deploy.operate.ask import ask
from deploy.operate.ranges import Range, Ranges, union
from shared.clickhouse.contract import ClickHouse
from shared.clickhouse.sql import ParameterValue, quote_table

# Offsets of one piece; a piece that is whole and holds no offset twice is not looked at again.
PIECE = 1 << 20
_PIECES_PER_QUESTION = 4
MOST_DOUBLED = 10_000
_IN_PIECES = (
    "__stream = {stream:UInt64} AND __partition = {partition:Int32}"
    # The range is what indexes know, the list is what is wanted.
    " AND __offset >= {low:Int64} AND __offset < {high:Int64}"
    " AND intDiv(__offset, {size:Int64}) IN {pieces:Array(Int64)}"
)


class Origin(Struct, frozen=True, order=True):
    """A partition of a stream; stream 0 stands for rows that did not come from a log."""

    stream: int
    partition: int


class Extent(Struct, frozen=True, kw_only=True):
    """What a table holds of one origin."""

    stream: int
    partition: int
    rows: int
    lowest: int
    highest: int

    @property
    def origin(self) -> Origin:
        """Whose rows."""
        return Origin(self.stream, self.partition)


class Held(Struct, frozen=True, kw_only=True):
    """The offsets that a table holds, and those that it holds more than once."""

    rows: int = 0
    offsets: Ranges = ()
    doubled: Ranges = ()


class _Piece(Struct):
    piece: int
    rows: int
    distinct: int
    lowest: int
    highest: int

    @property
    def is_plain(self) -> bool:
        """Whether its offsets are one run without a repetition."""
        return self.rows == self.distinct == self.highest - self.lowest + 1


class HeldOffsets:
    """Questions to one table with identity columns.

    Args:
        clickhouse: Where the table is.
        table: Its name in the database of the engine.
        final: Whether rows with equal keys count as one: for tables that replace rows.
    """

    def __init__(self, clickhouse: ClickHouse, table: str, *, final: bool = False) -> None:
        self._clickhouse = clickhouse
        self._table = quote_table(clickhouse.database, table) + (" FINAL" if final else "")

    async def extents(self) -> list[Extent]:
        """What it holds of each origin."""
        return await ask(
            self._clickhouse,
            Extent,
            "SELECT __stream AS stream, __partition AS partition, count() AS rows,"
            f" min(__offset) AS lowest, max(__offset) AS highest FROM {self._table}"
            " GROUP BY stream, partition ORDER BY stream, partition",
        )

    async def held(self, origin: Origin) -> Held:
        """The offsets of one origin."""
        pieces = await ask(
            self._clickhouse,
            _Piece,
            "SELECT intDiv(__offset, {size:Int64}) AS piece, count() AS rows,"
            " groupBitmap(toUInt64(__offset)) AS distinct,"
            " min(__offset) AS lowest, max(__offset) AS highest"
            f" FROM {self._table} WHERE __stream = {{stream:UInt64}}"
            " AND __partition = {partition:Int32} GROUP BY piece ORDER BY piece",
            {"size": PIECE, "stream": origin.stream, "partition": origin.partition},
        )
        offsets = [Range(p.lowest, p.highest + 1) for p in pieces if p.is_plain]
        broken = [p.piece for p in pieces if p.rows and not p.is_plain]
        doubled: list[Range] = []
        for at in range(0, len(broken), _PIECES_PER_QUESTION):
            asked = broken[at : at + _PIECES_PER_QUESTION]
            offsets += await self._runs(origin, asked)
            doubled += await self._doubled(origin, asked)
        return Held(
            rows=sum(p.rows for p in pieces), offsets=union(offsets), doubled=union(doubled)
        )

    async def _runs(self, origin: Origin, pieces: Sequence[int]) -> list[Range]:
        return await ask(
            self._clickhouse,
            Range,
            "SELECT min(o) AS first, max(o) + 1 AS next FROM"
            " (SELECT o, o - row_number() OVER (ORDER BY o) AS run FROM"
            f" (SELECT DISTINCT __offset AS o FROM {self._table}"
            f" WHERE {_IN_PIECES}))"
            " GROUP BY run ORDER BY first",
            _place(origin, pieces),
        )

    async def _doubled(self, origin: Origin, pieces: Sequence[int]) -> list[Range]:
        return await ask(
            self._clickhouse,
            Range,
            "SELECT __offset AS first, __offset + 1 AS next"
            f" FROM {self._table} WHERE {_IN_PIECES}"
            " GROUP BY __offset HAVING count() > 1 ORDER BY first LIMIT {limit:UInt64}",
            {**_place(origin, pieces), "limit": MOST_DOUBLED},
        )


def _place(origin: Origin, pieces: Sequence[int]) -> dict[str, ParameterValue]:
    return {
        "stream": origin.stream,
        "partition": origin.partition,
        "size": PIECE,
        "pieces": list(pieces),
        "low": min(pieces) * PIECE,
        "high": (max(pieces) + 1) * PIECE,
    }
