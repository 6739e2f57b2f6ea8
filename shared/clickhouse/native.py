"""clickhouse-driver as we use it: clients that are never shared, each on a thread while it works.

The protocol revision is held low on purpose. What newer ones add (sparse columns, profile events
between blocks, bindings) is not needed, and without profile events a block can also be sent to an
``INSERT … SELECT … FROM input()``.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

from clickhouse_driver import Client, errors
from clickhouse_driver.block import ColumnOrientedBlock
from clickhouse_driver.connection import Connection
from clickhouse_driver.protocol import ServerPacketTypes

from shared.clickhouse.boot import BOOT_SQL, TABLE_SQL, Boots
from shared.clickhouse.contract import SettingValue
from shared.clickhouse.hosts import Hosts
from shared.clickhouse.nativeblock import CompressedStream, NativeBlock, PlainStream
from shared.clickhouse.url import Host, ServerUrl
from shared.errors import ClickHouseUnavailableError
from shared.model.types import parse_type

T = TypeVar("T")

REVISION = 54440
# Longer than any block: the driver must not cut it.
_ONE_BLOCK_ROWS = 2**31
_LATE_ANSWER_S = 1.0
# DDL has no time-out of its own: a mutation or a filled view may take long, and keep-alive probes
# tell of a server that is gone.
_LONGEST_STATEMENT_S = 6 * 3600.0
# It would tell of every broken connection with a traceback; we raise instead.
logging.getLogger("clickhouse_driver").setLevel(logging.CRITICAL)

# Every way in which the driver says that a connection ended or made no sense. EOFError is what a
# server that dies leaves; the others are what the rest of a torn packet can be read as.
BROKEN = (
    OSError,
    EOFError,
    errors.NetworkError,
    errors.SocketTimeoutError,
    errors.UnexpectedPacketFromServerError,
    errors.UnknownPacketFromServerError,
    errors.PartiallyConsumedQueryError,
    errors.ChecksumDoesntMatchError,
    UnicodeDecodeError,
)
_NAMES = {code: name for name, code in vars(errors.ErrorCodes).items() if not name.startswith("_")}


class HeaderMismatchError(Exception):
    """The table's columns are of other types than the block's."""


class ConnectError(Exception):
    """No connection; ``cause`` is the socket's own error.

    Args:
        host: Where to.
        cause: Why not.
    """

    def __init__(self, host: Host, cause: BaseException) -> None:
        super().__init__(f"{host}: {cause}")
        self.host = host
        self.cause = cause


def failure_text(error: BaseException, where: str = "") -> str:
    """What the driver raised, as the engine's own text: ``Code: N. … (NAME)``."""
    if isinstance(error, errors.ServerException):
        message = str(error.message).partition("Stack trace:")[0].rstrip(". \n")
        return f"Code: {error.code}. {message}. ({_NAMES.get(error.code, 'UNKNOWN')})"
    if isinstance(error, ConnectError):
        where, error = str(error.host), error.cause
    timed_out = isinstance(error, TimeoutError | errors.SocketTimeoutError)
    code, name = (209, "SOCKET_TIMEOUT") if timed_out else (210, "NETWORK_ERROR")
    reason = str(error) or type(error).__name__
    place = f" to {where}" if where else ""
    return f"Code: {code}. DB::NetException: The connection{place} broke: {reason} ({name})"


class _Connection(Connection):  # type: ignore[misc]  # the driver has no types
    """Writes our blocks."""

    def open(self, host: Host) -> None:
        """Connect; unlike ``connect`` it raises the socket's own errors."""
        self._init_connection(host.name, host.native_port)

    def get_block_out_stream(self) -> Any:
        if self.compression:
            return CompressedStream(
                self.compressor_cls, self.compress_block_size, self.fout, self.context
            )
        return PlainStream(self.fout, self.context)


class NativeClient(Client):  # type: ignore[misc]  # as above
    """One connection; used by one thread at a time.

    Attributes:
        boot_id: Of the server at the other end: a connection does not outlive it.
    """

    def __init__(self, url: ServerUrl, hosts: Hosts, boots: Boots) -> None:
        self._url = url
        self._hosts = hosts
        self._boots = boots
        self.boot_id = ""
        super().__init__(hosts.all[0].name, settings={"insert_block_size": _ONE_BLOCK_ROWS})
        self.connection = self._new_connection()
        self.connection.context.settings = self.settings
        self.connection.context.client_settings = self.client_settings

    def _new_connection(self) -> _Connection:
        url = self._url
        host = self._hosts.all[0]
        return _Connection(
            host.name,
            host.native_port,
            database=url.database,
            user=url.user,
            password=url.password,
            client_name="pipehouse",
            connect_timeout=url.connect_timeout_s,
            send_receive_timeout=url.timeout_s,
            sync_request_timeout=url.connect_timeout_s,
            compression=False if url.compression == "none" else url.compression,
            secure=url.secure,
            verify=url.verify,
            ca_certs=str(url.ca) if url.ca else None,
            tcp_keepalive=True,
            client_revision=REVISION,
            disable_reconnect=True,
        )

    def ready(self) -> None:
        """Connect, or connect again where the server has gone.

        Raises:
            ConnectError: No host can be reached.
            ServerException: The server refuses us.
        """
        connection = self.connection
        if connection.connected:
            if self._answers():
                return
            connection.disconnect()
        failed: ConnectError | None = None
        for host in self._hosts.in_order():
            try:
                self.connect(host)
            except ConnectError as error:
                self._hosts.failed(host)
                failed = error
            else:
                self._hosts.answered(host)
                return
        assert failed is not None
        raise failed

    def _answers(self) -> bool:
        try:
            return bool(self.connection.ping())
        except errors.Error:
            return False

    def connect(self, host: Host) -> None:
        """Connect to one host and ask which start of it this is.

        Raises:
            ConnectError: It cannot be reached, or is no ClickHouse.
            ServerException: It refuses us.
        """
        connection = self.connection
        pause_s = self._hosts.pause_s(host)
        if pause_s:
            time.sleep(pause_s)
        try:
            connection.open(host)
            ((server_uuid, now_s, uptime_s),) = self.execute(BOOT_SQL)
            tables = self.execute(TABLE_SQL)
        except (*BROKEN, IndexError, ValueError) as error:
            connection.disconnect()
            raise ConnectError(host, error) from None
        except errors.ServerException:
            connection.disconnect()
            raise
        table_uuid = tables[0][0] if tables else ""
        self.boot_id = self._boots.seen(
            str(server_uuid), int(now_s), int(uptime_s), str(table_uuid)
        )

    def run(self, sql: str, settings: Mapping[str, SettingValue], query_id: str) -> None:
        """Run a statement without an answer, for as long as it takes.

        Raises:
            ServerException: The server refused it.
            OSError: Or another of ``BROKEN``: what became of it is not known.
        """
        connection = self.connection
        connection.socket.settimeout(_LONGEST_STATEMENT_S)
        self.execute(sql, settings=dict(settings), query_id=query_id)
        connection.socket.settimeout(self._url.timeout_s)

    def insert(
        self,
        sql: str,
        block: NativeBlock,
        settings: Mapping[str, SettingValue],
        query_id: str,
    ) -> None:
        """Send one block and wait until it is stored.

        Raises:
            HeaderMismatchError: The table's types are others; nothing was sent.
            ServerException: The server refused it.
            OSError: Or another of ``BROKEN``: what became of it is not known.
        """
        self.execute(sql, [block], settings=dict(settings), query_id=query_id)

    def send_data(
        self,
        sample_block: Any,
        data: Sequence[NativeBlock],
        types_check: bool = False,
        columnar: bool = False,
    ) -> int:
        """Send our block as it is; called by ``execute`` once the table's columns are known."""
        (block,) = data
        wanted = [(c.name, c.type) for c in block.columns]
        found = [(name, parse_type(text)) for name, text in sample_block.columns_with_types]
        if wanted != found:
            raise HeaderMismatchError
        try:
            self.connection.send_data(block)
            self.connection.send_data(ColumnOrientedBlock())
        except OSError:
            self._raise_late_answer()
            raise
        return block.num_rows

    def _raise_late_answer(self) -> None:
        """A server may refuse a block before it has read it all: its answer is waiting then."""
        try:
            self.connection.socket.settimeout(_LATE_ANSWER_S)
            packet = self.connection.receive_packet()
        except (*BROKEN, errors.Error, AttributeError):
            return
        if packet.type == ServerPacketTypes.EXCEPTION:
            raise packet.exception


class NativePool:
    """A bounded number of clients, each on a thread while it works.

    Args:
        url: Where to.
        hosts: Which server first.
        boots: Where the boot ids that are seen are kept.
        max_waiting: How many calls may wait for a client.
    """

    def __init__(self, url: ServerUrl, hosts: Hosts, boots: Boots, *, max_waiting: int) -> None:
        size = url.insert_connections
        self._make: Callable[[], NativeClient] = partial(NativeClient, url, hosts, boots)
        self._threads = ThreadPoolExecutor(size, thread_name_prefix="clickhouse-native")
        self._most = size + max_waiting
        self._lock = threading.Lock()
        self._idle: list[NativeClient] = []
        self._busy: set[NativeClient] = set()
        self._pending = 0
        self._closed = False

    def submit(self, work: Callable[[NativeClient], T]) -> Future[T]:
        """Have something done with a connected client.

        Raises:
            ClickHouseUnavailableError: Too many wait already, or the pool is closed.
        """
        with self._lock:
            if self._closed:
                raise ClickHouseUnavailableError("The ClickHouse client is closed.")
            if self._pending >= self._most:
                raise ClickHouseUnavailableError(
                    f"ClickHouse is busy: {self._pending} inserts and statements are waiting."
                )
            self._pending += 1
        future = self._threads.submit(self._run, work)
        future.add_done_callback(self._done)
        return future

    def _done(self, _: Future[Any]) -> None:
        with self._lock:
            self._pending -= 1

    def _run(self, work: Callable[[NativeClient], T]) -> T:
        with self._lock:
            client = self._idle.pop() if self._idle else None
        client = client or self._make()
        with self._lock:
            self._busy.add(client)
        try:
            client.ready()
            return work(client)
        except BaseException:
            # In the middle of something: nobody may find it like that.
            client.connection.disconnect()
            raise
        finally:
            with self._lock:
                self._busy.discard(client)
                self._idle.append(client)

    def close(self) -> None:
        """Wait for what runs, drop what waits, close every connection."""
        with self._lock:
            self._closed = True
        self._threads.shutdown(wait=True, cancel_futures=True)
        for client in self._idle:
            client.connection.disconnect()

    def abort(self) -> None:
        """Break off what runs, for a ``close`` that takes too long: a server may never answer."""
        with self._lock:
            busy = [client.connection.socket for client in self._busy]
        for connected in busy:
            # None while it connects, which has a time limit of its own.
            if connected is not None:
                with contextlib.suppress(OSError):
                    connected.shutdown(socket.SHUT_RDWR)


def speaks_tls(host: Host, port: int, timeout_s: float) -> bool:
    """Whether a port answers a TLS handshake; its certificate is not looked at."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        with (
            socket.create_connection((host.name, port), timeout_s) as plain,
            context.wrap_socket(plain, server_hostname=host.name),
        ):
            return True
    except OSError:
        return False
