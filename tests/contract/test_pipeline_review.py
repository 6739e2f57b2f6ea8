"""Where delivery could stall, stop early or say what is not true: on a real engine and log."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import structlog
from msgspec import structs

from deploy.engine import Engine
from deploy.state import read_state
from ingest.batch import BatchLimits
from ingest.chunk import Partition
from ingest.log.local import open_local_log
from ingest.messages import Intent, Metadata, decode_metadata
from ingest.partition import PartitionDelivery
from ingest.quarantine import QuarantineLimit
from ingest.source.contract import Poll
from ingest.source.local import LocalSource
from ingest.worker import Worker
from shared.clickhouse.contract import Insert, Run, Statement, Summary
from shared.clock import Deadline
from shared.errors import ClickHouseUnavailableError, LogUnavailableError
from shared.model.resources import EngineSpec
from tests.contract.delivery_rig import CLOCK, FaultyEngine, Rig, kill, open_rig

REPLACING = EngineSpec(name="ReplacingMergeTree", partition_key="toYYYYMM(ts)", sorting_key="id")


@pytest.fixture
async def rig(each_engine: Engine, tmp_path: Path) -> AsyncIterator[Rig]:
    async with open_rig(each_engine, tmp_path) as made:
        yield made


async def until(is_so: Callable[[], bool]) -> None:
    """Poll for something that nothing can be awaited for."""
    async with asyncio.timeout(20):
        while not is_so():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def committed(rig: Rig, partition: Partition) -> tuple[int, Metadata]:
    found = await rig.log.committed(rig.name, partition)
    assert found is not None
    metadata = decode_metadata(found.metadata)
    assert metadata is not None
    return found.position, metadata


class RefusesCommits(LocalSource):
    """Refuses the commits whose numbers are planned, as a full disk would."""

    refused: frozenset[int] = frozenset()
    commits = 0

    async def commit(self, partition: Partition, offset: int, metadata: str) -> bool:
        type(self).commits += 1
        if self.commits in self.refused:
            return False
        return await super().commit(partition, offset, metadata)


@pytest.mark.parametrize("number", [1, 2, 3])
async def test_a_partition_whose_commit_was_refused_goes_on(rig: Rig, number: int) -> None:
    class Source(RefusesCommits):
        refused = frozenset({number})

    rig.source = Source
    worker = rig.worker()
    await rig.stored(*await rig.send(10, bad=1))
    await worker.close(Deadline(CLOCK, 10))
    await rig.assert_exactly_once(quarantined=1)


async def test_partitions_given_back_at_one_time_are_all_assigned_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = open_local_log(tmp_path)
    await log.create_topic("t", 3)
    source = LocalSource(log, "t", "g")

    async def poll() -> Poll:
        return await source.poll(max_rows=1, max_bytes=1, timeout_s=0)

    await poll()
    ask = log.log_start

    async def release_meanwhile(partition: Partition) -> int:
        monkeypatch.setattr(log, "log_start", ask)
        start = await ask(partition)
        await source.release(Partition("t", 1))
        return start

    await source.release(Partition("t", 0))
    monkeypatch.setattr(log, "log_start", release_meanwhile)
    first, second = await poll(), await poll()
    numbers = [a.partition.number for a in (*first.assigned, *second.assigned)]
    assert sorted(numbers) == [0, 1]
    await log.close()


async def test_a_pause_of_the_owner_before_does_not_hold_back_the_next(tmp_path: Path) -> None:
    log = open_local_log(tmp_path)
    appended = await log.append("t", [b"1"])
    source = LocalSource(log, "t", "g")
    await source.poll(max_rows=1, max_bytes=1, timeout_s=0)
    source.pause(appended.partition)
    source.open(appended.partition, 0)
    poll = await source.poll(max_rows=1, max_bytes=100, timeout_s=0)
    assert [list(c.offsets) for c in poll.chunks] == [[0]]
    await log.close()


async def test_stopping_while_partitions_are_being_assigned_ends_at_once(rig: Rig) -> None:
    asked = asyncio.Event()
    go_on = asyncio.Event()

    class Slow(LocalSource):
        async def poll(self, *, max_rows: int, max_bytes: int, timeout_s: float) -> Poll:
            asked.set()
            await go_on.wait()
            return await super().poll(max_rows=max_rows, max_bytes=max_bytes, timeout_s=timeout_s)

    rig.source = Slow
    worker = rig.worker()
    await asked.wait()
    pausing = asyncio.create_task(worker.pause([rig.name], Deadline(CLOCK, 10)))
    await asyncio.sleep(0)
    go_on.set()
    async with asyncio.timeout(5):
        assert await pausing


async def test_pausing_right_after_starting_completes_the_range_that_was_open(rig: Rig) -> None:
    partition, next_ = await leave_a_range_open(rig)
    worker = rig.worker()
    assert await worker.pause([rig.name], Deadline(CLOCK, 10))
    position, metadata = await committed(rig, partition)
    assert (position, metadata.intent) == (next_, None)
    await rig.assert_exactly_once()


@asynccontextmanager
async def three_batches_in_memory(rig: Rig) -> AsyncIterator[tuple[Worker, Partition, int]]:
    """One batch is being inserted, one is closed, one is full; inside, nothing is inserted."""
    go_on = asyncio.Event()
    insert = rig.faulty.insert

    async def insert_later(block: Insert) -> Summary:
        await go_on.wait()
        return await insert(block)

    rig.faulty.insert = insert_later  # type: ignore[method-assign, assignment]
    rig.limits = BatchLimits(max_rows=10, max_age_s=60)
    worker = rig.worker()
    pipeline = worker._running[rig.name].pipeline

    def holder() -> PartitionDelivery:
        return next(iter(pipeline._partitions.values()))

    await rig.send(10)
    await until(lambda: bool(pipeline._partitions) and holder()._current is not None)
    await rig.send(10)
    await until(lambda: holder().intake.has_closed)
    partition, next_ = await rig.send(10)
    await until(lambda: holder().intake.is_full)
    yield worker, partition, next_
    go_on.set()


async def test_a_partition_reads_no_more_than_three_batches_ahead_and_goes_on_later(
    rig: Rig,
) -> None:
    async with three_batches_in_memory(rig) as (worker, partition, next_):
        end = await rig.send(10)
        pipeline = worker._running[rig.name].pipeline
        poll = await pipeline.source.poll(max_rows=100, max_bytes=1 << 20, timeout_s=0)
        assert not poll.chunks
        assert pipeline._partitions[partition].intake.read_to == next_
    await rig.stored(*end)
    assert rig.faulty.inserts == 4
    await worker.close(Deadline(CLOCK, 10))
    await rig.assert_exactly_once()


async def test_stopping_flushes_the_closed_batch_and_the_open_one(rig: Rig) -> None:
    async with three_batches_in_memory(rig) as (worker, partition, next_):
        closing = asyncio.create_task(worker.close(Deadline(CLOCK, 10)))
        await asyncio.sleep(0)
    await closing
    position, metadata = await committed(rig, partition)
    assert (position, metadata.intent) == (next_, None)
    await rig.assert_exactly_once()


async def leave_a_range_open(rig: Rig) -> tuple[Partition, int]:
    crashed = asyncio.Event()

    def crash(partition: Partition, at: str, when: str) -> None:
        if (at, when) == ("insert", "before"):
            crashed.set()
            raise asyncio.CancelledError

    worker = rig.worker(crash)
    sent = await rig.send(10)
    async with asyncio.timeout(10):
        await crashed.wait()
    await kill(worker)
    return sent


async def test_a_data_source_is_not_at_rest_while_a_range_cannot_be_completed(rig: Rig) -> None:
    rig.faulty.plan = ["before"] * 1000
    worker = rig.worker()
    await rig.send(10)
    await until(lambda: rig.faulty.inserts > 0)
    assert not await worker.pause([rig.name], Deadline(CLOCK, 20))
    # Nothing runs any more; it is still not at rest.
    assert not await worker.pause([rig.name], Deadline(CLOCK, 1))
    rig.faulty.plan = []
    worker.start({rig.name: rig.datasource})
    assert await worker.pause([rig.name], Deadline(CLOCK, 20))
    await rig.assert_exactly_once()


async def test_a_range_whose_closing_commit_is_refused_while_stopping_is_not_at_rest(
    rig: Rig,
) -> None:
    class Source(RefusesCommits):
        refused = frozenset({3})

    rig.source = Source
    rig.limits = BatchLimits(max_age_s=60)
    worker = rig.worker()
    await rig.send(10)
    pipeline = worker._running[rig.name].pipeline
    await until(lambda: any(not p.intake.is_empty for p in pipeline._partitions.values()))
    assert not await worker.pause([rig.name], Deadline(CLOCK, 10))


BROKEN = "toUInt32(throwIf(id >= 0))"


async def break_view(rig: Rig) -> None:
    await rig.engine.execute(Statement(sql=f"DROP VIEW {rig.name}_view"))
    await make_view(rig, BROKEN)


async def make_view(rig: Rig, month: str) -> None:
    await rig.engine.execute(
        Statement(
            sql=f"CREATE MATERIALIZED VIEW {rig.name}_view TO {rig.name}_view_target AS"
            f" SELECT {month} AS m, count() AS n FROM {rig.name} GROUP BY m"
        )
    )


async def test_a_failing_view_can_be_replaced_by_a_deployment(rig: Rig) -> None:
    await break_view(rig)
    worker = rig.worker()
    partition, next_ = await rig.send(40, bad=1)
    await until(lambda: rig.faulty.inserts >= 2)
    assert await worker.pause([rig.name], Deadline(CLOCK, 20))
    await rig.engine.execute(Statement(sql=f"DROP VIEW {rig.name}_view"))
    await make_view(rig, "toYYYYMM(ts)")
    worker.start({rig.name: rig.datasource})
    await rig.stored(partition, next_)
    await worker.close(Deadline(CLOCK, 10))
    await rig.assert_exactly_once(quarantined=1)


async def test_recovery_does_not_wait_for_a_view_that_only_a_deployment_can_mend(
    rig: Rig,
) -> None:
    partition, next_ = await leave_a_range_open(rig)
    await break_view(rig)
    worker = rig.idle_worker()
    async with asyncio.timeout(10):
        await worker.recover([rig.datasource])
    assert await worker.pause([rig.name], Deadline(CLOCK, 1))
    await rig.engine.execute(Statement(sql=f"DROP VIEW {rig.name}_view"))
    await make_view(rig, "toYYYYMM(ts)")
    worker.start({rig.name: rig.datasource})
    await rig.stored(partition, next_)
    await worker.close(Deadline(CLOCK, 10))
    await rig.assert_exactly_once()


async def test_recovery_of_one_data_source_that_fails_leaves_the_range_to_its_pipeline(
    rig: Rig,
) -> None:
    partition, next_ = await leave_a_range_open(rig)
    failing = [True]

    def fail(partition: Partition, at: str, when: str) -> None:
        if failing:
            failing.clear()
            raise ZeroDivisionError

    worker = rig.idle_worker(fail)
    await worker.recover([rig.datasource])
    assert not await worker.pause([rig.name], Deadline(CLOCK, 1))
    worker.start({rig.name: rig.datasource})
    await rig.stored(partition, next_)
    await worker.close(Deadline(CLOCK, 10))
    await rig.assert_exactly_once()


async def test_records_for_a_data_source_without_json_paths_stay_in_the_log(rig: Rig) -> None:
    columns = tuple(structs.replace(c, jsonpath=None) for c in rig.datasource.columns)
    partition, next_ = await rig.send(7)
    worker = rig.idle_worker()
    with structlog.testing.capture_logs() as logged:
        without_paths = {rig.name: structs.replace(rig.datasource, columns=columns)}
        worker.start(without_paths)
        await until(lambda: bool(logged))
        worker.start(without_paths)
        await asyncio.gather(*worker._looks.values())
    assert [(e["event"], e["log_level"], e["rows"]) for e in logged] == [
        ("records_left_in_log", "info", 7)
    ]
    assert not worker._running and await rig.log.committed(rig.name, partition) is None
    worker.start({rig.name: rig.datasource})
    await rig.stored(partition, next_)
    await worker.close(Deadline(CLOCK, 10))
    await rig.assert_exactly_once()


async def test_nothing_is_said_of_an_empty_topic_that_nothing_is_made_of(rig: Rig) -> None:
    columns = tuple(structs.replace(c, jsonpath=None) for c in rig.datasource.columns)
    worker = rig.idle_worker()
    with structlog.testing.capture_logs() as logged:
        worker.start({rig.name: structs.replace(rig.datasource, columns=columns)})
        await asyncio.gather(*worker._looks.values())
        await worker.close(Deadline(CLOCK, 10))
    assert logged == []


async def test_recovery_leaves_a_data_source_without_json_paths_alone(rig: Rig) -> None:
    partition, next_ = await leave_a_range_open(rig)
    before = await committed(rig, partition)
    columns = tuple(structs.replace(c, jsonpath=None) for c in rig.datasource.columns)
    worker = rig.idle_worker()
    await worker.recover([structs.replace(rig.datasource, columns=columns)])
    assert await committed(rig, partition) == before
    assert await worker.pause([rig.name], Deadline(CLOCK, 1))
    worker.start({rig.name: rig.datasource})
    await rig.stored(partition, next_)
    await worker.close(Deadline(CLOCK, 10))
    await rig.assert_exactly_once()


async def test_a_search_in_two_partitions_at_one_time_finds_the_rows_of_both(rig: Rig) -> None:
    await rig.log.create_topic(f"events.{rig.name}", 2)
    await rig.engine.execute(
        Statement(sql=f"ALTER TABLE {rig.name} ADD CONSTRAINT small CHECK id % 10 != 3")
    )
    ends = [await rig.send(20), await rig.send(20)]
    worker = rig.worker()
    for end in ends:
        await rig.stored(*end)
    await worker.close(Deadline(CLOCK, 10))
    assert await rig.one("SELECT count(), uniqExact(id) FROM EV") == ["36", "36"]
    found = await rig.one(
        "SELECT __partition, count() FROM EV_quarantine FINAL GROUP BY 1 ORDER BY 1"
    )
    assert found == ["0", "2", "1", "2"]


async def test_a_shutdown_that_is_cut_short_leaves_nothing_running(rig: Rig) -> None:
    rig.faulty.plan = ["before"] * 1000
    worker = rig.worker()
    await rig.send(10)
    await until(lambda: rig.faulty.inserts > 1)
    task = worker._running[rig.name].task
    closing = asyncio.create_task(worker.close(Deadline(CLOCK, 60)))
    for _ in range(3):  # until it waits for the pipeline
        await asyncio.sleep(0)
    closing.cancel()
    async with asyncio.timeout(2):
        await asyncio.gather(closing, task, return_exceptions=True)
    assert task.cancelled()


async def test_an_engine_that_is_too_busy_is_asked_again(rig: Rig) -> None:
    rig.faulty.plan = ["busy", "busy"]
    worker = rig.worker()
    partition, next_ = await rig.send(10, bad=1)
    # A restart of the pipeline would take longer.
    assert await rig.progress.reached(partition, next_, 3)
    assert rig.faulty.inserts == 3
    await worker.close(Deadline(CLOCK, 10))
    await rig.assert_exactly_once(quarantined=1)


@pytest.mark.parametrize(
    "spec", [REPLACING, EngineSpec(sorting_key="id", ttl="ts + INTERVAL 1 DAY")], ids=["key", "ttl"]
)
async def test_rows_that_the_table_itself_gave_up_are_not_quarantined(
    each_engine: Engine, tmp_path: Path, spec: EngineSpec
) -> None:
    async with open_rig(each_engine, tmp_path, spec) as rig:
        rig.faulty.plan = ["after"]
        worker = rig.worker()
        same = b'{"id": 1, "ts": "2024-01-01 00:00:00"}'
        appended = await rig.log.append(f"events.{rig.name}", [same, b"{}", same])
        await until(lambda: rig.faulty.inserts > 0)
        await rig.engine.execute(Statement(sql=f"OPTIMIZE TABLE {rig.name} FINAL"))
        await rig.stored(appended.partition, appended.next)
        await worker.close(Deadline(CLOCK, 10))
        found = await rig.one("SELECT __offset FROM EV_quarantine FINAL")
        assert found == ["1"]


async def test_records_that_are_all_excluded_do_not_stop_a_second_search(rig: Rig) -> None:
    worker = rig.worker()
    await rig.engine.execute(
        Statement(sql=f"ALTER TABLE {rig.name} ADD CONSTRAINT small CHECK id > 100")
    )
    partition, next_ = await rig.send(20)
    await rig.stored(partition, next_)
    await worker.close(Deadline(CLOCK, 10))
    assert await rig.one("SELECT count() FROM EV_quarantine FINAL") == ["20"]
    assert await rig.one("SELECT name FROM system.tables WHERE name LIKE 'EV__scratch%'") == []


async def test_rows_that_only_clickhouse_refuses_stop_a_pipeline_too(rig: Rig) -> None:
    await rig.engine.execute(
        Statement(sql=f"ALTER TABLE {rig.name} ADD CONSTRAINT small CHECK id % 3 = 0")
    )
    worker = rig.worker()
    running = worker._running[rig.name]
    running.pipeline._limit = QuarantineLimit(0.5, window_rows=30)
    partition, next_ = await rig.send(30)
    await asyncio.wait({running.task}, timeout=20)
    assert running.pipeline.gave_up.startswith("20 of the latest 30 rows are bad")
    await rig.send(30)
    await worker.close(Deadline(CLOCK, 10))
    # What was under way is completed, and nothing more is read.
    position, metadata = await committed(rig, partition)
    assert (position, metadata.intent) == (next_, None)
    assert await rig.one("SELECT count() FROM EV") == ["10"]
    assert await rig.one("SELECT count() FROM EV_quarantine FINAL") == ["20"]


async def test_what_waits_in_memory_counts_as_behind_and_a_position_as_done(rig: Rig) -> None:
    def value(name: str) -> float | None:
        labels = {"datasource": rig.name, "partition": "0"}
        return rig.metrics.registry.get_sample_value(f"pipehouse_{name}", labels)

    worker = rig.worker()
    await rig.stored(*await rig.send(10))
    await worker.close(Deadline(CLOCK, 10))
    rig.faulty.plan = ["before"] * 1000
    worker = rig.worker()
    await rig.send(5)
    await until(lambda: (value("behind_seconds") or 0) > 0.5)
    assert value("lag_rows") == 5
    await kill(worker)
    # Whoever has the partition next tells of it.
    assert value("lag_rows") is None and value("behind_seconds") is None
    rig.faulty.plan = []

    async def fail(*given: object) -> tuple[Run, ...]:
        raise ClickHouseUnavailableError("gone")

    # What lies ahead cannot be looked at, so nothing is read.
    worker = rig.worker()
    landing = worker._running[rig.name].pipeline._needs.landing
    landing.stored_from = fail  # type: ignore[assignment, method-assign]
    await rig.send(3)
    await until(lambda: (value("behind_seconds") or 0) > 1.5 and value("lag_rows") == 3)
    await kill(worker)


async def test_only_tombstones_and_rejections_are_a_range_too(rig: Rig) -> None:
    worker = rig.worker()
    partition, next_ = await rig.send(0, bad=2)
    await rig.stored(partition, next_)
    await worker.close(Deadline(CLOCK, 10))
    await rig.assert_exactly_once(quarantined=2)


@pytest.mark.parametrize(("fault", "inserts"), [("after", 1), ("before", 2)])
async def test_a_repeated_attempt_looks_at_the_table_where_tokens_may_be_forgotten(
    rig: Rig, fault: str, inserts: int
) -> None:
    rig.faulty.plan = [fault]
    worker = rig.worker()
    worker._running[rig.name].pipeline._needs.landing._window = 0
    await rig.stored(*await rig.send(10, bad=1))
    await worker.close(Deadline(CLOCK, 10))
    assert rig.faulty.inserts == inserts
    await rig.assert_exactly_once(quarantined=1)


async def test_memory_is_certain_until_half_of_the_window_was_used_since_the_intent(
    rig: Rig,
) -> None:
    worker = rig.worker()
    landing = worker._running[rig.name].pipeline._needs.landing
    await rig.stored(*await rig.send(10))
    now_ms = CLOCK.now_ms()
    before = Intent(next=1, at_ms=now_ms - 3_600_000, boot="", schema="")
    after = Intent(next=1, at_ms=now_ms + 3_600_000, boot="", schema="")
    landing._window = 2
    assert not await landing.remembers(before)
    assert await landing.remembers(after)
    landing._window = 1_000_000
    assert await landing.remembers(before)
    await worker.close(Deadline(CLOCK, 10))


@pytest.mark.parametrize("ttl", ["ts + INTERVAL 10 YEAR", None])
async def test_a_search_leaves_nothing_that_looks_like_a_data_source(
    each_engine: Engine, tmp_path: Path, ttl: str | None
) -> None:
    async with open_rig(each_engine, tmp_path, EngineSpec(sorting_key="id", ttl=ttl)) as rig:
        await rig.engine.execute(
            Statement(sql=f"ALTER TABLE {rig.name} ADD CONSTRAINT small CHECK id != 3")
        )
        seen: list[set[str]] = []

        class Watched(FaultyEngine):
            async def insert(self, insert: Insert) -> Summary:
                if "__scratch" in insert.table:
                    seen.append({insert.table} & set((await read_state(each_engine)).datasources))
                return await super().insert(insert)

        rig.faulty = Watched(each_engine, rig.name)
        worker = rig.idle_worker()
        worker.start({rig.name: rig.datasource})
        await rig.stored(*await rig.send(10))
        await worker.close(Deadline(CLOCK, 10))
        assert seen and not any(seen)


# The embedded log -----------------------------------------------------------------------------


async def test_every_append_gets_an_answer_whatever_the_writer_meets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = open_local_log(tmp_path)
    await log.append("t", [b"1"])

    def fail(group: object) -> None:
        raise OverflowError("BLOB longer than INT_MAX bytes")

    with monkeypatch.context() as patch:
        patch.setattr(log, "_write", fail)
        async with asyncio.timeout(5):
            results = await asyncio.gather(
                *(log.append("t", [b"2"]) for _ in range(3)), return_exceptions=True
            )
    assert {type(r) for r in results} == {LogUnavailableError}
    assert (await log.append("t", [b"3"])).first == 1
    await log.close()


async def test_offsets_follow_the_file_even_if_a_failed_write_reached_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = open_local_log(tmp_path)
    written = log._write

    def write_and_fail(group: list[object]) -> None:
        written(group)  # type: ignore[arg-type]
        raise sqlite3.OperationalError("disk I/O error")

    with monkeypatch.context() as patch:
        patch.setattr(log, "_write", write_and_fail)
        with pytest.raises(LogUnavailableError):
            await log.append("t", [b"1"])
    appended = await log.append("t", [b"2"])
    assert (appended.first, appended.next) == (1, 2)
    await log.close()


async def test_one_large_append_is_kept_in_pieces(tmp_path: Path) -> None:
    log = open_local_log(tmp_path)
    values = [b"%d" % i * 2000 for i in range(3000)]
    appended = await log.append("t", values)
    largest = log._db.execute("SELECT max(length(payload)), count(*) FROM segments").fetchone()
    assert largest[0] < 6 << 20 and largest[1] > 1
    source = LocalSource(log, "t", "g")
    chunks = await source.read(appended.partition, 0, appended.next)
    assert [v for c in chunks for v in c.values] == values
    await log.close()
