"""Statements to a server over its HTTP interface: what is sent, and what became of it."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from base64 import b64encode
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType
from typing import TypeVar
from urllib.parse import quote, urlencode

import msgspec
import structlog
from msgspec import Struct
from msgspec.structs import replace

from shared.clickhouse.contract import SettingValue, Summary
from shared.clickhouse.failures import query_error
from shared.clickhouse.hosts import Hosts
from shared.clickhouse.http import (
    HttpBrokenError,
    HttpConnection,
    HttpPool,
    HttpSilentError,
    Response,
)
from shared.clickhouse.sql import literal
from shared.clickhouse.url import Host, ServerUrl
from shared.errors import (
    AppError,
    ClickHouseUnavailableError,
    QueryTimeoutError,
    TooLargeError,
)

T = TypeVar("T")

log = structlog.get_logger(__name__)

_KILL_TIMEOUT_S = 10.0
_OK = 200
# Bindings longer than this go into the body: URLs have limits, at servers and on the way.
_LONGEST_IN_URL = 8 << 10
_NONE: Mapping[str, str] = MappingProxyType({})
# Behind the id of a query that is sent again: the first may still run on a server that dropped us.
_AGAIN = "-again"
# What a server says of a binding over its http_max_field_value_size, 128 KiB by default.
_FIELD_TOO_LONG = "HTML Form Exception: Field value too long"
_OUT_OF_REACH = (OSError, TimeoutError, HttpBrokenError)


class Request(Struct, frozen=True, kw_only=True):
    """One statement as it goes over the wire.

    ``repeatable`` says that it may be sent again, elsewhere, where no answer came. ``content_type``
    is named where the body is more than the statement.
    """

    query_id: str
    query: str
    body: Callable[[], Iterable[bytes]]
    body_bytes: int
    repeatable: bool
    content_type: str = ""
    host: Host | None = None


class Answer(Struct, frozen=True):
    """An answer that began well; its connection has to be given back."""

    response: Response
    connection: HttpConnection


class HttpFace:
    """The HTTP interface of one or several servers.

    Args:
        url: Where and as whom.
        hosts: Which server first.
        pool: The connections.
        settings: What every statement gets unless it says otherwise.
    """

    def __init__(
        self,
        url: ServerUrl,
        hosts: Hosts,
        pool: HttpPool,
        settings: Mapping[str, SettingValue],
    ) -> None:
        self._url = url
        self._hosts = hosts
        self._pool = pool
        self._common = urlencode({"database": url.database, **settings})
        login = b64encode(f"{url.user}:{url.password}".encode()).decode()
        self._headers = f"Authorization: Basic {login}\r\nUser-Agent: pipehouse\r\nContent-Length: "
        self._killing: set[asyncio.Task[None]] = set()
        self._silent: set[Host] = set()

    def request(
        self,
        sql: str,
        options: Mapping[str, SettingValue],
        *,
        parameters: Mapping[str, str] = _NONE,
        repeatable: bool = True,
        host: Host | None = None,
    ) -> Request:
        """A statement whose text is the body; ``options`` are settings."""
        text = sql.encode()
        query_id = f"ph-{uuid.uuid4().hex}"
        query = f"{self._common}&{_encoded(tuple(options.items()))}"
        content_type = ""
        if parameters:
            bound = {f"param_{name}": value for name, value in parameters.items()}
            encoded = urlencode(bound)
            if len(encoded) <= _LONGEST_IN_URL:
                query = f"{query}&{encoded}"
            else:
                content_type, text = _form({"query": sql, **bound}, boundary=query_id)
        return Request(
            query_id=query_id,
            query=query,
            body=lambda: (text,),
            body_bytes=len(text),
            repeatable=repeatable,
            host=host,
            content_type=content_type,
        )

    def data_request(
        self,
        sql: str,
        pieces: Sequence[bytes],
        options: Mapping[str, SettingValue],
        *,
        query_id: str,
    ) -> Request:
        """A statement whose body is data; sent once."""
        query = urlencode({"query": sql, **options})
        return Request(
            query_id=query_id,
            query=f"{self._common}&{query}",
            body=lambda: pieces,
            body_bytes=sum(map(len, pieces)),
            repeatable=False,
        )

    async def ask(self, connection: HttpConnection, sql: str) -> str:
        """One line from the server at the other end of a connection.

        Raises:
            HttpBrokenError: The connection ended.
            ServerRefusalError: The server refused the query.
        """
        request = self.request(sql, {})
        head = self._head(connection.host, request)
        response = await connection.request(head, request.body())
        body = await response.read()
        if response.status != _OK:
            raise _refusal(response.status, body)
        return body.decode().rstrip("\n")

    async def send(
        self, request: Request, *, silence_s: float | None = 0, tells: bool = True
    ) -> Answer:
        """Send a statement to the first host that answers; ``tells`` the log of those that do not.

        Raises:
            ServerRefusalError: The server refused it.
            ClickHouseUnavailableError: No server answers.
        """
        hosts = self._hosts.in_order() if request.host is None else (request.host,)
        for host in hosts:
            try:
                answer = await self._send_to(host, request, silence_s)
            except _OUT_OF_REACH as error:
                if tells:
                    self._tell_once(host, str(error) or "it takes too long")
                if not request.repeatable:
                    break
                if isinstance(error, HttpSilentError):
                    self.kill_soon(request.query_id, host)
            else:
                self._silent.discard(host)
                return answer
        # Callers of endpoints see this text; where the servers are is for the log.
        raise ClickHouseUnavailableError("ClickHouse does not answer.")

    def _tell_once(self, host: Host, problem: str) -> None:
        """Say that a host does not answer, once until it does again."""
        if host not in self._silent:
            self._silent.add(host)
            log.warning("clickhouse_not_answering", host=str(host), problem=problem)

    async def _send_to(self, host: Host, request: Request, silence_s: float | None) -> Answer:
        for fresh in (False, True):
            if fresh:
                request = replace(request, query_id=request.query_id + _AGAIN)
            connection = await self._acquire(host, fresh=fresh)
            try:
                response = await connection.request(
                    self._head(host, request), request.body(), silence_s
                )
                if response.status != _OK or "x-clickhouse-exception-code" in response.headers:
                    raise _refusal(response.status, await response.read())
            except HttpSilentError:
                self._pool.release(connection)
                raise
            except HttpBrokenError:
                # A server may close a kept connection just as it is used again.
                is_stale = connection.is_kept and not connection.has_answered
                self._pool.release(connection)
                if fresh or not is_stale or not request.repeatable:
                    raise
            except BaseException:
                self._pool.release(connection)
                raise
            else:
                return Answer(response, connection)
        raise AssertionError("a fresh connection either answers or raises")

    async def _acquire(self, host: Host, *, fresh: bool) -> HttpConnection:
        try:
            connection = await self._pool.acquire(host, fresh=fresh)
        except OSError:
            self._hosts.failed(host)
            raise
        return connection

    def _head(self, host: Host, request: Request) -> bytes:
        form = f"Content-Type: {request.content_type}\r\n" if request.content_type else ""
        return (
            f"POST /?{request.query}&query_id={quote(request.query_id)} HTTP/1.1\r\n"
            f"Host: {host.at(host.http_port)}\r\n{form}"
            f"{self._headers}{request.body_bytes}\r\n\r\n"
        ).encode("latin-1")

    async def whole(
        self,
        request: Request,
        *,
        limit_s: float | None = None,
        silence_s: float | None = 0,
        tells: bool = True,
    ) -> tuple[bytes, Summary]:
        """Send a statement and take its whole answer.

        Args:
            request: The statement.
            limit_s: When to end it from here; the server has its own, shorter limit.
            silence_s: How long the server may say nothing; None for ever, 0 as the URL says.
            tells: Whether the log is told of hosts that do not answer.

        Raises:
            ServerRefusalError: The server refused it.
            QueryTimeoutError: It took longer than ``limit_s``.
            ClickHouseUnavailableError: No server answers, or it broke off.
        """
        try:
            async with asyncio.timeout(limit_s):
                answer = await self.send(request, silence_s=silence_s, tells=tells)
                try:
                    body = await answer.response.read()
                finally:
                    self._pool.release(answer.connection)
        except asyncio.CancelledError:
            self.kill_soon(request.query_id)
            raise
        except TimeoutError:
            self.kill_soon(request.query_id)
            raise timed_out() from None
        except HttpBrokenError as error:
            self.kill_soon(request.query_id)
            raise ClickHouseUnavailableError(f"ClickHouse broke off its answer: {error}.") from None
        return body, summary_of(answer.response.headers)

    def release(self, answer: Answer) -> None:
        """Give back the connection of an answer; one not read to its end is closed."""
        self._pool.release(answer.connection)

    def kill_soon(self, query_id: str, host: Host | None = None) -> None:
        """End a statement that nobody waits for any more, on every host or on one."""
        task = asyncio.get_running_loop().create_task(self.kill(query_id, host))
        self._killing.add(task)
        task.add_done_callback(self._killing.discard)

    async def kill(self, query_id: str, host: Host | None = None) -> None:
        """End one statement and wait, within bounds, until it has ended; never raises."""
        hosts = self._hosts.all if host is None else (host,)
        ids = f"{literal(query_id)}, {literal(query_id + _AGAIN)}"
        for one in hosts:
            with contextlib.suppress(AppError, ServerRefusalError, *_OUT_OF_REACH):
                async with asyncio.timeout(_KILL_TIMEOUT_S):
                    request = self.request(f"KILL QUERY WHERE query_id IN ({ids}) SYNC", {})
                    answer = await self._send_to(one, request, silence_s=0)
                    try:
                        await answer.response.read()
                    finally:
                        self._pool.release(answer.connection)

    async def on_every_host(self, ask: Callable[[Host], Awaitable[T]]) -> list[T]:
        """Ask all hosts; one that refuses connections runs nothing and is left out.

        Raises:
            ClickHouseUnavailableError: One does not answer otherwise.
        """
        found = []
        for host in self._hosts.all:
            try:
                found.append(await ask(host))
            except ClickHouseUnavailableError:
                if not await _refuses(host, self._url.connect_timeout_s):
                    raise
        return found

    async def close(self) -> None:
        """Close every connection."""
        if self._killing:
            await asyncio.wait(self._killing, timeout=_KILL_TIMEOUT_S)
        await self._pool.close()


async def _refuses(host: Host, timeout_s: float) -> bool:
    """Whether nothing listens there: then nothing runs there either."""
    try:
        async with asyncio.timeout(timeout_s):
            _, writer = await asyncio.open_connection(host.name, host.http_port)
    except ConnectionRefusedError:
        return True
    except OSError:
        return False
    writer.close()
    return False


def timed_out() -> QueryTimeoutError:
    """The error of a query that was ended from here."""
    return QueryTimeoutError(
        "The query ran into its time limit.",
        clickhouse_code=159,
        clickhouse_name="TIMEOUT_EXCEEDED",
    )


def _form(fields: Mapping[str, str], *, boundary: str) -> tuple[str, bytes]:
    """Fields as the content type and the body of a form; the boundary must be in none of them."""
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in fields.items()
    ]
    body = f"{''.join(parts)}--{boundary}--\r\n".encode()
    return f"multipart/form-data; boundary={boundary}", body


def _refusal(status: int, body: bytes) -> Exception:
    text = body.decode(errors="replace")
    if _FIELD_TOO_LONG in text:
        return TooLargeError(
            "A parameter is longer than the ClickHouse server takes.",
            hint="Send less, or raise http_max_field_value_size in the server's default profile.",
        )
    if status >= 500 and "Code: " not in text:
        shown = " ".join(text.split())[:200]
        return ClickHouseUnavailableError(f"ClickHouse answers {status}: {shown or 'nothing'}.")
    return ServerRefusalError(text)


class ServerRefusalError(Exception):
    """The server's own text; translated where the kind of statement is known."""


def refused(error: ServerRefusalError) -> AppError:
    """The error of a query for a refusal."""
    return query_error(str(error))


class _Counts(Struct, frozen=True):
    """What ``X-ClickHouse-Summary`` says; numbers come as text."""

    read_rows: int = 0
    read_bytes: int = 0
    result_rows: int = 0
    result_bytes: int = 0
    written_rows: int = 0
    elapsed_ns: int = 0


_decode_counts = msgspec.json.Decoder(_Counts, strict=False).decode


def summary_of(headers: Mapping[str, str]) -> Summary:
    """What a statement cost, as the head of its answer tells it."""
    try:
        counts = _decode_counts(headers.get("x-clickhouse-summary", "{}"))
    except msgspec.MsgspecError:
        counts = _Counts()
    return Summary(
        elapsed_s=counts.elapsed_ns / 1e9,
        read_rows=counts.read_rows,
        read_bytes=counts.read_bytes,
        result_rows=counts.result_rows,
        result_bytes=counts.result_bytes,
    )


@lru_cache(maxsize=1024)
def _encoded(options: tuple[tuple[str, SettingValue], ...]) -> str:
    """Settings as a part of the query string; the same few come again and again."""
    return urlencode(options)
