from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from query.spool import MEMORY_BYTES, Disk, Spool
from shared.errors import QueryError

PIECE = 600 << 10


def piece(number: int) -> bytes:
    return number.to_bytes(4) * (PIECE // 4)


async def read_all(spool: Spool) -> bytes:
    taken = []
    while got := await spool.get():
        taken.append(got)
    return b"".join(taken)


@settings(max_examples=40)
@given(turns=st.lists(st.booleans(), max_size=40))
def test_what_goes_in_comes_out_in_order_however_reader_and_writer_take_turns(
    turns: list[bool],
) -> None:
    async def run() -> None:
        disk = Disk()
        spool, got = Spool(disk), b""
        put: list[bytes] = []
        for is_put in turns:
            if is_put:
                put.append(piece(len(put)))
                await spool.put(put[-1])
            elif len(got) < sum(map(len, put)):
                got += await spool.get()
        spool.end()
        assert got + await read_all(spool) == b"".join(put)
        spool.close()
        assert disk.used_bytes == 0

    asyncio.run(run())


async def test_reader_and_writer_at_the_same_time_lose_nothing() -> None:
    pieces = [number.to_bytes(4) * 16_384 for number in range(150)]
    for _ in range(10):
        disk = Disk()
        spool = Spool(disk)

        async def fill(spool: Spool) -> None:
            for each in pieces:
                await spool.put(each)
            spool.end()

        # The writer is ahead at first, so that both work on the file.
        filling = asyncio.ensure_future(fill(spool))
        while not disk.used_bytes:  # noqa: ASYNC110 - nobody tells when it is used
            await asyncio.sleep(0)
        assert await read_all(spool) == b"".join(pieces)
        await filling
        spool.close()
        assert disk.used_bytes == 0


async def test_little_stays_in_memory() -> None:
    disk = Disk()
    spool = Spool(disk)
    for number in range(MEMORY_BYTES // PIECE):
        await spool.put(piece(number))
    assert disk.used_bytes == 0
    await spool.put(piece(9))
    assert disk.used_bytes == len(piece(9))
    spool.close()


async def test_without_disk_the_writer_waits_for_the_reader() -> None:
    spool = Spool(Disk(max_bytes=0))
    count = MEMORY_BYTES // PIECE
    for number in range(count):
        await spool.put(piece(number))
    more = asyncio.ensure_future(spool.put(piece(count)))
    await asyncio.sleep(0)
    assert not more.done()
    assert await spool.get() == piece(0)
    await more
    spool.end()
    assert await read_all(spool) == b"".join(map(piece, range(1, count + 1)))


async def test_an_error_goes_before_what_is_not_read_yet() -> None:
    spool = Spool(Disk())
    await spool.put(piece(1))
    spool.end(QueryError("Failed."))
    with pytest.raises(QueryError, match="Failed"):
        await spool.get()


async def test_closing_while_a_piece_is_written_gives_the_disk_back() -> None:
    disk = Disk()
    spool = Spool(disk)
    for number in range(MEMORY_BYTES // PIECE):
        await spool.put(piece(number))
    writing = asyncio.ensure_future(spool.put(piece(9)))
    await asyncio.sleep(0)
    writing.cancel()
    spool.close()
    await asyncio.wait([writing])
    async with asyncio.timeout(5):
        while disk.used_bytes:  # noqa: ASYNC110 - a thread gives it back
            await asyncio.sleep(0)
