"""The embedded engine: ClickHouse in this process, behind the same contract as a server.

One process owns a data folder. Inside it one connection inserts, one runs statements, a few warm
ones answer queries and a few more feed streams, each on a thread of its own; the event loop only
waits. ``fetch`` and ``stream`` use sessions that cannot write, whatever the SQL says; what a
caller's free SQL may *read* is decided before, by ``shared/clickhouse/allowlist.py``.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sys
import uuid
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import TypeVar

from msgspec.structs import replace

from shared.clickhouse.allowlist import Analysis
from shared.clickhouse.contract import (
    Capabilities,
    Insert,
    Result,
    Statement,
    Stream,
    Summary,
)
from shared.clickhouse.failures import insert_error, parse_failure, query_error
from shared.clickhouse.folder import claim_folder, release_folder
from shared.clickhouse.insert import insert_sql
from shared.clickhouse.lanes import Lanes, open_lanes
from shared.clickhouse.parser import Parser
from shared.clickhouse.rowfile import offsets_row_binary, row_file
from shared.clickhouse.session import Call, EngineError, Lane, Session, kill
from shared.clickhouse.sql import literal
from shared.clickhouse.statement import (
    DEFAULT_FORMAT,
    body_of,
    output_format_of,
    parameters_of,
    settings_of,
)
from shared.clickhouse.stream import PipeStream, open_pipe
from shared.errors import (
    AppError,
    ClickHouseUnavailableError,
    ConfigError,
    QueryTimeoutError,
)

T = TypeVar("T")

# How long after its own time limit a statement is ended from outside.
_GRACE_S = 0.5
# Below this nothing is defined any more.
_LEAST_FREE_BYTES = 4 << 20
_KILL_PAUSE_S = 0.1


class EmbeddedClickHouse:
    """The contract over chDB; made by ``open_embedded``. May be used from any event loop."""

    def __init__(self, folder: Path, database: str, lanes: Lanes) -> None:
        self._folder = folder
        self._database = database
        self._lanes = lanes
        self._boot_id = uuid.uuid4().hex
        self._running: set[Call] = set()
        self._inserting: set[str] = set()
        self._closed = False
        self._parser = Parser(self.fetch)

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"{len(self._running)} running"
        return f"<EmbeddedClickHouse {self._folder} {state}>"

    @property
    def capabilities(self) -> Capabilities:
        """See ``ClickHouse``."""
        return Capabilities(
            name="embedded", shares_process=True, repairs_orphans=True, can_cancel=True
        )

    @property
    def database(self) -> str:
        """See ``ClickHouse``."""
        return self._database

    @property
    def boot_id(self) -> str:
        """See ``ClickHouse``."""
        return self._boot_id

    async def insert(self, insert: Insert) -> Summary:
        """See ``ClickHouse``. Once begun it goes on, even when the caller stops waiting."""
        if insert.block.row_count == 0:
            return Summary()
        call = Call()
        query_id = f"{insert.query_id}:{call.marker}" if insert.query_id else call.marker
        future = self._lanes.inserts.submit(call, lambda s: _insert(s, query_id, insert))
        self._inserting.add(query_id)
        future.add_done_callback(lambda _: self._inserting.discard(query_id))
        try:
            return replace(await asyncio.wrap_future(future), boot_id=self._boot_id)
        except EngineError as error:
            raise insert_error(str(error)) from None

    async def running(self, query_id_prefix: str) -> tuple[str, ...]:
        """See ``ClickHouse``. What waits for its turn counts too; nobody else uses the engine."""
        return tuple(i for i in tuple(self._inserting) if i.startswith(query_id_prefix))

    async def kill(self, query_id_prefix: str) -> None:
        """See ``ClickHouse``."""
        # Repeated: a statement may not have reached the engine yet, or wait for its turn.
        while await self.running(query_id_prefix):
            await self.execute(
                Statement(
                    sql="KILL QUERY WHERE startsWith(Settings['log_comment'], {prefix:String})"
                    " ASYNC",
                    parameters={"prefix": query_id_prefix},
                )
            )
            await asyncio.sleep(_KILL_PAUSE_S)

    async def execute(self, statement: Statement) -> None:
        """See ``ClickHouse``.

        Raises:
            ClickHouseUnavailableError: The disk is full too: a definition that the engine could
                only begin to write keeps it from opening its folder again.
        """
        free_bytes = shutil.disk_usage(self._folder).free
        if free_bytes < _LEAST_FREE_BYTES:
            raise ClickHouseUnavailableError(
                f"The disk of '{self._folder}' is full: {free_bytes} bytes are free.",
                hint="Free some space.",
            )
        await self._call(self._lanes.statements, statement, _execute)

    async def fetch(self, statement: Statement) -> Result:
        """See ``ClickHouse``. The session cannot write."""
        return await self._call(self._lanes.queries, statement, _fetch)

    async def stream(self, statement: Statement) -> Stream:
        """See ``ClickHouse``. The output format must be in ``format``, not in the text."""
        output_format = output_format_of(statement)
        call = Call()
        reading, writing = open_pipe()

        def work(session: Session) -> Summary:
            return _stream(session, call, statement, output_format, writing)

        try:
            future = self._lanes.streams.submit(call, work)
        except ClickHouseUnavailableError:
            os.close(reading)
            os.close(writing)
            raise
        # Done or cancelled while waiting: either way nobody writes any more.
        future.add_done_callback(lambda _: os.close(writing))
        self._track(call, future)
        stream = PipeStream(
            reading, future, lambda: self._end(call, future), lambda e: _translated(e, call)
        )
        limit_s = statement.limits.max_time_s
        if limit_s is not None:
            timer = asyncio.get_running_loop().call_later(
                limit_s + _GRACE_S, self._expire, call, future
            )
            future.add_done_callback(lambda _: timer.cancel())
        await stream.start()
        return stream

    async def parse(self, sql: str) -> Analysis:
        """What a statement is and does; see ``Parser.parse``. Remembered by text."""
        return await self._parser.parse(sql)

    async def ping(self) -> None:
        """See ``ClickHouse``."""
        call = Call()
        future = self._lanes.control.submit(call, lambda s: s.query("SELECT 1", "Null") and None)
        try:
            await asyncio.wrap_future(future)
        except EngineError as error:
            raise ClickHouseUnavailableError(str(query_error(str(error)))) from None

    async def close(self) -> None:
        """See ``ClickHouse``. Inserts are finished, everything else that runs is ended."""
        if self._closed:
            return
        self._closed = True
        await asyncio.get_running_loop().run_in_executor(None, self._close)

    def _close(self) -> None:
        for call in tuple(self._running):
            call.cancelled = True
            self._kill(call)
        self._lanes.close()
        _opened.remove(self)
        release_folder(self._folder)

    async def _call(
        self,
        lane: Lane,
        statement: Statement,
        work: Callable[[Session, Call, Statement], T],
    ) -> T:
        call = Call()
        future = lane.submit(call, lambda session: work(session, call, statement))
        self._track(call, future)
        limit_s = statement.limits.max_time_s
        timer = None
        if limit_s is not None:
            loop = asyncio.get_running_loop()
            timer = loop.call_later(limit_s + _GRACE_S, self._expire, call, future)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            self._end(call, future)
            raise
        except EngineError as error:
            raise _translated(error, call) from None
        finally:
            if timer is not None:
                timer.cancel()

    def _track(self, call: Call, future: Future[T]) -> None:
        self._running.add(call)
        future.add_done_callback(lambda _: self._running.discard(call))

    def _expire(self, call: Call, future: Future[T]) -> None:
        call.timed_out = True
        self._end(call, future)

    def _end(self, call: Call, future: Future[T]) -> None:
        call.cancelled = True
        if not future.cancel() and not future.done():
            self._kill(call)

    def _kill(self, call: Call) -> None:
        # A closed engine runs nothing any more, and a busy one still has the time limit.
        with contextlib.suppress(ClickHouseUnavailableError):
            self._lanes.control.submit(Call(), lambda session: kill(session, call))


def _insert(session: Session, comment: str, insert: Insert) -> Summary:
    runs = insert.identity.runs if insert.identity is not None else ()
    with row_file(insert.block.json_lines()) as rows_path:
        if len(runs) > 1:
            with row_file([offsets_row_binary(runs)]) as offsets_path:
                sql = insert_sql(insert, rows_path, offsets_path, comment)
                result = session.query(sql, "Null")
        else:
            result = session.query(insert_sql(insert, rows_path, None, comment), "Null")
    return Summary(
        elapsed_s=result.elapsed(),
        read_rows=result.storage_rows_read(),
        read_bytes=result.storage_bytes_read(),
        result_rows=insert.block.row_count,
    )


def _execute(session: Session, call: Call, statement: Statement) -> None:
    # The text may end in the data of an INSERT, so nothing is appended to it.
    session.apply(settings_of(statement, call.marker))
    session.query(statement.sql, "Null", parameters_of(statement))


def _fetch(session: Session, call: Call, statement: Statement) -> Result:
    session.apply(settings_of(statement))
    if statement.format:
        end = f"FORMAT {output_format_of(statement)}\n{_marked(statement, call)}"
    else:
        end = f"-- {call.marker}"
    result = session.query(f"{body_of(statement)}\n{end}", DEFAULT_FORMAT, parameters_of(statement))
    body = result.bytes()
    return Result(body=body, summary=_summary(result, len(body)))


def _stream(
    session: Session, call: Call, statement: Statement, output_format: str, writing: int
) -> Summary:
    session.apply(settings_of(statement))
    folder = "/proc/self/fd" if sys.platform == "linux" else "/dev/fd"
    result = session.query(
        f"{body_of(statement)}\nINTO OUTFILE '{folder}/{writing}' APPEND"
        f"\nFORMAT {output_format}\n{_marked(statement, call)}",
        DEFAULT_FORMAT,
        parameters_of(statement),
    )
    return _summary(result, 0)


def _marked(statement: Statement, call: Call) -> str:
    """What a running statement is found by, behind its FORMAT.

    Not a comment: the engine forgets those of a statement that has parameters.
    """
    comment = literal(f"{statement.tag} {call.marker}".strip())
    return f"SETTINGS log_comment = {comment}"


def _summary(result: object, result_bytes: int) -> Summary:
    return Summary(
        elapsed_s=result.elapsed(),  # type: ignore[attr-defined]
        read_rows=result.storage_rows_read(),  # type: ignore[attr-defined]
        read_bytes=result.storage_bytes_read(),  # type: ignore[attr-defined]
        result_rows=result.rows_read(),  # type: ignore[attr-defined]
        result_bytes=result_bytes,
    )


def _translated(error: EngineError, call: Call) -> AppError:
    if call.timed_out:
        return QueryTimeoutError(
            "The query ran into its time limit.",
            clickhouse_code=159,
            clickhouse_name="TIMEOUT_EXCEEDED",
        )
    return query_error(str(error))


# One at most: folder.py sees to that.
_opened: list[EmbeddedClickHouse] = []


def opened_embedded() -> EmbeddedClickHouse | None:
    """The engine that is open in this process, if there is one."""
    return _opened[-1] if _opened else None


async def open_embedded(
    folder: Path, *, database: str = "workspace", readers: int = 3, fsync: bool = False
) -> EmbeddedClickHouse:
    """Open or create a data folder in this process.

    Deduplication entries without a part, as a crash leaves them, are removed first.

    Args:
        folder: Where the data lies.
        database: The database of the project's tables; made when missing.
        readers: How many queries run at a time.
        fsync: Whether parts are forced to the disk before an insert returns, against power loss.

    Raises:
        DataFolderOwnedError: Another process has the folder open.
        ConfigError: This process has an engine open already, or the folder cannot be used.
    """
    return await asyncio.to_thread(_open, folder, database, readers, fsync)


def _open(folder: Path, database: str, readers: int, fsync: bool) -> EmbeddedClickHouse:
    claimed = claim_folder(folder)
    try:
        lanes = open_lanes(claimed, database, readers, fsync)
    except EngineError as error:
        release_folder(claimed)
        raise ConfigError(
            f"The embedded ClickHouse cannot open '{folder}': {parse_failure(str(error)).message}"
        ) from None
    engine = EmbeddedClickHouse(claimed, database, lanes)
    _opened.append(engine)
    return engine
