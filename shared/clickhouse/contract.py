"""What every ClickHouse engine promises: the values that go in, the values that come out.

Two engines stand behind it: chDB in this process, and a server. What differs between them is
declared in ``Capabilities``; nobody asks which class it is talking to. One contract suite
(tests/contract/test_clickhouse.py) runs over both.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from msgspec import Struct, field

from shared.clickhouse.sql import ParameterValue

SettingValue = str | int | float


class Limits(Struct, frozen=True, kw_only=True):
    """What one statement may use; None means the engine's own limit."""

    max_time_s: float | None = None
    max_memory_bytes: int | None = None
    max_rows_to_read: int | None = None
    max_result_rows: int | None = None
    max_result_bytes: int | None = None


class Statement(Struct, frozen=True, kw_only=True):
    """One SQL statement with everything that goes beside its text.

    ``parameters`` are bound by the engine to ``{name:Type}`` placeholders. ``format`` is appended
    as the output format. ``readonly`` statements run under ``readonly=1``. ``tag`` names the
    statement in the engine's own lists, so that it can be found and ended.
    """

    sql: str
    parameters: Mapping[str, ParameterValue] = field(default_factory=dict)
    format: str | None = None
    readonly: bool = False
    limits: Limits = Limits()
    settings: Mapping[str, SettingValue] = field(default_factory=dict)
    tag: str = ""


class Summary(Struct, frozen=True, kw_only=True):
    """What a statement cost.

    ``boot_id`` is that of the engine which answered an insert; empty for other statements. Where it
    differs from the one at an earlier attempt, the engine was restarted between them.
    """

    elapsed_s: float = 0.0
    read_rows: int = 0
    read_bytes: int = 0
    result_rows: int = 0
    result_bytes: int = 0
    boot_id: str = ""


class Result(Struct, frozen=True, kw_only=True):
    """The formatted bytes of an answer, never decoded by us."""

    body: bytes
    summary: Summary = Summary()


@runtime_checkable
class Stream(Protocol):
    """An answer that is still arriving."""

    def __aiter__(self) -> AsyncIterator[bytes]:
        """The formatted bytes, in order; errors of the engine are raised from here too."""
        ...

    @property
    def summary(self) -> Summary:
        """What it cost so far; final once the iteration has ended."""
        ...

    async def aclose(self) -> None:
        """End it early and cancel the statement; harmless after the end."""
        ...


class Run(Struct, frozen=True):
    """``count`` consecutive rows of a block, with offsets ``first``, ``first + 1`` and so on."""

    first: int
    count: int


class Identity(Struct, frozen=True, kw_only=True):
    """Where the rows of a block come from; stored with every row.

    The runs cover the rows of the block in order: the sum of their counts is its row count.
    ``columns`` names the stream, partition and offset columns of the table.
    """

    stream: int
    partition: int
    runs: tuple[Run, ...]
    columns: tuple[str, str, str] = ("__stream", "__partition", "__offset")


@runtime_checkable
class RowBlock(Protocol):
    """Rows ready to insert, in whatever form the engine asks for.

    A block can be asked any number of times: an insert is repeated with the very same rows.
    """

    @property
    def row_count(self) -> int:
        """How many rows."""
        ...

    def json_lines(self) -> Iterable[bytes]:
        """The rows as NDJSON, in pieces that each end with a newline.

        Keys are those of ``Insert.columns``; every value is in a form that the engine stores
        unchanged in the column's type.
        """
        ...


@runtime_checkable
class ColumnBlock(RowBlock, Protocol):
    """A block that can be asked for its rows by column too; see ``Capabilities.takes_columns``."""

    def columns(self) -> Sequence[Sequence[Any]]:
        """The values by column, in the order of ``Insert.columns``, not to be written to.

        Values are those that the JSON of ``json_lines`` has: text for dates, decimals and UUIDs,
        names for enums, lists, dicts. ``msgspec.UNSET`` stands for a missing key.
        """
        ...


class Insert(Struct, frozen=True, kw_only=True):
    """One block for one table under one deduplication token.

    ``columns`` are (name, ClickHouse type) pairs of what the block holds, in order. Columns of the
    table that are not named take their default. With ``identity`` the three identity columns are
    written too. An empty ``token`` means the block is not deduplicated.

    ``defaults`` (name → SQL expression) are taken, row by row, where the key of a column is missing
    or, for a column that is not Nullable, null.

    The engine's own id of each attempt is ``query_id``, a colon and something that no other attempt
    has, so that ``running`` and ``kill`` find every attempt by ``query_id + ":"``.
    """

    database: str
    table: str
    columns: tuple[tuple[str, str], ...]
    block: RowBlock
    token: str = ""
    identity: Identity | None = None
    query_id: str = ""
    max_time_s: float | None = None
    defaults: Mapping[str, str] = field(default_factory=dict)


class Capabilities(Struct, frozen=True, kw_only=True):
    """How an engine differs from others.

    ``shares_process``: it lives and dies with this process. ``repairs_orphans``: deduplication
    entries without a part are removed before it opens, so inserts need no verification later.
    ``can_cancel``: a running statement can be ended. ``takes_columns``: a ``ColumnBlock`` is stored
    without its lines ever being made. ``replicates``: several hosts keep the database, and their
    tables share the memory of tokens.
    """

    name: str
    shares_process: bool
    repairs_orphans: bool
    can_cancel: bool
    takes_columns: bool = False
    replicates: bool = False

    @property
    def may_lose_stored(self) -> bool:
        """Whether a restart may lose rows whose token is still remembered."""
        return not (self.repairs_orphans or self.replicates)


@runtime_checkable
class ClickHouse(Protocol):
    """An engine with one current database (``database``) for unqualified names."""

    @property
    def capabilities(self) -> Capabilities:
        """How this engine differs from others."""
        ...

    @property
    def database(self) -> str:
        """The database of the project's tables."""
        ...

    @property
    def boot_id(self) -> str:
        """Changes whenever the engine was restarted; the latest seen, see ``Summary.boot_id``."""
        ...

    async def insert(self, insert: Insert) -> Summary:
        """Insert one block; returning means it is stored, in the table and in every view.

        The settings that exactly-once needs are pinned here, for every insert.

        Raises:
            InsertError: One of the classes of ``shared/clickhouse/failures.py``, which say
                whether the block may have been stored and what to do next.
        """
        ...

    async def execute(self, statement: Statement) -> None:
        """Run a statement without an answer: DDL, KILL, INSERT … SELECT.

        Raises:
            QueryError: ClickHouse refused it.
            ClickHouseUnavailableError: It does not answer.
        """
        ...

    async def fetch(self, statement: Statement) -> Result:
        """Run a query and return its whole answer.

        Raises:
            QueryError: ClickHouse refused it.
            QueryTimeoutError: It ran into its time limit.
            TooLargeError: The answer is over its limit.
            ClickHouseUnavailableError: It does not answer.
        """
        ...

    async def stream(self, statement: Statement) -> Stream:
        """Run a query and return its answer as it arrives; errors as in ``fetch``."""
        ...

    async def running(self, query_id_prefix: str) -> tuple[str, ...]:
        """The ids of the inserts and other statements that begin so and run, on every host.

        Raises:
            ClickHouseUnavailableError: A host does not answer, so nothing is known of it.
        """
        ...

    async def kill(self, query_id_prefix: str) -> None:
        """End what begins so; return when nothing of it runs any more, however long that takes.

        Raises:
            ClickHouseUnavailableError: As in ``running``.
        """
        ...

    async def ping(self) -> None:
        """Return when the engine answers.

        Raises:
            ClickHouseUnavailableError: It does not.
        """
        ...

    async def close(self) -> None:
        """End what runs and let go of everything; safe to call twice."""
        ...
