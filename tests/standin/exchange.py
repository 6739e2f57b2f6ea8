"""One statement over HTTP and its answer."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import secrets
import socket
import string
import zlib
from collections.abc import Mapping
from typing import Any

import msgspec

from tests.standin.answer import Answer
from tests.standin.engine import Access
from tests.standin.errors import ServerError
from tests.standin.faults import Subject
from tests.standin.running import Query
from tests.standin.service import Service
from tests.standin.text import InsertHead, has_answer, input_call, parse_insert, split_format
from tests.standin.users import User

_RESERVED = {
    "query",
    "database",
    "query_id",
    "default_format",
    "user",
    "password",
    "quota_key",
    "compress",
    "decompress",
    "session_id",
    "session_check",
    "session_timeout",
    "buffer_size",
    "wait_end_of_query",
    "stacktrace",
    "role",
    "close_session",
    "client_protocol_version",
}
_CONTENT_TYPES = {
    "TabSeparated": "text/tab-separated-values; charset=UTF-8",
    "TSV": "text/tab-separated-values; charset=UTF-8",
    "TabSeparatedWithNames": "text/tab-separated-values; charset=UTF-8",
    "CSV": "text/csv; charset=UTF-8; header=absent",
    "CSVWithNames": "text/csv; charset=UTF-8; header=present",
    "JSON": "application/json; charset=UTF-8",
    "JSONCompact": "application/json; charset=UTF-8",
    "JSONStrings": "application/json; charset=UTF-8",
    "JSONColumns": "application/json; charset=UTF-8",
    "JSONEachRow": "application/x-ndjson; charset=UTF-8",
    "JSONCompactEachRow": "application/x-ndjson; charset=UTF-8",
    "Prometheus": "text/plain; version=0.0.4; charset=UTF-8",
    "Parquet": "application/octet-stream",
    "Native": "application/octet-stream",
    "RowBinary": "application/octet-stream",
    "XML": "application/xml; charset=UTF-8",
}
REASONS = {
    200: "OK",
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    408: "Request Timeout",
    413: "Request Entity Too Large",
    500: "Internal Server Error",
    501: "Not Implemented",
    503: "Service Unavailable",
}
_READ_BYTES = 256 * 1024
# Older releases mark an error behind the first rows without a tag.
_TAGGED_SINCE = (25, 11)
# What a server keeps back before it sends the first byte, so that the status can still change.
_HELD_BYTES = 1024 * 1024


class HttpRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A request with its body; header names are lower case."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes

    def credentials(self) -> tuple[str, str]:
        """User name and password."""
        if "x-clickhouse-user" in self.headers:
            return self.headers["x-clickhouse-user"], self.headers.get("x-clickhouse-key", "")
        scheme, _, value = self.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "basic":
            name, _, password = base64.b64decode(value).decode().partition(":")
            return name, password
        return self.query.get("user", "default"), self.query.get("password", "")


class Exchange:
    """One statement over HTTP and its answer."""

    def __init__(self, sock: socket.socket, service: Service, request: HttpRequest) -> None:
        self._sock = sock
        self._service = service
        self._engine = service.engine
        self._request = request
        self._tag = "".join(secrets.choice(string.ascii_lowercase) for _ in range(16))
        self._headers: dict[str, str] = {}
        self._compressor: Any = None
        self._begun = False

    def run(self) -> None:
        """Answer it.

        Raises:
            EOFError: The answer broke off; the connection cannot be used any more.
            Cut: A fault cut it.
        """
        query: Query | None = None
        try:
            name, password = self._request.credentials()
            user = self._service.users.authenticate(name, password)
            query = self._query_of(name)
            access = self._access(name, user)
            self._engine.running.enter(query)
            try:
                self._run(query, access, user)
            finally:
                self._engine.running.leave(query)
        except ServerError as error:
            if self._begun:
                self._break_off(error)
            self._headers["X-ClickHouse-Exception-Code"] = str(error.code)
            self._begin(error.http_status, "text/plain; charset=UTF-8", query)
            self._send(error.over_http(self._engine.version).encode())
        self._finish()

    def _query_of(self, user: str) -> Query:
        request = self._request
        sql = request.query.get("query", "")
        if not sql:
            sql = request.body.decode("utf-8", "surrogateescape")
        elif request.body and parse_insert(sql) is None:
            sql = f"{sql}\n{request.body.decode('utf-8', 'surrogateescape')}"
        query = Query(
            sql=sql,
            query_id=request.query.get("query_id", ""),
            user=user,
            database=request.query.get("database")
            or request.headers.get("x-clickhouse-database")
            or "default",
            interface="http",
        )
        if "session_id" in request.query:
            raise ServerError(48, "NOT_IMPLEMENTED", "The stand-in has no HTTP sessions.")
        return query

    def _access(self, name_of_user: str, user: User) -> Access:
        request = self._request
        settings: dict[str, str] = {}
        parameters: dict[str, str] = {}
        for name, value in request.query.items():
            if name.startswith("param_"):
                parameters[name.removeprefix("param_")] = value
            elif name not in _RESERVED:
                settings[name] = value
        readonly = user.readonly or (2 if request.method in ("GET", "HEAD") else 0)
        wanted = settings.pop("readonly", None)
        if wanted is not None and wanted != str(readonly):
            if readonly:
                raise ServerError(
                    164, "READONLY", "Cannot modify 'readonly' setting in readonly mode"
                )
            readonly = int(wanted)
        for name in settings:
            if name not in self._engine.setting_names:
                raise ServerError(
                    115,
                    "UNKNOWN_SETTING",
                    f"Setting {name} is neither a builtin setting nor started with the prefix"
                    " 'SQL_' registered for user-defined settings",
                )
        # Of no use inside the engine, which is not asked over HTTP.
        for name in ("enable_http_compression", "cancel_http_readonly_queries_on_client_close"):
            settings.pop(name, None)
        return Access(
            database=request.query.get("database")
            or request.headers.get("x-clickhouse-database")
            or "default",
            user=name_of_user,
            settings=self._service.users.settings_of(user, settings),
            parameters=parameters,
            readonly=readonly,
            shown=self._service.users.shown_to(user),
        )

    def _run(self, query: Query, access: Access, user: User) -> None:
        head = parse_insert(query.sql)
        subject = Subject(
            kind="insert" if head is not None else "select" if has_answer(query.sql) else "other",
            table=head.table if head else "",
            database=(head.database if head else None) or access.database,
            sql=query.sql[:65536],
            user=query.user,
            cancelled=query.cancelled,
        )
        faults = self._service.faults
        faults.pass_through("query", subject)
        self._service.users.check(query.user, user, query.sql, access.database)
        self._engine.check(query.sql, access.settings)
        faults.pass_through("before", subject)
        with self._engine.session(access) as session:
            if head is None and has_answer(query.sql):
                sql = self._service.answering(query, user)
                self._stream(query, access, session, sql, subject)
                return
            if head is not None and head.format is not None:
                if access.readonly:
                    raise ServerError(164, "READONLY", "Cannot execute query in readonly mode")
                result = self._engine.insert_data(
                    session, query, access, head, self._data(head, query)
                )
            elif head is not None and (call := input_call(query.sql)) is not None:
                result = self._engine.insert_input(
                    session, query, access, call, [self._request.body]
                )
            elif self._service.users.run(query.sql, user):
                result = self._engine.run(session, query, access, "SELECT 1", "Null")
            else:
                result = self._engine.run(session, query, access, query.sql, "Null")
        faults.pass_through("after", subject)
        self._summarise(result, query)
        self._begin(200, "text/plain; charset=UTF-8", query)

    def _data(self, head: InsertHead, query: Query) -> bytes:
        body = self._request.body
        if not self._request.query.get("query"):
            prefix = query.sql[: head.data_start].encode("utf-8", "surrogateescape")
            return body[len(prefix) :].lstrip(b" \t\r\n")
        inline = query.sql[head.data_start :].strip(" \t\r\n;")
        return inline.encode("utf-8", "surrogateescape") + body

    def _stream(
        self, query: Query, access: Access, session: Any, sql: str, subject: Subject
    ) -> None:
        request = self._request
        output_format = (
            split_format(sql).format
            or request.query.get("default_format")
            or request.headers.get("x-clickhouse-format")
            or "TabSeparated"
        )
        held_bytes = _HELD_BYTES
        if request.query.get("wait_end_of_query") in ("1", "true"):
            held_bytes = 1 << 62
        held: list[bytes] = []
        size = 0
        watched = (
            self._service.watch.over(self._sock, query)
            if request.query.get("cancel_http_readonly_queries_on_client_close") in ("1", "true")
            else contextlib.nullcontext()
        )
        self._headers["X-ClickHouse-Format"] = output_format
        content_type = _CONTENT_TYPES.get(output_format, "text/plain; charset=UTF-8")
        with watched, Answer(self._engine, session, query, access, sql, output_format) as answer:
            while chunk := os.read(answer.reading, _READ_BYTES):
                if self._begun:
                    self._send(chunk)
                    continue
                held.append(chunk)
                size += len(chunk)
                if size >= held_bytes:
                    self._begin(200, content_type, query)
                    self._send(b"".join(held))
                    self._service.faults.pass_through("answer", subject)
            result = answer.result()
        self._service.faults.pass_through("after", subject)
        if not self._begun:
            self._summarise(result, query)
            self._begin(200, content_type, query)
            self._send(b"".join(held))

    def _summarise(self, result: Any, query: Query) -> None:
        written = 0 if has_answer(query.sql) else result.rows_read()
        summary = {
            "read_rows": result.storage_rows_read(),
            "read_bytes": result.storage_bytes_read(),
            "written_rows": written,
            "written_bytes": 0,
            "total_rows_to_read": result.storage_rows_read(),
            "result_rows": result.rows_read(),
            "result_bytes": result.bytes_read(),
            "elapsed_ns": int(result.elapsed() * 1e9),
        }
        self._headers["X-ClickHouse-Summary"] = json.dumps(
            {name: str(value) for name, value in summary.items()}, separators=(",", ":")
        )

    def _begin(self, status: int, content_type: str, query: Query | None) -> None:
        self._begun = True
        headers = {
            "Connection": "Keep-Alive",
            "Content-Type": content_type,
            "X-ClickHouse-Server-Display-Name": socket.gethostname(),
            "Transfer-Encoding": "chunked",
            "X-ClickHouse-Query-Id": query.query_id if query else "",
            "X-ClickHouse-Timezone": self._engine.timezone,
            "Keep-Alive": "timeout=30, max=9999",
            **self._headers,
        }
        if self._engine.number >= _TAGGED_SINCE:
            headers["X-ClickHouse-Exception-Tag"] = self._tag
        accepted = self._request.headers.get("accept-encoding", "")
        if self._request.query.get("enable_http_compression") in ("1", "true") and (
            "gzip" in accepted
        ):
            headers["Content-Encoding"] = "gzip"
            self._compressor = zlib.compressobj(3, wbits=31)
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        self._sock.sendall(f"HTTP/1.1 {status} {REASONS[status]}\r\n{lines}\r\n".encode())

    def _send(self, data: bytes) -> None:
        if self._compressor is not None:
            data = self._compressor.compress(data)
        if data:
            self._sock.sendall(b"%x\r\n%s\r\n" % (len(data), data))

    def _finish(self) -> None:
        tail = self._compressor.flush() if self._compressor is not None else b""
        if tail:
            self._sock.sendall(b"%x\r\n%s\r\n" % (len(tail), tail))
        self._sock.sendall(b"0\r\n\r\n")

    def _break_off(self, error: ServerError) -> None:
        """Tell an error behind what was sent and end the connection without an end of the body."""
        message = error.over_http(self._engine.version)
        if self._engine.number < _TAGGED_SINCE:
            self._send(f"__exception__\r\n{message}".encode())
            raise EOFError("The answer broke off.")
        self._send(
            f"\r\n__exception__\r\n{self._tag}\r\n{message}"
            f"{len(message.encode())} {self._tag}\r\n__exception__\r\n".encode()
        )
        raise EOFError("The answer broke off.")
