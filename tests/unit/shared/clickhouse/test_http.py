from __future__ import annotations

import asyncio
from typing import Any

import pytest

from shared.clickhouse.http import HttpBrokenError, HttpConnection
from shared.clickhouse.url import Host


class Wire(asyncio.Transport):
    """What a connection writes, and whether it reads."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = b""
        self.reads = True
        self.aborted = False

    def write(self, data: Any) -> None:
        self.sent += data

    def pause_reading(self) -> None:
        self.reads = False

    def resume_reading(self) -> None:
        self.reads = True

    def abort(self) -> None:
        self.aborted = True


HEAD = b"HTTP/1.1 200 OK\r\nKeep-Alive: timeout=30\r\nTransfer-Encoding: chunked\r\n\r\n"


def connected() -> tuple[HttpConnection, Wire]:
    connection, wire = HttpConnection(Host("h", 1, 2), timeout_s=5), Wire()
    connection.connection_made(wire)
    return connection, wire


async def test_a_chunked_answer_is_taken_piece_by_piece_and_the_connection_kept() -> None:
    connection, wire = connected()
    asking = asyncio.ensure_future(connection.request(b"POST\r\n\r\n", (b"body",)))
    await asyncio.sleep(0)
    assert wire.sent == b"POST\r\n\r\nbody"
    connection.data_received(HEAD + b"3\r\nabc\r\n")
    response = await asking
    connection.data_received(b"2\r\nde\r\n0\r\n\r\n")
    assert response.status == 200
    assert [chunk async for chunk in response] == [b"abc", b"de"]
    assert connection.is_reusable


async def test_an_answer_without_its_end_is_broken() -> None:
    connection, _ = connected()
    asking = asyncio.ensure_future(connection.request(b"POST\r\n\r\n", ()))
    await asyncio.sleep(0)
    connection.data_received(HEAD + b"3\r\nabc\r\n")
    response = await asking
    connection.connection_lost(None)
    with pytest.raises(HttpBrokenError):
        await response.read()
    assert not connection.is_reusable


async def test_nothing_is_read_while_nobody_takes() -> None:
    connection, wire = connected()
    asking = asyncio.ensure_future(connection.request(b"POST\r\n\r\n", ()))
    await asyncio.sleep(0)
    piece = b"%x\r\n%b\r\n" % (1 << 20, b"x" * (1 << 20))
    connection.data_received(HEAD + piece + piece)
    assert not wire.reads
    response = await asking
    connection.data_received(b"0\r\n\r\n")
    assert len(await response.read()) == 2 << 20
    assert wire.reads


async def test_what_is_not_http_ends_the_connection() -> None:
    connection, wire = connected()
    asking = asyncio.ensure_future(connection.request(b"POST\r\n\r\n", ()))
    await asyncio.sleep(0)
    connection.data_received(b"\x15\x03\x01 no")
    with pytest.raises(HttpBrokenError, match="not HTTP"):
        await asking
    assert wire.aborted


async def test_a_request_that_is_answered_early_leaves_no_connection_to_use_again() -> None:
    connection, _ = connected()

    def pieces() -> Any:
        yield b"x" * (2 << 20)
        connection.data_received(b"HTTP/1.1 413 No\r\nContent-Length: 2\r\n\r\nno")
        yield b"x" * (2 << 20)
        raise AssertionError("nothing more is sent")

    response = await connection.request(b"POST\r\n\r\n", pieces())
    assert await response.read() == b"no"
    assert not connection.is_reusable
