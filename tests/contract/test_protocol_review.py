"""Between two steps that are right: late threads, lost leases, and an audit to be fooled."""

from __future__ import annotations

import asyncio
import inspect
import re
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from msgspec import structs

from deploy import ddl
from deploy.operate.audit import AuditArguments, audit
from deploy.operate.feeds import feed_checks
from deploy.operate.partitions import (
    PartitionsArguments,
    ResolveArguments,
    list_partitions,
    resolve,
)
from deploy.operate.services import Feed, OperatorServices
from ingest.batch import BatchLimits
from ingest.chunk import Chunk, Partition
from ingest.held import LeaseLostError
from ingest.landing import Landing
from ingest.lease import take_lease
from ingest.log.facts import LocalLogFacts
from ingest.log.local import open_local_log
from ingest.memory import MemoryBudget
from ingest.messages import decode_metadata
from ingest.replay import Replay, ReplayNeeds
from ingest.replay_store import Selection
from ingest.worker import Worker, schema_revision
from shared.clickhouse import failures
from shared.clickhouse.contract import Insert, Run, Statement, Summary
from shared.clickhouse.embedded import EmbeddedClickHouse
from shared.clock import Deadline
from shared.errors import BadRequestError, ConflictError, UnavailableError
from shared.model.resources import Column, Datasource
from tests.contract.delivery_rig import CLOCK, FaultyEngine, Rig, kill
from tests.contract.operate_rig import execute, open_operate_rig, services


@pytest.fixture
async def rig(engine: EmbeddedClickHouse, tmp_path: Path) -> AsyncIterator[Rig]:
    async with open_operate_rig(engine, tmp_path) as made:
        yield made


async def finish(rig: Rig, worker: Worker) -> None:
    await worker.close(Deadline(CLOCK, 10))
    assert rig.recorder is not None
    await rig.recorder.flush()


class SlowEngine(FaultyEngine):
    """The first insert waits for its turn until nobody asks for it any more."""

    def __init__(self, rig: Rig) -> None:
        super().__init__(rig.engine, rig.name)
        self.waits = asyncio.Event()
        self.late: Insert | None = None

    async def insert(self, insert: Insert) -> Summary:
        if insert.table == self._table and self.late is None:
            self.late = insert
            self.waits.set()
            await asyncio.Event().wait()
        return await super().insert(insert)


async def test_an_insert_that_waited_longer_than_its_assignment_is_not_sent(rig: Rig) -> None:
    slow = rig.faulty = SlowEngine(rig)
    partition, next_ = await rig.send(10)
    first = rig.worker()
    async with asyncio.timeout(10):
        await slow.waits.wait()
    await kill(first)
    second = rig.worker()
    await rig.stored(partition, next_)
    # By now the partition is held once more in this process; the old insert gets its turn.
    assert slow.late is not None
    with pytest.raises(LeaseLostError):
        list(slow.late.block.json_lines())
    await finish(rig, second)
    await rig.assert_exactly_once()


async def test_to_resolve_a_partition_leaves_other_data_sources_running(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ingest.worker.DEDUPLICATION_WINDOW", 0)
    other = structs.replace(rig.datasource, name=rig.name + "_other")
    for name in (other.name, other.name + "_quarantine"):
        await execute(rig, f"CREATE TABLE {name} AS {name.replace('_other', '')}")
    worker = await held(rig)
    worker.start({rig.name: rig.datasource, other.name: other})
    running = worker._running[other.name].task
    arguments = ResolveArguments(datasource=rig.name, partition=0, way="skip")
    await resolve(services(rig, worker), arguments)
    assert sorted(worker._running) == sorted([rig.name, other.name])
    assert worker._running[other.name].task is running
    await rig.stored(*await rig.send(5))
    await finish(rig, worker)


async def held(rig: Rig) -> Worker:
    """A partition of whose range the table has a part, and whose token nobody trusts."""
    slow = rig.faulty = SlowEngine(rig)
    partition, _ = await rig.send(10)
    worker = rig.worker()
    async with asyncio.timeout(10):
        await slow.waits.wait()
    await kill(worker)
    stream = rig.log.stream(partition.topic)
    await execute(
        rig,
        "INSERT INTO EV (id, ts, __stream, __partition, __offset)"
        f" SELECT number, toDateTime('2024-01-01 00:00:00'), {stream}, 0, number FROM numbers(4)"
        " SETTINGS insert_allow_materialized_columns = 1",
    )
    worker = rig.worker()
    async with asyncio.timeout(10):
        while not worker.held:  # noqa: ASYNC110 - it comes to it in tasks of its own
            await asyncio.sleep(0.01)
    assert rig.recorder is not None
    await rig.recorder.flush()
    return worker


async def test_rows_that_were_left_out_of_a_second_reading_are_missed_when_they_go(
    rig: Rig,
) -> None:
    worker = rig.worker()
    partition, next_ = await rig.send(10)
    await rig.stored(partition, next_)
    await finish(rig, worker)
    # An operator moves the group back; everything is read again, and left out.
    group = rig.name
    committed = await rig.log.committed(group, partition)
    assert committed is not None and decode_metadata(committed.metadata) is not None
    await rig.log.commit(group, partition, 0, "")
    await execute(rig, "TRUNCATE TABLE pipehouse.ingest_ledger")
    worker = rig.worker()
    await rig.stored(*await rig.send(5))
    await finish(rig, worker)
    await rig.assert_exactly_once()
    result = await audit(services(rig), AuditArguments(rig.name))
    assert result.is_ok, result
    await execute(rig, "ALTER TABLE EV DROP PARTITION 202401")
    result = await audit(services(rig), AuditArguments(rig.name))
    (found,) = result.datasources[0].partitions[0].verdict.findings
    assert (found.kind, sum(r.next - r.first for r in found.offsets)) == ("missing", 8)


async def test_offsets_that_lie_in_many_parts_are_found_as_what_they_are(rig: Rig) -> None:
    worker = rig.worker()
    for count in (7, 1, 10):
        partition, next_ = await rig.send(count)
        await rig.stored(partition, next_)
    await finish(rig, worker)
    await execute(rig, "DELETE FROM EV WHERE __offset IN (3, 4)")
    landing = Landing(rig.engine, rig.datasource, 100)
    stored = await landing.stored_from(rig.log.stream(partition.topic), 0, 1)
    assert stored == (Run(1, 2), Run(5, 13))


class _StealingLog(LocalLogFacts):
    """While it is read, another process takes the lease of the repair."""

    rig: Rig

    async def read(self, partition: Partition, first: int, next_: int) -> Sequence[Chunk]:
        name = f"repair of {self.rig.engine.database}.{self.rig.name}"
        async with take_lease(self.rig.engine, CLOCK, name, "another"):
            pass
        return await super().read(partition, first, next_)


async def test_a_repair_that_lost_its_lease_stores_nothing(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = rig.worker()
    await rig.stored(*await rig.send(10))
    await finish(rig, worker)
    await execute(rig, "ALTER TABLE EV DETACH PARTITION 202401")
    await execute(rig, "TRUNCATE TABLE pipehouse.ingest_ledger")
    monkeypatch.setattr("ingest.lease.LEASE_MS", -1)
    facts = _StealingLog(rig.log)
    facts.rig = rig

    def feed(datasource: Datasource) -> Feed:
        return Feed(topic=f"events.{datasource.name}", group=datasource.name, log=facts)

    operator: OperatorServices = structs.replace(services(rig), feed=feed)
    with pytest.raises(ConflictError, match="ran out and was taken"):
        await audit(operator, AuditArguments(rig.name, repair=True))
    assert await rig.one("SELECT count() FROM EV") == ["5"]


async def test_the_codes_of_the_policy_are_those_that_the_engine_means(rig: Rig) -> None:
    text = inspect.getsource(failures)
    named = {int(code): name for code, name in re.findall(r"(\d+),  # ([A-Z0-9_]{4,})", text)}
    assert len(named) > 70
    codes = ", ".join(map(str, named))
    found = await rig.one(f"SELECT errorCodeToName(arrayJoin([{codes}]))")
    assert found == list(named.values())


async def test_many_partitions_with_a_backlog_are_read_within_the_memory_there_is(
    rig: Rig, tmp_path: Path
) -> None:
    log = open_local_log(tmp_path / "wide")
    rig.log, rig.limits = log, BatchLimits(max_rows=500, max_age_s=0.05)
    try:
        topic = f"events.{rig.name}"
        await log.create_topic(topic, partitions=30)
        value = b'{"id": 1, "ts": "2024-01-01 00:00:00", "more": "' + b"x" * 1_000 + b'"}'
        ends: dict[Partition, int] = {}
        for _ in range(240):
            appended = await log.append(topic, [value] * 100)
            ends[appended.partition] = appended.next
        most = 0

        def watch(partition: Partition, action: str, moment: str) -> None:
            nonlocal most
            pipeline = worker._running[rig.name].pipeline
            most = max(most, sum(p.held_bytes for p in pipeline._partitions.values()))

        worker = rig.idle_worker(watch)
        worker._memory = MemoryBudget(2 << 20)
        worker.start({rig.name: rig.datasource})
        for partition, next_ in ends.items():
            await rig.stored(partition, next_)
        await finish(rig, worker)
        assert await rig.one("SELECT count(), uniqExact(__partition, __offset) FROM EV") == [
            "24000",
            "24000",
        ]
        # 24 MB wait in the log; one poll may come on top of what is allowed.
        assert 1 << 20 < most < 13 << 20
    finally:
        await log.close()


async def test_a_log_that_ends_before_the_position_is_shown_as_held_and_cannot_be_skipped(
    rig: Rig,
) -> None:
    partition, next_ = await rig.send(3)
    worker = rig.worker()
    await rig.stored(partition, next_)
    await finish(rig, worker)
    committed = await rig.log.committed(rig.name, partition)
    assert committed is not None
    await rig.log.commit(rig.name, partition, 50, committed.metadata)
    worker = rig.worker()
    async with asyncio.timeout(10):
        while not worker.held:  # noqa: ASYNC110 - it comes to it in tasks of its own
            await asyncio.sleep(0.01)
    await finish(rig, worker)
    listed = await list_partitions(services(rig), PartitionsArguments(rig.name))
    assert "the log ends at 3" in listed.partitions[0].held_because
    assert not (await audit(services(rig), AuditArguments(rig.name))).is_ok
    arguments = ResolveArguments(datasource=rig.name, partition=0, way="skip")
    with pytest.raises(BadRequestError, match="no open range"):
        await resolve(services(rig), arguments)


async def test_a_pipeline_that_stopped_is_said_until_it_goes_on(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deploy.operate.feeds.STOPPING_MS", 1_000)
    assert rig.recorder is not None
    await rig.send(0, bad=12_000)
    worker = rig.idle_worker()
    worker._settings = structs.replace(worker._settings, max_quarantine_ratio=0.5)
    worker.start({rig.name: rig.datasource})
    await worker.check()
    async with asyncio.timeout(20):
        await asyncio.wait({worker._running[rig.name].task})
    with pytest.raises(UnavailableError, match=r"latest .* rows are bad"):
        await worker.check()
    await finish(rig, worker)
    said = [c.text for c in await feed_checks(services(rig), rig.datasource) if c.level == "bad"]
    assert any("stopped reading" in text for text in said)
    worker = rig.worker()
    async with asyncio.timeout(20):
        while said:
            await rig.stored(*await rig.send(5))
            await rig.recorder.flush()
            checks = await feed_checks(services(rig), rig.datasource)
            said = [check.text for check in checks if check.level == "bad"]
    await worker.check()
    await finish(rig, worker)
    await rig.assert_exactly_once(quarantined=12_000)


async def test_a_replay_that_was_cut_off_does_not_double_what_was_read_again_meanwhile(
    rig: Rig,
) -> None:
    worker = rig.worker()
    partition, next_ = await rig.send(4, bad=2)
    await rig.stored(partition, next_)
    await finish(rig, worker)
    # By now the records are good.
    mended = rig.datasource = structs.replace(
        rig.datasource,
        columns=(Column(name="id", type="String", jsonpath="$.id"), *rig.datasource.columns[1:]),
    )
    await execute(rig, "DROP VIEW EV_view")
    await execute(rig, "DROP TABLE EV SYNC")
    await rig.engine.execute(Statement(sql=ddl.create_table(rig.engine.database, mended)))
    await rig.log.commit(rig.name, partition, 0, "")

    def cut(step: str) -> None:
        if step == "insert":
            raise RuntimeError("the process ends here")

    needs = ReplayNeeds(
        clickhouse=rig.engine, clock=CLOCK, window=100_000, holder="test", on_step=cut
    )
    with pytest.raises(RuntimeError):
        await Replay(mended, schema_revision(mended), needs).run(Selection())
    worker = rig.worker()
    await rig.stored(*await rig.send(1))
    await finish(rig, worker)
    assert await rig.one("SELECT count(), uniqExact(__offset) FROM EV") == ["7", "7"]
    needs = structs.replace(needs, on_step=lambda step: None)
    await Replay(mended, schema_revision(mended), needs).run(Selection())
    assert await rig.one("SELECT count(), uniqExact(__offset) FROM EV") == ["7", "7"]


async def test_a_ledger_of_many_pages_proves_as_much_as_one_page(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deploy.operate.evidence.PAGE_ENTRIES", 3)
    monkeypatch.setattr("deploy.operate.evidence.BUNDLE_BATCHES", 2)
    worker = rig.worker()
    for _ in range(8):
        await rig.stored(*await rig.send(2, bad=1))
    await finish(rig, worker)
    # What was quarantined is known to the ledger alone by now.
    await execute(rig, "TRUNCATE TABLE EV_quarantine")
    (result,) = (await audit(services(rig), AuditArguments(rig.name))).datasources
    assert result.is_proven, result
    verdict = result.partitions[0].verdict
    assert (verdict.stored, verdict.not_rows) == (16, 8)
    await execute(rig, "ALTER TABLE EV DELETE WHERE __offset = 21 SETTINGS mutations_sync = 2")
    (result,) = (await audit(services(rig), AuditArguments(rig.name))).datasources
    assert [f.kind for f in result.partitions[0].verdict.findings] == ["missing"]
