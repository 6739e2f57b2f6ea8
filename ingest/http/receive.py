"""Receiving request bodies within limits of size, time and memory."""

from __future__ import annotations

import asyncio

from litestar.types import Receive, Scope

from ingest.http.body import BodyLimits, decompress
from shared.errors import BadRequestError, SaturatedError, TooLargeError

# Up to this size a compressed body is inflated at once: handing it to a thread would cost more.
_INLINE_BYTES = 16 << 10

# Bodies inflated in threads at a time; each may become as large as the limit allows.
_INFLATING = 2


class ClientLeftError(Exception):
    """The caller closed the connection before its body was complete; nobody reads an answer."""


class BodyReceiver:
    """Receives bodies for one app and knows how many bytes of them are in memory.

    Args:
        limits: What one request may hold.
        max_inflight_bytes: What all requests together may hold.
        timeout_s: How long one body may take to arrive.
    """

    def __init__(self, limits: BodyLimits, *, max_inflight_bytes: int, timeout_s: float) -> None:
        self._limits = limits
        self._max_inflight_bytes = max_inflight_bytes
        self._timeout_s = timeout_s
        self._inflating = asyncio.Semaphore(_INFLATING)
        self.inflight_bytes = 0

    async def receive(self, scope: Scope, receive: Receive) -> bytes:
        """The whole body, decompressed; call ``release`` with it when it is no longer needed.

        Raises:
            TooLargeError: It is over a limit; the rest of it is not read.
            SaturatedError: Other requests hold all the memory there is for bodies.
            BadRequestError: It took too long, or cannot be decompressed.
            ClientLeftError: The connection was closed.
        """
        encoding, declared_bytes = _body_headers(scope)
        if declared_bytes > self._limits.max_body_bytes:
            raise self._too_large()
        message = await receive()
        if message["type"] != "http.request":
            raise ClientLeftError
        body = message["body"]
        self._reserve(len(body))
        if message["more_body"]:
            body = await self._rest(body, receive)
        elif len(body) > self._limits.max_body_bytes:
            self.release(body)
            raise self._too_large()
        return await self._decompress(body, encoding) if encoding else body

    def release(self, body: bytes) -> None:
        """Give back the memory of a body that ``receive`` returned."""
        self.inflight_bytes -= len(body)

    async def _rest(self, first: bytes, receive: Receive) -> bytes:
        parts = [first]
        size = len(first)
        try:
            async with asyncio.timeout(self._timeout_s):
                while True:
                    message = await receive()
                    if message["type"] != "http.request":
                        raise ClientLeftError
                    part = message["body"]
                    self._reserve(len(part))
                    size += len(part)
                    parts.append(part)
                    if size > self._limits.max_body_bytes:
                        raise self._too_large()
                    if not message["more_body"]:
                        return b"".join(parts)
        except TimeoutError as error:
            self.inflight_bytes -= size
            raise BadRequestError(
                f"The body did not arrive within {self._timeout_s:g} s."
            ) from error
        except (ClientLeftError, TooLargeError, SaturatedError):
            self.inflight_bytes -= size
            raise

    async def _decompress(self, body: bytes, encoding: bytes) -> bytes:
        limit = self._limits.max_decompressed_bytes
        try:
            if len(body) <= _INLINE_BYTES:
                plain = decompress(body, encoding, limit)
            else:
                async with self._inflating:
                    plain = await asyncio.to_thread(decompress, body, encoding, limit)
            self._reserve(len(plain))
        finally:
            self.release(body)
        return plain

    def _reserve(self, size_bytes: int) -> None:
        if self.inflight_bytes + size_bytes > self._max_inflight_bytes:
            raise SaturatedError("Too many request bodies are being worked on.")
        self.inflight_bytes += size_bytes

    def _too_large(self) -> TooLargeError:
        return TooLargeError(
            f"The body has more than {self._limits.max_body_bytes} bytes.",
            hint="Send it in parts.",
        )


def _body_headers(scope: Scope) -> tuple[bytes, int]:
    """Content-Encoding and Content-Length, empty and 0 where they are not sent."""
    encoding, length = b"", 0
    for name, value in scope["headers"]:
        if name == b"content-encoding":
            encoding = value
        elif name == b"content-length" and value.isdigit():
            length = int(value)
    return encoding, length
