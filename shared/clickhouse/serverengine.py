"""A ClickHouse server, or several that hold the same data, behind the contract.

Inserts and DDL go over the native protocol, from a few threads; queries, and rows that the native
protocol cannot bring, over HTTP. Free SQL is taken apart by an engine in this process, whatever the
server's version. An engine belongs to the event loop that it was opened on.

Several hosts are replicas that keep one Replicated database. Only then does the next host know the
deduplication tokens of the one before.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Collection, Mapping
from concurrent.futures import Future
from typing import TypeVar

from clickhouse_driver import errors

from shared.clickhouse.allowlist import Analysis
from shared.clickhouse.boot import BOOT_SQL, CLOCK_SQL, TABLE_SQL, Boots
from shared.clickhouse.contract import (
    Capabilities,
    Insert,
    Result,
    SettingValue,
    Statement,
    Stream,
    Summary,
)
from shared.clickhouse.failures import insert_error, query_error
from shared.clickhouse.http import HttpBrokenError, HttpConnection
from shared.clickhouse.insert import LATE, LINE_SETTINGS, input_sql, insert_settings
from shared.clickhouse.lines import server_lines
from shared.clickhouse.native import (
    BROKEN,
    ConnectError,
    HeaderMismatchError,
    NativeClient,
    NativePool,
    failure_text,
)
from shared.clickhouse.nativeinsert import is_native, native_insert
from shared.clickhouse.parsing import ParsingEngine
from shared.clickhouse.profile import ENGINE_PROFILE
from shared.clickhouse.reads import (
    HttpFace,
    Request,
    ServerRefusalError,
    refused,
)
from shared.clickhouse.serverstream import ServerStream
from shared.clickhouse.sql import literal
from shared.clickhouse.statement import output_format_of, parameters_of, settings_of
from shared.clickhouse.url import Host, ServerUrl
from shared.errors import ClickHouseUnavailableError

T = TypeVar("T")

# How long after its own time limit a statement is ended from here.
_GRACE_S = 0.5
_KILL_PAUSE_S = 0.1
# The server has to give up before we do: what it still runs cannot be repeated.
_INSERT_TIME_SHARE = 0.9
# Beyond the longest run of an insert; hosts' clocks may differ by as much.
_LATE_AFTER_S = 60
READ_OPTIONS: Mapping[str, SettingValue] = {
    "readonly": 2,
    "cancel_http_readonly_queries_on_client_close": 1,
    "http_write_exception_in_output_format": 0,
}
_NATIVE_FAILURES = (errors.Error, ConnectError, *BROKEN)


class ServerClickHouse:
    """The contract over a server; made by ``open_server``."""

    def __init__(
        self,
        url: ServerUrl,
        *,
        face: HttpFace,
        pool: NativePool,
        boots: Boots,
        unknown_settings: Collection[str] = (),
        replicates: bool = False,
    ) -> None:
        self._url = url
        self._face = face
        self._pool = pool
        self._boots = boots
        self._unknown_settings = frozenset(unknown_settings)
        self._replicates = replicates
        self._casts: set[tuple[str, str, tuple[tuple[str, str], ...]]] = set()
        self._parsing = ParsingEngine()
        self._closed = False

    def __repr__(self) -> str:
        return f"<ServerClickHouse {self._url}>"

    @property
    def capabilities(self) -> Capabilities:
        """See ``ClickHouse``."""
        return Capabilities(
            name="server",
            shares_process=False,
            repairs_orphans=False,
            can_cancel=True,
            takes_columns=True,
            replicates=self._replicates,
        )

    @property
    def database(self) -> str:
        """See ``ClickHouse``."""
        return self._url.database

    @property
    def boot_id(self) -> str:
        """See ``ClickHouse``."""
        return self._boots.latest

    def _known(self, settings: Mapping[str, SettingValue]) -> dict[str, SettingValue]:
        """Without those that came with later versions than the server's."""
        return {n: v for n, v in settings.items() if n not in self._unknown_settings}

    # Inserts ----------------------------------------------------------------------------------

    async def insert(self, insert: Insert) -> Summary:
        """See ``ClickHouse``. Once begun it goes on, even when the caller stops waiting."""
        if insert.block.row_count == 0:
            return Summary()
        query_id = f"{insert.query_id or 'insert'}:{uuid.uuid4().hex[:12]}"
        settings = {**ENGINE_PROFILE, **insert_settings(insert, query_id)}
        limit_s = self._url.timeout_s * _INSERT_TIME_SHARE
        settings["max_execution_time"] = min(insert.max_time_s or limit_s, limit_s)
        if is_native(insert):
            return await self._insert_columns(insert, self._known(settings), query_id)
        return await self._insert_lines(insert, self._known(settings), query_id)

    async def _insert_columns(
        self, insert: Insert, settings: Mapping[str, SettingValue], query_id: str
    ) -> Summary:
        shape = (insert.database, insert.table, insert.columns)

        def work(client: NativeClient) -> Summary:
            began_s = time.monotonic()
            # Before the rows are asked for: that is when the sender's right to them is looked at.
            deadline_s = self._deadline_s()
            form = native_insert(insert, casts=shape in self._casts, deadline_s=deadline_s)
            client.insert(form.sql, form.block, settings, query_id)
            return Summary(
                elapsed_s=time.monotonic() - began_s,
                result_rows=form.block.num_rows,
                boot_id=client.boot_id,
            )

        try:
            return await asyncio.wrap_future(self._pool.submit(work))
        except HeaderMismatchError:
            if shape in self._casts:
                raise
            self._casts.add(shape)
            return await self._insert_columns(insert, settings, query_id)
        except _NATIVE_FAILURES as error:
            raise insert_error(failure_text(error)) from None

    async def _insert_lines(
        self, insert: Insert, settings: Mapping[str, SettingValue], query_id: str
    ) -> Summary:
        began_s = time.monotonic()
        deadline_s = self._deadline_s()
        runs = insert.identity.runs if insert.identity is not None else ()
        has_offsets = len(runs) > 1
        pieces = await asyncio.to_thread(
            lambda: list(server_lines(insert, has_offsets=has_offsets))
        )
        sql = input_sql(
            insert,
            insert.defaults,
            has_offsets=has_offsets,
            form="JSONEachRow",
            deadline_s=deadline_s,
        )
        request = self._face.data_request(
            sql, pieces, {**settings, **self._known(LINE_SETTINGS)}, query_id=query_id
        )
        sending = asyncio.ensure_future(self._send_lines(request))
        # Whoever waits may go away; what it comes to is of no interest to anybody then.
        sending.add_done_callback(lambda done: done.cancelled() or done.exception())
        try:
            boot_id = await asyncio.shield(sending)
        except ServerRefusalError as error:
            if LATE in str(error):
                # Its clock may have been set since we looked at it.
                now = await self.fetch(Statement(sql=CLOCK_SQL, format="TSV"))
                self._boots.read_clock(int(now.body))
            raise insert_error(str(error)) from None
        except (ClickHouseUnavailableError, HttpBrokenError) as error:
            raise insert_error(failure_text(OSError(str(error)))) from None
        return Summary(
            elapsed_s=time.monotonic() - began_s,
            result_rows=insert.block.row_count,
            boot_id=boot_id,
        )

    async def _send_lines(self, request: Request) -> str:
        """Send rows over HTTP and return the boot id of the server that has stored them."""
        answer = await self._face.send(request)
        try:
            await answer.response.read()
            if not answer.connection.boot_id and answer.connection.is_reusable:
                answer.connection.boot_id = await self._boot_id(answer.connection)
            return answer.connection.boot_id or self._boots.latest
        finally:
            self._face.release(answer)

    async def _boot_id(self, connection: HttpConnection) -> str:
        server = (await self._face.ask(connection, BOOT_SQL)).split("\t")
        table = await self._face.ask(connection, TABLE_SQL)
        return self._boots.seen(server[0], int(server[1]), int(server[2]), table)

    def _deadline_s(self) -> int:
        """When an insert that is made now is too late, on the server's clock."""
        return self._boots.server_now_s + int(self._url.timeout_s) + _LATE_AFTER_S

    # Statements -------------------------------------------------------------------------------

    async def execute(self, statement: Statement) -> None:
        """See ``ClickHouse``."""
        settings = self._known({**ENGINE_PROFILE, **settings_of(statement)})
        # The native protocol takes neither bindings, at our revision, nor rows within the text.
        if statement.parameters or statement.sql.lstrip()[:6].upper() == "INSERT":
            request = self._face.request(
                statement.sql, settings, parameters=parameters_of(statement), repeatable=False
            )
            await self._whole(request, statement, silence_s=None)
            return
        query_id = f"ph-{uuid.uuid4().hex}"
        future = self._pool.submit(lambda c: c.run(statement.sql, settings, query_id))
        await self._await_native(future, query_id)

    async def _await_native(self, future: Future[T], query_id: str) -> T:
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            self._face.kill_soon(query_id)
            raise
        except errors.ServerException as error:
            raise query_error(failure_text(error)) from None
        except _NATIVE_FAILURES as error:
            raise ClickHouseUnavailableError(query_error(failure_text(error)).message) from None

    async def fetch(self, statement: Statement) -> Result:
        """See ``ClickHouse``. The statement cannot write."""
        # The server answers when it has everything: errors come as such, and totals are final.
        request = self._read_request(statement, {"wait_end_of_query": 1})
        body, summary = await self._whole(request, statement)
        return Result(body=body, summary=with_bytes(summary, len(body)))

    async def stream(self, statement: Statement) -> Stream:
        """See ``ClickHouse``. The output format must be in ``format``, not in the text."""
        request = self._read_request(statement, {})
        try:
            async with asyncio.timeout(_limit_s(statement)):
                answer = await self._face.send(request)
        except asyncio.CancelledError:
            self._face.kill_soon(request.query_id)
            raise
        except TimeoutError:
            self._face.kill_soon(request.query_id)
            raise query_error("Code: 159. The query ran into its time limit.") from None
        except ServerRefusalError as error:
            raise refused(error) from None
        stream = ServerStream(self._face, request, answer, output_format_of(statement))
        if (limit_s := _limit_s(statement)) is not None:
            stream.expire_in(limit_s)
        return stream

    def _read_request(self, statement: Statement, more: Mapping[str, SettingValue]) -> Request:
        settings = self._known({**READ_OPTIONS, **settings_of(statement), **more})
        settings["default_format"] = output_format_of(statement)
        return self._face.request(statement.sql, settings, parameters=parameters_of(statement))

    async def _whole(
        self, request: Request, statement: Statement, silence_s: float | None = 0
    ) -> tuple[bytes, Summary]:
        try:
            return await self._face.whole(request, limit_s=_limit_s(statement), silence_s=silence_s)
        except ServerRefusalError as error:
            raise refused(error) from None

    async def parse(self, sql: str) -> Analysis:
        """What a statement is and does, asked of an engine in this process; see ``Parser``."""
        return await self._parsing.parse(sql)

    # What runs --------------------------------------------------------------------------------

    async def running(self, query_id_prefix: str) -> tuple[str, ...]:
        """See ``ClickHouse``. A host that refuses connections runs nothing."""

        async def ask(host: Host) -> bytes:
            return await self._on_host(
                host, f"SELECT query_id FROM system.processes WHERE {wanted}"
            )

        wanted = f"startsWith(query_id, {literal(query_id_prefix)})"

        answers = await self._face.on_every_host(ask)
        return tuple(line for body in answers for line in body.decode().split("\n") if line)

    async def kill(self, query_id_prefix: str) -> None:
        """See ``ClickHouse``."""

        async def end(host: Host) -> bytes:
            # No binding: not every version takes them here.
            return await self._on_host(host, f"KILL QUERY WHERE {wanted} ASYNC")

        wanted = f"startsWith(query_id, {literal(query_id_prefix)})"

        while await self.running(query_id_prefix):
            await self._face.on_every_host(end)
            await asyncio.sleep(_KILL_PAUSE_S)

    async def _on_host(self, host: Host, sql: str) -> bytes:
        request = self._face.request(sql, {}, host=host)
        try:
            return (await self._face.whole(request))[0]
        except ServerRefusalError as error:
            raise refused(error) from None

    async def ping(self) -> None:
        """See ``ClickHouse``."""
        try:
            await self._face.whole(self._face.request("SELECT 1", {}))
        except ServerRefusalError as error:
            raise ClickHouseUnavailableError(str(refused(error))) from None

    async def close(self) -> None:
        """See ``ClickHouse``. Inserts are finished; broken off where the caller stops waiting."""
        if self._closed:
            return
        self._closed = True
        try:
            await asyncio.get_running_loop().run_in_executor(None, self._pool.close)
        except asyncio.CancelledError:
            # Their threads would keep the process alive.
            self._pool.abort()
            raise
        finally:
            await self._face.close()
            await self._parsing.close()


def _limit_s(statement: Statement) -> float | None:
    limit_s = statement.limits.max_time_s
    return None if limit_s is None else limit_s + _GRACE_S


def with_bytes(summary: Summary, count: int) -> Summary:
    """The same with the bytes that really came."""
    return Summary(
        elapsed_s=summary.elapsed_s,
        read_rows=summary.read_rows,
        read_bytes=summary.read_bytes,
        result_rows=summary.result_rows,
        result_bytes=count,
    )
