"""From a statement to the bytes of an HTTP answer: whole where it is small, else as it arrives.

The status is decided by the first megabyte: whatever goes wrong before that is an error answer
with its own status. Later there is no status left to send; the connection is broken, so that
nobody takes a part for the whole. When the caller leaves, the statement is ended.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator
from functools import lru_cache

from litestar.types import Receive, Send
from msgspec import Struct
from msgspec.structs import replace

from query.client import ClientLeftError, ClientWatch
from query.spool import Disk, Spool
from shared.clickhouse.contract import ClickHouse, Limits, Result, Statement, Summary
from shared.errors import TooLargeError
from shared.web.compression import MIN_BYTES, Compressor, Encoding, compress

# An answer up to this size is fetched whole, which takes the engine less time than a stream.
SMALL_BYTES = 1 << 20
# What is packed on the event loop at once; more would hold up other requests.
_INLINE_BYTES = 64 << 10
_REMEMBERED_SIZES = 4096
# Who takes nothing for so long has left without saying so.
_STALLED_AFTER_S = 60.0

Headers = tuple[tuple[bytes, bytes], ...]


class Order(Struct, frozen=True, kw_only=True):
    """One answer to be given.

    ``size_key`` names what is asked, to know next time how large its answers are; None for what
    has no history. Without ``is_packable`` the format is compressed already.
    """

    statement: Statement
    media_type: str
    size_key: str | None = None
    encoding: Encoding | None = None
    is_packable: bool = True
    is_head: bool = False
    headers: Headers = ()


class Responder:
    """Runs statements and sends what they answer.

    Args:
        clickhouse: Where they run.
    """

    def __init__(self, clickhouse: ClickHouse) -> None:
        self._clickhouse = clickhouse
        self._small: OrderedDict[str, bool] = OrderedDict()
        self._disk = Disk()

    async def respond(self, order: Order, receive: Receive, send: Send) -> None:
        """Answer 200 with the rows.

        Args:
            order: What to run and how to send it.
            receive: Tells when the caller leaves; the body of the request must have been read.
            send: Takes the answer.

        Raises:
            AppError: What ``ClickHouse.fetch`` raises. After the answer has begun it must be
                broken off.
            ClientLeftError: The caller left; the statement has been ended.
        """
        with ClientWatch(receive):
            result = await self.fetch_small(order)
            if result is None:
                await self._stream(order, send)
                return
        await send_whole(order, result.body, result.summary, send)

    async def fetch_small(self, order: Order) -> Result | None:
        """The answer where earlier ones to the same were small; None where it has to be streamed.

        Errors as in ``ClickHouse.fetch``.
        """
        if order.size_key is None or not self._small.get(order.size_key):
            return None
        limit = order.statement.limits.max_result_bytes
        try:
            result = await self._clickhouse.fetch(
                replace(order.statement, limits=capped(order.statement.limits, SMALL_BYTES))
            )
        except TooLargeError:
            if limit is not None and limit <= SMALL_BYTES:
                raise
            self._remember(order, is_small=False)
            return None
        # The engine counts columns before they are formatted, and a constant only once.
        check_size(len(result.body), limit)
        self._remember(order, is_small=len(result.body) <= SMALL_BYTES)
        return result

    async def _stream(self, order: Order, send: Send) -> None:
        stream = await self._clickhouse.stream(order.statement)
        try:
            # One iterator for both: a stream is read once.
            pieces = aiter(stream)
            beginning, is_whole = await _beginning(order, pieces)
            self._remember(order, is_small=is_whole)
            if is_whole:
                await send_whole(order, beginning, stream.summary, send)
            else:
                await _send_rest(order, beginning, pieces, send, self._disk)
        finally:
            await stream.aclose()

    def _remember(self, order: Order, *, is_small: bool) -> None:
        if order.size_key is None:
            return
        self._small[order.size_key] = is_small
        self._small.move_to_end(order.size_key)
        if len(self._small) > _REMEMBERED_SIZES:
            self._small.popitem(last=False)


async def send_whole(order: Order, body: bytes, summary: Summary, send: Send) -> None:
    """Send a whole answer, compressed where that is asked for and worth it."""
    headers = [*_headers(order), (b"x-db-statistics", statistics(summary))]
    if order.encoding is not None and order.is_packable and len(body) >= MIN_BYTES:
        if len(body) > _INLINE_BYTES:
            body = await asyncio.to_thread(compress, body, order.encoding)
        else:
            body = compress(body, order.encoding)
        headers.append((b"content-encoding", order.encoding.encode()))
    headers.append((b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send(
        {"type": "http.response.body", "body": b"" if order.is_head else body, "more_body": False}
    )


async def _beginning(order: Order, pieces: AsyncIterator[bytes]) -> tuple[bytes, bool]:
    """The first megabyte, and whether that is all."""
    taken: list[bytes] = []
    size = 0
    async for piece in pieces:
        taken.append(piece)
        size += len(piece)
        check_size(size, order.statement.limits.max_result_bytes)
        if size > SMALL_BYTES:
            return b"".join(taken), False
    return b"".join(taken), True


async def _send_rest(
    order: Order, beginning: bytes, pieces: AsyncIterator[bytes], send: Send, disk: Disk
) -> None:
    """Send an answer of unknown length; what it cost is known too late for a header."""
    headers = [*_headers(order)]
    packer = None
    if order.encoding is not None and order.is_packable:
        packer = Compressor(order.encoding)
        headers.append((b"content-encoding", order.encoding.encode()))
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    if order.is_head:
        await send({"type": "http.response.body", "body": b"", "more_body": False})
        return
    spool = Spool(disk)
    most_bytes = order.statement.limits.max_result_bytes
    filling = asyncio.ensure_future(_fill(spool, pieces, len(beginning), most_bytes))
    try:
        await _send_piece(beginning, packer, send)
        # It may be a megabyte, which nobody needs while the rest is sent.
        beginning = b""
        while piece := await spool.get():
            await _send_piece(piece, packer, send)
    finally:
        filling.cancel()
        await asyncio.wait([filling])
        spool.close()
    end = packer.end() if packer is not None else b""
    await send({"type": "http.response.body", "body": end, "more_body": False})


async def _fill(
    spool: Spool, pieces: AsyncIterator[bytes], size: int, most_bytes: int | None
) -> None:
    """Take what the engine says as fast as it says it; errors go to whoever reads."""
    try:
        async for piece in pieces:
            size += len(piece)
            check_size(size, most_bytes)
            await spool.put(piece)
    except Exception as error:  # noqa: BLE001 - the reader raises it
        spool.end(error)
    else:
        spool.end()


async def _send_piece(piece: bytes, packer: Compressor | None, send: Send) -> None:
    if packer is not None:
        piece = await asyncio.to_thread(packer.add, piece)
    if piece:
        try:
            async with asyncio.timeout(_STALLED_AFTER_S):
                await send({"type": "http.response.body", "body": piece, "more_body": True})
        except TimeoutError as error:
            raise ClientLeftError from error


def _headers(order: Order) -> Headers:
    vary = ((b"vary", b"Accept-Encoding"),) if order.is_packable else ()
    return ((b"content-type", order.media_type.encode()), *vary, *order.headers)


def statistics(summary: Summary) -> bytes:
    """What a statement cost, as the header ``X-DB-Statistics`` says it."""
    return b'{"elapsed":%.6f,"rows_read":%d,"bytes_read":%d}' % (
        summary.elapsed_s,
        summary.read_rows,
        summary.read_bytes,
    )


def check_size(size: int, most_bytes: int | None) -> None:
    """Refuse an answer over its limit.

    Raises:
        TooLargeError: It is.
    """
    if most_bytes is not None and size > most_bytes:
        raise TooLargeError(
            f"The answer has more than {most_bytes} bytes.", hint="Ask for fewer rows or columns."
        )


@lru_cache(maxsize=256)
def capped(limits: Limits, most_bytes: int) -> Limits:
    """The limits with a result of so many bytes at most."""
    own = limits.max_result_bytes
    return replace(limits, max_result_bytes=most_bytes if own is None else min(own, most_bytes))
