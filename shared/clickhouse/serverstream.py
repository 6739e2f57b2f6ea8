"""A query's answer from a server, as it arrives."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator

from msgspec.structs import replace

from shared.clickhouse.contract import Summary
from shared.clickhouse.failures import query_error
from shared.clickhouse.http import HttpBrokenError
from shared.clickhouse.reads import Answer, HttpFace, Request, summary_of, timed_out
from shared.clickhouse.rowcount import RowCounter
from shared.errors import AppError, ClickHouseUnavailableError

# Where an error begins that a server wrote behind rows which were already sent.
_MARK = b"__exception__"
_ERROR = re.compile(rb"Code: \d+\. DB::\w*Exception: .*", re.DOTALL)
_TAIL_BYTES = 32 * 1024


class ServerStream:
    """See ``Stream`` in the contract.

    A server that fails after the first bytes writes its error behind them and breaks the
    connection off. Newer ones mark the place, with a tag that the head of the answer names.
    """

    def __init__(self, face: HttpFace, request: Request, answer: Answer, form: str) -> None:
        self._face = face
        self._request = request
        self._answer = answer
        self._counter = RowCounter(form)
        self._read_bytes = 0
        self._tail = b""
        self._timed_out = False
        self._open = True
        self._timer: asyncio.TimerHandle | None = None

    @property
    def summary(self) -> Summary:
        """See ``Stream``."""
        summary = replace(summary_of(self._answer.response.headers), result_bytes=self._read_bytes)
        rows, read = self._counter.rows(), self._counter.read()
        if rows is not None:
            summary = replace(summary, result_rows=rows)
        if read is not None:
            summary = replace(summary, read_rows=read[0], read_bytes=read[1])
        return summary

    def expire_in(self, seconds: float) -> None:
        """End it after a while; whoever reads then gets a QueryTimeoutError."""
        self._timer = asyncio.get_running_loop().call_later(seconds, self._expire)

    def _expire(self) -> None:
        self._timed_out = True
        self._answer.connection.close("the time is over")
        self._face.kill_soon(self._request.query_id, self._answer.connection.host)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """See ``Stream``."""
        tag = self._answer.response.headers.get("x-clickhouse-exception-tag", "").encode()
        mark = b"%s\r\n%s" % (_MARK, tag) if tag else b""
        try:
            async for chunk in self._answer.response:
                if mark and mark in chunk:
                    await self._fail_at(chunk, chunk.index(mark))
                self._tail = (self._tail + chunk[-_TAIL_BYTES:])[-_TAIL_BYTES:]
                self._counter.add(chunk)
                self._read_bytes += len(chunk)
                yield chunk
        except HttpBrokenError as error:
            raise self._translated(error) from None
        finally:
            if self._timed_out or not self._answer.connection.is_done:
                await self.aclose()
            self._release()

    async def _fail_at(self, chunk: bytes, place: int) -> None:
        """Read on to the end of the error and raise it."""
        self._tail = chunk[place:]
        async for more in self._answer.response:
            self._tail = (self._tail + more)[:_TAIL_BYTES]
        raise HttpBrokenError("the server broke off")

    def _translated(self, error: HttpBrokenError) -> AppError:
        if self._timed_out:
            return timed_out()
        if found := _ERROR.search(self._tail):
            return query_error(found.group().partition(b"\r\n")[0].decode(errors="replace"))
        return ClickHouseUnavailableError(f"ClickHouse broke off its answer: {error}.")

    def _release(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._open:
            self._open = False
            self._face.release(self._answer)

    async def aclose(self) -> None:
        """See ``Stream``."""
        if not self._open:
            return
        is_done = self._answer.connection.is_done
        self._release()
        if not is_done:
            await self._face.kill(self._request.query_id, self._answer.connection.host)
