"""The embedded log: topics, partitions, offsets and group commits in one SQLite file.

It is durable and it is for one machine: one process owns it, held by a lock that the kernel lets
go of. Appends of concurrent callers are written as one transaction (group commit), by one thread.
A transaction survives the end of the process; with ``fsync`` it survives the loss of power too.

How records lie in the file is in ``ingest/log/segments.py``.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import os
import sqlite3
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from msgspec import Struct

from ingest.chunk import Chunk, Partition
from ingest.log.contract import Appended
from ingest.log.segments import SCHEMA, Wanted, cut_into_segments, insert_segment, read_chunk
from shared.clock import Clock, SystemClock
from shared.errors import DataFolderOwnedError, LogUnavailableError

T = TypeVar("T")

TRIAL_BYTES = 1 << 20
"""At most this much is written to see whether records can be appended again."""


class Topic(Struct, frozen=True, kw_only=True):
    """One topic; ``uuid`` tells it from an earlier one of the same name."""

    id: int
    name: str
    uuid: str
    partitions: int


class Committed(Struct, frozen=True):
    """A group's position in a partition, with the text committed beside it."""

    position: int
    metadata: str


class _Append(Struct, kw_only=True):
    """One caller's records on their way to the writer; mutable because the offsets come last."""

    partition: Partition
    values: Sequence[bytes]
    future: asyncio.Future[Appended]
    first: int = -1


class LocalLog:
    """Topics in one SQLite file; made by ``open_local_log``."""

    def __init__(
        self, connection: sqlite3.Connection, reader: sqlite3.Connection, lock: int, clock: Clock
    ) -> None:
        self._db = connection
        self._reader = reader
        self._lock = lock
        self._clock = clock
        self._writer_thread = ThreadPoolExecutor(1, "log-writer")
        self._reader_thread = ThreadPoolExecutor(1, "log-reader")
        self._pending: list[_Append] = []
        self._flushing: asyncio.Task[None] | None = None
        self._listeners: list[Callable[[Partition, int], None]] = []
        self._closed = False
        self._turn = 0
        # Of the last records, where the file did not take them.
        self._refused_bytes = 0
        self.cluster_id = self._fact("cluster_id", lambda: str(uuid.uuid4()))
        self._topics = {t.name: t for t in self._read_topics()}
        self._next: dict[Partition, int] = self._read_ends()

    def __repr__(self) -> str:
        return f"LocalLog(topics={len(self._topics)}, pending={len(self._pending)})"

    # Appending ------------------------------------------------------------------------------

    async def append(self, topic: str, values: Sequence[bytes]) -> Appended:
        """See ``Log``; partitions take turns, a call at a time."""
        known = self._topics.get(topic) or await self.create_topic(topic)
        self._turn += 1
        partition = Partition(topic, self._turn % known.partitions)
        if not values:
            position = self.end(partition)
            return Appended(partition, position, position)
        loop = asyncio.get_running_loop()
        pending = _Append(partition=partition, values=values, future=loop.create_future())
        self._pending.append(pending)
        if self._flushing is None:
            self._flushing = loop.create_task(self._flush_all(), name="log-flush")
        return await pending.future

    async def _flush_all(self) -> None:
        group: list[_Append] = []
        try:
            while self._pending:
                group, self._pending = self._pending, []
                await self._flush(group)
        finally:
            # Whatever was raised, nobody is left waiting.
            unanswered, self._pending = group + self._pending, []
            for item in unanswered:
                if not item.future.done():
                    item.future.set_exception(LogUnavailableError("The log does not answer."))
            self._flushing = None

    async def _flush(self, group: list[_Append]) -> None:
        try:
            await self._in_writer(lambda: self._write(group))
        except LogUnavailableError as error:
            self._refused_bytes = sum(len(value) + 1 for item in group for value in item.values)
            for item in group:
                if not item.future.done():
                    item.future.set_exception(LogUnavailableError(error.message, hint=error.hint))
            return
        self._refused_bytes = 0
        moved: dict[Partition, int] = {}
        for item in group:
            end = item.first + len(item.values)
            moved[item.partition] = end
            if not item.future.done():
                item.future.set_result(Appended(item.partition, item.first, end))
        self._next.update(moved)
        for partition, end in moved.items():
            for listener in self._listeners:
                listener(partition, end)

    def _write(self, group: list[_Append]) -> None:
        """Write one group as one transaction; runs in the writer thread."""
        by_partition: dict[Partition, list[_Append]] = {}
        for item in group:
            by_partition.setdefault(item.partition, []).append(item)
        now_ms = self._clock.now_ms()
        with self._transaction() as db:
            for partition, items in by_partition.items():
                place = (self._topics[partition.topic].id, partition.number)
                # The file knows better than memory what a failed write left behind.
                (first,) = db.execute(
                    "SELECT next FROM ends WHERE topic = ? AND partition = ?", place
                ).fetchone()
                position = first
                for item in items:
                    item.first = position
                    position += len(item.values)
                for values in cut_into_segments([item.values for item in items]):
                    insert_segment(db, *place, first, values, now_ms)
                    first += len(values)
                db.execute(
                    "UPDATE ends SET next = ? WHERE topic = ? AND partition = ?",
                    (position, *place),
                )

    def on_append(self, listener: Callable[[Partition, int], None]) -> Callable[[], None]:
        """Call the listener with a partition and its new end; returns what undoes it."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    # Topics -----------------------------------------------------------------------------------

    @property
    def topics(self) -> Sequence[Topic]:
        """All topics, as they are."""
        return tuple(self._topics.values())

    async def create_topic(self, name: str, partitions: int = 1) -> Topic:
        """Create a topic, or return the one of that name as it is."""
        if name not in self._topics:
            await self._in_writer(lambda: self._create_topic(name, partitions))
        return self._topics[name]

    def _create_topic(self, name: str, partitions: int) -> None:
        if name in self._topics:
            return
        topic_uuid = str(uuid.uuid4())
        with self._transaction() as db:
            cursor = db.execute(
                "INSERT INTO topics (name, uuid, partitions) VALUES (?, ?, ?)",
                (name, topic_uuid, partitions),
            )
            assert cursor.lastrowid is not None
            topic = Topic(id=cursor.lastrowid, name=name, uuid=topic_uuid, partitions=partitions)
            db.executemany(
                "INSERT INTO ends (topic, partition, start, next) VALUES (?, ?, 0, 0)",
                [(topic.id, number) for number in range(partitions)],
            )
        self._topics[name] = topic

    def stream(self, topic: str, epoch: int = 0) -> int:
        """The 64-bit identity of a topic's records: cluster, topic id and re-ingestion epoch."""
        text = f"{self.cluster_id}:{self._topics[topic].uuid}:{epoch}"
        return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")

    def end(self, partition: Partition) -> int:
        """The offset that the next record will get."""
        return self._next.get(partition, 0)

    # Reading ----------------------------------------------------------------------------------

    async def read(
        self, partition: Partition, first: int, next_: int, *, max_rows: int, max_bytes: int
    ) -> Chunk | None:
        """Records from ``first`` on, below ``next_``; None when there are none.

        At least one record is returned if there is one, whatever its size.
        """
        return await self._in_thread(
            self._reader_thread,
            lambda: self._read(partition, first, next_, max_rows, max_bytes),
        )

    def _read(
        self, partition: Partition, first: int, next_: int, max_rows: int, max_bytes: int
    ) -> Chunk | None:
        return read_chunk(
            self._reader,
            self._topics[partition.topic].id,
            partition,
            Wanted(first=first, next=next_, max_rows=max_rows, max_bytes=max_bytes),
        )

    # Commits ----------------------------------------------------------------------------------

    async def commit(self, group: str, partition: Partition, position: int, metadata: str) -> None:
        """Set a group's position; durable when it returns."""
        await self._in_writer(lambda: self._commit(group, partition, position, metadata))

    def _commit(self, group: str, partition: Partition, position: int, metadata: str) -> None:
        topic = self._topics[partition.topic]
        with self._transaction() as db:
            db.execute(
                "INSERT OR REPLACE INTO commits VALUES (?, ?, ?, ?, ?, ?)",
                (group, topic.id, partition.number, position, metadata, self._clock.now_ms()),
            )

    async def committed(self, group: str, partition: Partition) -> Committed | None:
        """A group's position, None when it never committed."""
        return await self._in_writer(lambda: self._committed(group, partition))

    def _committed(self, group: str, partition: Partition) -> Committed | None:
        row = self._db.execute(
            "SELECT position, metadata FROM commits"
            " WHERE consumer = ? AND topic = ? AND partition = ?",
            (group, self._topics[partition.topic].id, partition.number),
        ).fetchone()
        return Committed(*row) if row else None

    async def log_start(self, partition: Partition) -> int:
        """The oldest offset that can still be read."""

        def read() -> int:
            row = self._db.execute(
                "SELECT start FROM ends WHERE topic = ? AND partition = ?",
                (self._topics[partition.topic].id, partition.number),
            ).fetchone()
            return int(row[0])

        return await self._in_writer(read)

    async def remove_read(self, older_than_ms: int) -> int:
        """Remove segments that every group has read and that are old enough.

        Topics that no group has ever read keep everything. Returns the number of segments.
        """
        return await self._in_writer(lambda: self._remove_read(older_than_ms))

    def _remove_read(self, older_than_ms: int) -> int:
        condition = (
            "appended_ms < ? AND next <= (SELECT min(position) FROM commits c"
            " WHERE c.topic = segments.topic AND c.partition = segments.partition)"
        )
        with self._transaction() as db:
            count = db.execute(f"DELETE FROM segments WHERE {condition}", (older_than_ms,)).rowcount
            db.execute(
                "UPDATE ends SET start = coalesce((SELECT min(first) FROM segments s"
                " WHERE s.topic = ends.topic AND s.partition = ends.partition), next)"
            )
        return count

    async def ping(self) -> None:
        """See ``Log``; after records were refused, as many bytes are written to try."""
        if self._closed:
            raise LogUnavailableError("The log is closed.")
        refused_bytes = self._refused_bytes
        if not refused_bytes:
            await self._in_writer(lambda: self._db.execute("SELECT 1").fetchone())
            return
        await self._in_writer(lambda: self._try_to_write(refused_bytes))
        self._refused_bytes = 0

    def _try_to_write(self, size_bytes: int) -> None:
        # Committed, because what is rolled back may never have reached the disk.
        with self._transaction() as db:
            db.execute(
                "INSERT OR REPLACE INTO facts VALUES ('trial', zeroblob(?))",
                (min(size_bytes, TRIAL_BYTES),),
            )
        with self._transaction() as db:
            db.execute("DELETE FROM facts WHERE name = 'trial'")

    async def close(self) -> None:
        """Write what is pending and let go of the file; safe to call twice."""
        if self._closed:
            return
        if self._flushing is not None:
            await self._flushing
        self._closed = True
        self._writer_thread.shutdown(wait=True)
        self._reader_thread.shutdown(wait=True)
        self._reader.close()
        self._db.close()
        os.close(self._lock)

    # Inside -----------------------------------------------------------------------------------

    def _fact(self, name: str, fresh: Callable[[], str]) -> str:
        with self._transaction() as db:
            db.execute("INSERT OR IGNORE INTO facts VALUES (?, ?)", (name, fresh()))
            row = db.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return str(row[0])

    def _read_topics(self) -> list[Topic]:
        rows = self._db.execute("SELECT id, name, uuid, partitions FROM topics").fetchall()
        return [Topic(id=r[0], name=r[1], uuid=r[2], partitions=r[3]) for r in rows]

    def _read_ends(self) -> dict[Partition, int]:
        rows = self._db.execute(
            "SELECT t.name, e.partition, e.next FROM ends e JOIN topics t ON t.id = e.topic"
        ).fetchall()
        return {Partition(name, number): end for name, number, end in rows}

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield self._db
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    async def _in_writer(self, work: Callable[[], T]) -> T:
        return await self._in_thread(self._writer_thread, work)

    async def _in_thread(self, thread: ThreadPoolExecutor, work: Callable[[], T]) -> T:
        if self._closed:
            raise LogUnavailableError("The log is closed.")
        try:
            return await asyncio.get_running_loop().run_in_executor(thread, work)
        except sqlite3.Error as error:
            raise _translate(error) from error


def _translate(error: sqlite3.Error) -> LogUnavailableError:
    code = getattr(error, "sqlite_errorcode", 0)
    if code == sqlite3.SQLITE_FULL or code & 0xFF == sqlite3.SQLITE_IOERR:
        full = code == sqlite3.SQLITE_FULL
        return LogUnavailableError(
            f"The log cannot take records: {'the disk is full' if full else error}.",
            hint="Free some space; nothing that was accepted is lost.",
            retry_after_s=5.0,
        )
    return LogUnavailableError(f"The log does not answer: {error}.")


def open_local_log(folder: Path, *, fsync: bool = False, clock: Clock | None = None) -> LocalLog:
    """Open the log in a folder, which is created.

    Raises:
        DataFolderOwnedError: Another process has it open.
        LogUnavailableError: The file cannot be used.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock)
        raise DataFolderOwnedError(
            f"The log in '{folder}' is in use by another process.",
            hint="Stop that process, or choose another folder with PIPEHOUSE_DATA.",
        ) from error
    try:
        path = folder / "log.sqlite"
        writer = _connect(path, fsync)
        writer.executescript(SCHEMA)
        return LocalLog(writer, _connect(path, fsync), lock, clock or SystemClock())
    except sqlite3.Error as error:
        os.close(lock)
        raise _translate(error) from error


def _connect(path: Path, fsync: bool) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute(f"PRAGMA synchronous={'FULL' if fsync else 'NORMAL'}")
    connection.execute("PRAGMA cache_size=-8192")
    return connection
