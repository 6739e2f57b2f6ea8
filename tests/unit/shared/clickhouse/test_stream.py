from __future__ import annotations

import asyncio
import contextlib
import gc
import os
from concurrent.futures import Future
from typing import Any

from shared.clickhouse.contract import Summary
from shared.clickhouse.session import EngineError
from shared.clickhouse.stream import PipeStream, open_pipe
from shared.errors import QueryError


async def test_what_becomes_of_a_stream_that_was_left_twice_is_looked_at() -> None:
    unheard: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unheard.append(context))
    reading, writing = open_pipe()
    future: Future[Summary] = Future()
    future.set_running_or_notify_cancel()
    stream = PipeStream(reading, future, lambda: None, lambda error: QueryError(str(error)))
    closing = asyncio.ensure_future(stream.aclose())
    await asyncio.sleep(0)
    closing.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await closing
    future.set_exception(EngineError("Code: 394. DB::Exception: Query was cancelled."))
    os.close(writing)
    await asyncio.sleep(0)
    del future, stream, closing
    await asyncio.sleep(0)
    gc.collect()
    assert unheard == []
