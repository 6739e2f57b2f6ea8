"""ClickHouse's native protocol, the server's side of it."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import ssl
import struct

from shared.clickhouse.session import EngineError, Session
from tests.standin.answer import Answer
from tests.standin.blocks import (
    REVISION,
    Block,
    Tap,
    data_packet,
    header_block,
    read_block,
    read_frame,
    read_text,
    read_varint,
    text,
    varint,
)
from tests.standin.engine import Access
from tests.standin.errors import ServerError
from tests.standin.faults import Cut, Subject
from tests.standin.query_packet import Request, read_query
from tests.standin.running import Query
from tests.standin.service import Service
from tests.standin.statements import insert_columns
from tests.standin.text import (
    InputCall,
    InsertHead,
    first_word,
    has_answer,
    input_call,
    is_streamed,
    parse_insert,
    split_format,
)
from tests.standin.users import User

_HELLO, _QUERY, _DATA, _CANCEL, _PING = 0, 1, 2, 3, 4
_S_HELLO, _S_DATA, _S_EXCEPTION, _S_PROGRESS, _S_PONG, _S_END, _S_PROFILE = 0, 1, 2, 3, 4, 5, 6
_S_TABLE_COLUMNS = 11
_OLDEST_CLIENT = 54429
# What a server says to a GET or POST.
_WRONG_PORT = (
    b"HTTP/1.0 400 Bad Request\r\n\r\nPort 9000 is for clickhouse-client program\r\n"
    b"You must use port 8123 for HTTP.\r\n"
)
_RECEIVE_BYTES = 1024 * 1024
_WATCH_S = 0.05


class NativeConnection:
    """One connection; served by one thread."""

    def __init__(self, sock: socket.socket, service: Service) -> None:
        self._sock = sock
        self._service = service
        self._engine = service.engine
        self._reader = Tap(lambda: sock.recv(_RECEIVE_BYTES))
        self._frames = Tap(lambda: read_frame(self._reader))
        self._session: Session | None = None
        self._user = User()
        self._user_name = ""
        self._database = ""
        self._compression: str | None = None

    def serve(self) -> None:
        """Answer until the client goes away."""
        try:
            if self._greet():
                while self._answer_packet():
                    pass
        except Cut as cut:
            self._cut(cut)
        except (OSError, EOFError):
            # The client went away, which is how every connection ends.
            pass
        finally:
            if self._session is not None:
                self._session.close()
            with contextlib.suppress(OSError):
                self._sock.shutdown(socket.SHUT_RDWR)
            self._sock.close()

    def _cut(self, cut: Cut) -> None:
        if cut.reset:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._sock.close()

    def _send(self, *pieces: bytes) -> None:
        self._sock.sendall(b"".join(pieces))

    def _greet(self) -> bool:
        kind = read_varint(self._reader)
        if kind in b"GP":
            self._send(_WRONG_PORT)
        if kind != _HELLO:
            return False
        read_text(self._reader)
        read_varint(self._reader)
        read_varint(self._reader)
        revision = read_varint(self._reader)
        database, name, password = (read_text(self._reader) for _ in range(3))
        try:
            if revision < _OLDEST_CLIENT:
                raise ServerError(
                    48, "NOT_IMPLEMENTED", f"The stand-in needs revision {_OLDEST_CLIENT}."
                )
            self._user = self._service.users.authenticate(name, password)
            self._user_name, self._database = name, database or "default"
            self._session = self._engine.own_session(self._access({}))
        except ServerError as error:
            self._send_exception(error)
            return False
        major, minor, patch = self._service.version
        self._send(
            varint(_S_HELLO),
            text(self._service.name),
            varint(major),
            varint(minor),
            varint(REVISION),
            text(self._engine.timezone),
            text(socket.gethostname()),
            varint(patch),
        )
        return True

    def _access(self, settings: dict[str, str]) -> Access:
        # What a profile of level 1 refuses is refused before; level 2 is what keeps a session.
        return Access(
            database=self._database,
            user=self._user_name,
            settings=settings,
            readonly=2 if self._user.readonly else 0,
            shown=self._service.users.shown_to(self._user),
        )

    def _answer_packet(self) -> bool:
        try:
            kind = read_varint(self._reader)
        except EOFError:
            return False
        if kind == _PING:
            self._send(varint(_S_PONG))
        elif kind == _QUERY:
            request = read_query(self._reader, self._engine.setting_names)
            self._compression = request.compression
            self._answer_query(request)
        elif kind == _DATA:
            # The rest of an INSERT that was refused before its data came.
            self._read_data()
        elif kind != _CANCEL:
            return False
        return True

    def _read_data(self) -> Block:
        read_text(self._reader)
        return read_block(self._frames if self._compression else self._reader, with_info=True)

    def _answer_query(self, request: Request) -> None:
        query = Query(
            sql=request.sql,
            query_id=request.query_id,
            user=self._user_name,
            database=self._database,
            interface="native",
        )
        try:
            self._read_external_tables()
            self._engine.running.enter(query)
            try:
                self._run(request, query)
            finally:
                self._engine.running.leave(query)
            self._send(varint(_S_END))
        except ServerError as error:
            self._send_exception(error)

    def _read_external_tables(self) -> None:
        while True:
            if read_varint(self._reader) != _DATA:
                raise EOFError("The client sent no end of external tables.")
            if not self._read_data().columns:
                return

    def _run(self, request: Request, query: Query) -> None:
        assert self._session is not None
        access = self._access(self._service.users.settings_of(self._user, request.settings))
        head = parse_insert(request.sql)
        subject = self._subject(query, head)
        self._service.faults.pass_through("query", subject)
        self._service.users.check(query.user, self._user, query.sql, self._database)
        self._engine.check(query.sql, access.settings)
        if head is not None and head.format is not None:
            self._insert(query, access, head, subject)
        elif head is not None and (call := input_call(request.sql)) is not None:
            self._insert_input(query, access, call, subject)
        elif head is None and has_answer(request.sql):
            self._select(query, access, subject)
        else:
            self._service.faults.pass_through("before", subject)
            if not self._service.users.run(request.sql, self._user):
                self._engine.run(self._session, query, access, request.sql, "Null")
            if first_word(request.sql) == "USE":
                self._database = self._current_database()
            self._service.faults.pass_through("after", subject)

    def _current_database(self) -> str:
        assert self._session is not None
        return str(
            self._session.query("SELECT currentDatabase()", "TSVRaw").bytes().decode().strip()
        )

    def _subject(self, query: Query, head: InsertHead | None) -> Subject:
        return Subject(
            kind="insert" if head is not None else "select" if has_answer(query.sql) else "other",
            table=head.table if head else "",
            database=(head.database if head else None) or self._database,
            sql=query.sql,
            user=query.user,
            cancelled=query.cancelled,
        )

    def _insert(self, query: Query, access: Access, head: InsertHead, subject: Subject) -> None:
        assert self._session is not None
        if self._user.readonly:
            raise ServerError(
                164, "READONLY", f"{self._user_name}: Cannot execute query in readonly mode"
            )
        data = query.sql[head.data_start :].strip(" \t\r\n;")
        if data:
            self._service.faults.pass_through("before", subject)
            self._engine.insert_data(self._session, query, access, head, data.encode())
            self._service.faults.pass_through("after", subject)
            return
        target = (head.database or self._database, head.table)
        allowed = access.settings.get("insert_allow_materialized_columns", "0") in ("1", "true")
        columns = insert_columns(
            self._engine.columns(self._session, *target), head, target, allowed
        )
        self._send_wanted(columns)
        blocks = self._receive_blocks(subject)
        self._service.faults.pass_through("before", subject)
        if blocks:
            self._engine.insert_blocks(
                self._session, query, access, target, blocks, blocks[0].columns, head.settings
            )
        self._service.faults.pass_through("after", subject)
        rows = sum(block.rows for block in blocks)
        size = sum(len(block.body) for block in blocks)
        self._send(varint(_S_PROGRESS), *map(varint, (0, 0, 0, rows, size)))

    def _insert_input(
        self, query: Query, access: Access, call: InputCall, subject: Subject
    ) -> None:
        assert self._session is not None
        columns = self._engine.structure(self._session, call.structure)
        self._send_wanted(columns)
        blocks = self._receive_blocks(subject)
        self._service.faults.pass_through("before", subject)
        bodies = [block.body for block in blocks]
        self._engine.insert_input(self._session, query, access, call, bodies)
        self._service.faults.pass_through("after", subject)

    def _send_wanted(self, columns: tuple[tuple[str, str], ...]) -> None:
        """Tell the columns that are wanted: for defaults, and as a block without rows."""
        lines = "".join(f"`{name}` {kind}\n" for name, kind in columns)
        described = f"columns format version: 1\n{len(columns)} columns:\n{lines}"
        self._send(varint(_S_TABLE_COLUMNS), text(""), text(described))
        self._send(data_packet(_S_DATA, header_block(columns), self._compression))

    def _receive_blocks(self, subject: Subject) -> list[Block]:
        blocks: list[Block] = []
        first = True
        while True:
            self._wait_for_data(subject)
            if first:
                first = False
                self._service.faults.pass_through("data", subject)
            kind = read_varint(self._reader)
            if kind == _CANCEL:
                raise ServerError(394, "QUERY_WAS_CANCELLED", "Query was cancelled.")
            if kind != _DATA:
                raise EOFError(f"Packet {kind} in the middle of an INSERT.")
            block = self._read_data()
            if not block.columns:
                return blocks
            if block.rows:
                blocks.append(block)

    def _wait_for_data(self, subject: Subject) -> None:
        """Wait for the client's next packet, but not longer than the statement lives."""
        while self._reader.position >= self._reader.current_buffer_size:
            if isinstance(self._sock, ssl.SSLSocket) and self._sock.pending():
                return
            if select.select([self._sock], [], [], _WATCH_S)[0]:
                return
            if subject.cancelled.is_set():
                raise ServerError(394, "QUERY_WAS_CANCELLED", "Query was cancelled.")

    def _select(self, query: Query, access: Access, subject: Subject) -> None:
        assert self._session is not None
        self._service.faults.pass_through("before", subject)
        body = split_format(self._service.answering(query, self._user))
        sql = f"{body.body} {body.tail}"
        with self._service.watch.over(self._sock, query):
            rows = self._send_answer(query, access, sql, subject)
        self._send(varint(_S_PROFILE), *map(varint, (rows, 1, 0)), b"\x00", varint(0), b"\x00")
        self._send(data_packet(_S_DATA, b"\x00\x00", self._compression))

    def _send_answer(self, query: Query, access: Access, sql: str, subject: Subject) -> int:
        """Send the blocks of an answer; returns how many rows they hold."""
        assert self._session is not None
        rows = 0
        sent = False
        with Answer(self._engine, self._session, query, access, sql, "Native") as answer:
            source = Tap(lambda: os.read(answer.reading, _RECEIVE_BYTES))
            while not source.at_end():
                block = read_block(source, with_info=False)
                if not sent:
                    self._send(data_packet(_S_DATA, header_block(block.columns), self._compression))
                    sent = True
                self._send(data_packet(_S_DATA, block.body, self._compression))
                rows += block.rows
                self._service.faults.pass_through("answer", subject)
        result = answer.result()
        self._service.faults.pass_through("after", subject)
        if not sent:
            self._send(data_packet(_S_DATA, header_block(self._describe(sql)), self._compression))
        self._send(
            varint(_S_PROGRESS),
            *map(varint, (result.storage_rows_read(), result.storage_bytes_read(), 0, 0, 0)),
        )
        return rows

    def _describe(self, sql: str) -> tuple[tuple[str, str], ...]:
        """Names and types of an answer without rows, which the engine does not tell with it."""
        assert self._session is not None
        emulated = self._engine.emulated(sql, self._user_name)
        try:
            if is_streamed(sql):
                described = self._session.query(f"DESCRIBE TABLE ({emulated}\n)", "TSVRaw")
                lines = [line.split("\t") for line in described.bytes().decode().splitlines()]
                return tuple((line[0], line[1]) for line in lines)
            shown = self._session.query(emulated, "TSVWithNamesAndTypes").bytes().decode()
        except EngineError:
            return ()
        head = [line.split("\t") for line in shown.splitlines()[:2]]
        return tuple(zip(*head, strict=True)) if len(head) == 2 else ()

    def _send_exception(self, error: ServerError) -> None:
        self._send(
            varint(_S_EXCEPTION),
            struct.pack("<i", error.code),
            text("DB::Exception"),
            text(f"DB::Exception: {error.text}"),
            text(""),
            b"\x00",
        )
