"""What every log and source promises, on the embedded log."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ingest.chunk import Partition
from ingest.log.local import LocalLog, open_local_log
from ingest.source.local import LocalSource
from shared.clock import ManualClock
from shared.errors import DataFolderOwnedError, LogUnavailableError


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[LocalLog]:
    opened = open_local_log(tmp_path, clock=ManualClock())
    yield opened
    await opened.close()


async def read_all(log: LocalLog, partition: Partition, first: int = 0) -> list[bytes | None]:
    found: list[bytes | None] = []
    while True:
        chunk = await log.read(
            partition, first, log.end(partition), max_rows=1_000, max_bytes=1 << 20
        )
        if chunk is None:
            return found
        assert list(chunk.offsets) == list(range(first, chunk.next))
        found += chunk.values
        first = chunk.next


async def test_records_come_back_in_order_with_contiguous_offsets(log: LocalLog) -> None:
    one = await log.append("t", [b"a", b"b"])
    two = await log.append("t", [b"c"])
    assert (one.first, one.next, two.first, two.next) == (0, 2, 2, 3)
    assert await read_all(log, one.partition) == [b"a", b"b", b"c"]


async def test_concurrent_appends_each_get_their_own_contiguous_range(log: LocalLog) -> None:
    results = await asyncio.gather(
        *(log.append("t", [b"%d-%d" % (n, i) for i in range(n % 7 + 1)]) for n in range(200))
    )
    values = await read_all(log, Partition("t", 0))
    for n, appended in enumerate(results):
        expected = [b"%d-%d" % (n, i) for i in range(n % 7 + 1)]
        assert values[appended.first : appended.next] == expected


async def test_values_with_newlines_and_empty_values_are_kept(log: LocalLog) -> None:
    values = [b"", b"a\nb", b"\n", b"c", b""]
    await log.append("t", values)
    await log.append("t", [b"x", b"", b"y"])
    assert await read_all(log, Partition("t", 0)) == [*values, b"x", b"", b"y"]


async def test_reading_begins_anywhere_and_respects_its_limits(log: LocalLog) -> None:
    await log.append("t", [b"%d" % n for n in range(10)])
    await log.append("t", [b"%d" % n for n in range(10, 20)])
    chunk = await log.read(Partition("t", 0), 7, 20, max_rows=5, max_bytes=1 << 20)
    assert chunk is not None
    assert (list(chunk.offsets), chunk.next) == ([7, 8, 9, 10, 11], 12)
    few = await log.read(Partition("t", 0), 0, 4, max_rows=100, max_bytes=1)
    assert few is not None and few.values == [b"0", b"1", b"2", b"3"]
    assert await log.read(Partition("t", 0), 20, 30, max_rows=5, max_bytes=1) is None


async def test_everything_survives_a_reopening(tmp_path: Path) -> None:
    log = open_local_log(tmp_path)
    appended = await log.append("t", [b"a", b"b"])
    await log.commit("g", appended.partition, 1, "meta")
    stream = log.stream("t")
    await log.close()
    log = open_local_log(tmp_path)
    try:
        assert await read_all(log, appended.partition) == [b"a", b"b"]
        assert log.stream("t") == stream
        committed = await log.committed("g", appended.partition)
        assert committed is not None
        assert (committed.position, committed.metadata) == (1, "meta")
        assert await log.committed("other", appended.partition) is None
        assert (await log.append("t", [b"c"])).first == 2
    finally:
        await log.close()


async def test_streams_differ_by_topic_and_epoch(log: LocalLog) -> None:
    await log.create_topic("a")
    await log.create_topic("b")
    assert len({log.stream("a"), log.stream("b"), log.stream("a", epoch=1)}) == 3
    assert 0 <= log.stream("a") < 2**64


async def test_partitions_take_turns(tmp_path: Path) -> None:
    log = open_local_log(tmp_path)
    try:
        await log.create_topic("t", partitions=3)
        results = [await log.append("t", [b"x"]) for _ in range(6)]
        assert sorted(r.partition.number for r in results) == [0, 0, 1, 1, 2, 2]
    finally:
        await log.close()


async def test_a_second_opening_is_refused_with_one_clear_line(log: LocalLog) -> None:
    folder = Path(log._db.execute("PRAGMA database_list").fetchone()[2]).parent
    with pytest.raises(DataFolderOwnedError, match="in use by another process"):
        open_local_log(folder)


async def test_read_segments_are_removed_only_when_old_and_read_by_all(tmp_path: Path) -> None:
    clock = ManualClock()
    log = open_local_log(tmp_path, clock=clock)
    try:
        part = (await log.append("t", [b"a", b"b"])).partition
        await log.append("t", [b"c"])
        await log.append("unread", [b"x"])
        await log.commit("one", part, 3, "")
        await log.commit("two", part, 2, "")
        assert await log.remove_read(clock.now_ms()) == 0
        clock.advance(10)
        assert await log.remove_read(clock.now_ms()) == 1
        assert await log.log_start(part) == 2
        assert await read_all(log, part, 2) == [b"c"]
        assert await read_all(log, Partition("unread", 0)) == [b"x"]
    finally:
        await log.close()


FULL_DISK = """
import asyncio, resource, signal, sys
from pathlib import Path
from ingest.log.local import open_local_log
from shared.errors import LogUnavailableError

async def main():
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    log = open_local_log(Path(sys.argv[1]))
    await log.append("t", [b"first"])
    size = max(p.stat().st_size for p in Path(sys.argv[1]).iterdir())
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100_000, resource.RLIM_INFINITY))
    accepted = 1
    try:
        while True:
            await log.append("t", [b"x" * 20_000])
            accepted += 1
    except LogUnavailableError as error:
        print("refused:", error)
    for _ in range(2):
        try:
            await log.ping()
        except LogUnavailableError as error:
            print("not ready:", error)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    await log.ping()
    await log.append("t", [b"last"])
    print("accepted:", accepted + 1)
    await log.close()

asyncio.run(main())
"""


async def test_a_full_disk_refuses_records_and_loses_none(tmp_path: Path) -> None:
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", FULL_DISK, str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parent.parent.parent,
    )
    assert "refused: The log cannot take records" in done.stdout
    assert done.stdout.count("not ready: The log cannot take records") == 2
    accepted = int(done.stdout.rsplit("accepted:", 1)[1])
    log = open_local_log(tmp_path)
    try:
        values = await read_all(log, Partition("t", 0))
    finally:
        await log.close()
    assert (len(values), values[0], values[-1]) == (accepted, b"first", b"last")


async def test_a_source_lets_nothing_through_before_its_gate_is_opened(log: LocalLog) -> None:
    source = LocalSource(log, "t", "g")
    await log.append("t", [b"a", b"b", b"c"])
    poll = await source.poll(max_rows=10, max_bytes=1 << 20, timeout_s=0)
    (assignment,) = poll.assigned
    assert (assignment.offset, assignment.metadata, assignment.log_start) == (None, None, 0)
    assert assignment.stream == log.stream("t")
    assert (await source.poll(max_rows=10, max_bytes=1 << 20, timeout_s=0)).chunks == ()
    source.open(assignment.partition, 1)
    (chunk,) = (await source.poll(max_rows=10, max_bytes=1 << 20, timeout_s=0)).chunks
    assert (chunk.values, chunk.next) == ([b"b", b"c"], 3)
    assert source.lag(assignment.partition, 1) == 2


async def test_a_paused_partition_yields_nothing_until_it_is_resumed(log: LocalLog) -> None:
    source = LocalSource(log, "t", "g")
    (assignment,) = (await source.poll(max_rows=1, max_bytes=1, timeout_s=0)).assigned
    source.open(assignment.partition, 0)
    await log.append("t", [b"a"])
    source.pause(assignment.partition)
    assert (await source.poll(max_rows=9, max_bytes=99, timeout_s=0)).chunks == ()
    source.resume(assignment.partition)
    assert (await source.poll(max_rows=9, max_bytes=99, timeout_s=0)).chunks != ()


async def test_a_poll_wakes_up_when_something_is_appended(log: LocalLog) -> None:
    source = LocalSource(log, "t", "g")
    (assignment,) = (await source.poll(max_rows=1, max_bytes=1, timeout_s=0)).assigned
    source.open(assignment.partition, 0)
    assert (await source.poll(max_rows=9, max_bytes=99, timeout_s=0)).chunks == ()
    waiting = asyncio.create_task(source.poll(max_rows=9, max_bytes=99, timeout_s=60))
    await log.append("t", [b"a"])
    assert (await asyncio.wait_for(waiting, 10)).chunks[0].values == [b"a"]


async def test_commits_come_back_with_the_next_assignment(log: LocalLog) -> None:
    source = LocalSource(log, "t", "g")
    (assignment,) = (await source.poll(max_rows=1, max_bytes=1, timeout_s=0)).assigned
    assert await source.commit(assignment.partition, 5, "text")
    await source.release(assignment.partition)
    (again,) = (await source.poll(max_rows=1, max_bytes=1, timeout_s=0)).assigned
    assert (again.offset, again.metadata) == (5, "text")


async def test_a_range_can_be_read_again(log: LocalLog) -> None:
    source = LocalSource(log, "t", "g")
    for n in range(5):
        await log.append("t", [b"%d" % n])
    chunks = await source.read(Partition("t", 0), 1, 4)
    assert [v for c in chunks for v in c.values] == [b"1", b"2", b"3"]
    assert await source.read(Partition("t", 0), 9, 12) == []


async def test_a_closed_log_says_so(tmp_path: Path) -> None:
    log = open_local_log(tmp_path)
    await log.close()
    await log.close()
    with pytest.raises(LogUnavailableError):
        await log.append("t", [b"a"])
