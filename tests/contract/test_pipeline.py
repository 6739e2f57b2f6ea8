# ruff: noqa: ASYNC110 - what is waited for happens in another thread or in the log

"""The pipeline on a real engine and log, with faults in between: once, in table and view."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from deploy.engine import Engine
from ingest.batch import BatchLimits
from ingest.chunk import Partition
from ingest.messages import decode_metadata
from shared.clickhouse.contract import Statement
from shared.clickhouse.failures import InsertFailureError, InsertRetriableError
from shared.clock import Deadline
from tests.contract.delivery_rig import CLOCK, Rig, kill, open_rig


@pytest.fixture
async def rig(each_engine: Engine, tmp_path: Path) -> AsyncIterator[Rig]:
    async with open_rig(each_engine, tmp_path) as made:
        yield made


async def test_good_rows_beside_bad_ones_are_stored_and_the_bad_ones_quarantined(rig: Rig) -> None:
    worker = rig.worker()
    await rig.stored(*await rig.send(100, bad=3))
    await rig.stored(*await rig.send(50))
    await worker.close(Deadline(CLOCK, 10))
    await rig.assert_exactly_once(quarantined=3)
    errors = await rig.one("SELECT c__error_column[1], id, __raw != '' FROM EV_quarantine LIMIT 1")
    assert errors == ["id", "x", "1"]


@pytest.mark.parametrize("fault", ["before", "after"])
async def test_an_insert_whose_answer_is_lost_is_repeated_without_doubling(
    rig: Rig, fault: str
) -> None:
    rig.faulty.plan = [fault, fault]
    worker = rig.worker()
    await rig.stored(*await rig.send(100, bad=2))
    await worker.close(Deadline(CLOCK, 10))
    assert rig.faulty.inserts == 3
    await rig.assert_exactly_once(quarantined=2)


STEPS = [
    (action, moment)
    for action in ("commit", "insert", "quarantine", "close")
    for moment in ("before", "after")
]


class CrashedError(BaseException):
    """Ends a partition's task at a step, as the end of the process would."""


@pytest.mark.parametrize(("action", "moment"), STEPS)
@pytest.mark.parametrize("which", [1, 3])
async def test_a_crash_at_any_step_loses_and_doubles_nothing(
    rig: Rig, action: str, moment: str, which: int
) -> None:
    crashed = asyncio.Event()
    count = 0

    def crash(partition: Partition, at: str, when: str) -> None:
        nonlocal count
        if crashed.is_set() or (at, when) == (action, moment):
            count += 1
            if count >= which:
                crashed.set()
                raise asyncio.CancelledError

    worker = rig.worker(crash)
    ends = [await rig.send(20, bad=1) for _ in range(3)]
    async with asyncio.timeout(30):
        while not crashed.is_set():
            ends.append(await rig.send(5))
            await asyncio.sleep(0.01)
    await kill(worker)
    worker = rig.worker()
    await rig.stored(*ends[-1])
    await worker.close(Deadline(CLOCK, 10))
    await rig.assert_exactly_once(quarantined=3)


async def test_an_open_range_is_completed_by_recovery_alone(rig: Rig) -> None:
    def crash(partition: Partition, at: str, when: str) -> None:
        if (at, when) == ("insert", "before"):
            raise asyncio.CancelledError

    worker = rig.worker(crash)
    partition, next_ = await rig.send(10)
    async with asyncio.timeout(10):
        while (
            (found := await rig.log.committed(rig.name, partition)) is None
            or (metadata := decode_metadata(found.metadata)) is None
            or metadata.intent is None
        ):
            await asyncio.sleep(0.01)
    await kill(worker)
    idle = rig.worker()
    await kill(idle)
    await idle.recover([rig.datasource])
    committed = await rig.log.committed(rig.name, partition)
    assert committed is not None
    settled = decode_metadata(committed.metadata)
    assert settled is not None
    assert (committed.position, settled.intent) == (next_, None)
    await rig.assert_exactly_once()


async def test_rows_that_clickhouse_refuses_go_to_quarantine_and_the_rest_is_stored(
    rig: Rig,
) -> None:
    await rig.engine.execute(
        Statement(sql=f"ALTER TABLE {rig.name} ADD CONSTRAINT small CHECK id != 7 AND id != 60")
    )
    worker = rig.worker()
    partition, next_ = await rig.send(100, bad=1)
    await rig.stored(partition, next_)
    await worker.close(Deadline(CLOCK, 10))
    assert await rig.one("SELECT count(), uniqExact(__offset) FROM EV") == ["98", "98"]
    assert await rig.one("SELECT sum(n) FROM EV_view_target") == ["98"]
    found = await rig.one("SELECT __offset FROM EV_quarantine FINAL ORDER BY __offset")
    assert found == ["7", "60", "100"]
    why = await rig.one("SELECT any(c__error[1]) FROM EV_quarantine WHERE __offset = 7")
    assert "CONSTRAINT" in " ".join(why).upper()


async def test_a_failing_view_holds_the_partition_and_nothing_is_doubled_when_it_is_mended(
    rig: Rig,
) -> None:
    await rig.engine.execute(
        Statement(
            sql=f"CREATE MATERIALIZED VIEW {rig.name}_bad TO {rig.name}_view_target AS"
            f" SELECT toUInt32(throwIf(id >= 0)) AS m, toUInt64(0) AS n FROM {rig.name}"
        )
    )
    worker = rig.worker()
    partition, next_ = await rig.send(40, bad=1)
    async with asyncio.timeout(20):
        while rig.faulty.inserts < 3:
            await asyncio.sleep(0.02)
    assert not await rig.progress.reached(partition, next_, 0.05)
    await rig.engine.execute(Statement(sql=f"DROP VIEW {rig.name}_bad"))
    await rig.stored(partition, next_)
    await worker.close(Deadline(CLOCK, 10))
    await rig.assert_exactly_once(quarantined=1)


async def test_stopping_flushes_what_was_read(rig: Rig) -> None:
    rig.limits = BatchLimits(max_age_s=60)
    worker = rig.worker()
    partition, next_ = await rig.send(10)
    async with asyncio.timeout(10):
        while not any(
            not p.intake.is_empty
            for r in worker._running.values()
            for p in r.pipeline._partitions.values()
        ):
            await asyncio.sleep(0.01)
    await worker.close(Deadline(CLOCK, 10))
    await rig.assert_exactly_once()
    committed = await rig.log.committed(rig.name, partition)
    assert committed is not None and committed.position == next_


async def test_many_batches_in_flight_keep_their_order_and_count(rig: Rig) -> None:
    rig.limits = BatchLimits(max_rows=500, max_age_s=0.02)
    worker = rig.worker()
    for _ in range(30):
        end = await rig.send(300, bad=1)
    await rig.stored(*end)
    await worker.close(Deadline(CLOCK, 10))
    await rig.assert_exactly_once(quarantined=30)


def test_every_failure_class_is_one_that_the_protocol_knows() -> None:
    assert issubclass(InsertRetriableError, InsertFailureError)
