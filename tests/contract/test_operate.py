"""What operators ask, on a real engine and log: audit, trace, quarantine and its replay."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from msgspec import structs

from deploy.operate.audit import AuditArguments, DatasourceAudit, audit
from deploy.operate.feeds import feed_checks
from deploy.operate.partitions import (
    PartitionsArguments,
    ResolveArguments,
    list_partitions,
    resolve,
)
from deploy.operate.quarantine import (
    ListArguments,
    PurgeArguments,
    ReplayArguments,
    ShowArguments,
    list_quarantine,
    purge_quarantine,
    replay_quarantine,
    show_quarantine,
)
from deploy.operate.ranges import Range
from deploy.operate.trace import Sighting, TraceArguments, trace
from ingest.chunk import Partition
from ingest.ledger import Ledger, LedgerEntry
from ingest.replay import Replay, ReplayNeeds, ReplayReport
from ingest.replay_store import Selection
from ingest.worker import Worker, schema_revision
from shared.clickhouse.contract import Capabilities, ClickHouse, Insert, Summary
from shared.clickhouse.embedded import EmbeddedClickHouse
from shared.clickhouse.failures import InsertRetriableError
from shared.clock import Deadline
from shared.errors import BadRequestError, ConflictError, NotFoundError
from shared.model.identity import DEDUPLICATION_WINDOW
from tests.clickhouse_target import opened, targets
from tests.contract.delivery_rig import CLOCK, Rig, kill
from tests.contract.operate_rig import execute, open_operate_rig, services

EVERYWHERE = pytest.mark.parametrize("target", ["embedded", *targets()], indirect=True)


@pytest.fixture(scope="module")
def target(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str | EmbeddedClickHouse]:
    """The embedded engine, unless a test asks for the URL of a server."""
    param = getattr(request, "param", "embedded")
    if param == "embedded":
        yield request.getfixturevalue("engine")
        return
    with opened(param, tmp_path_factory.mktemp("server")) as url:
        yield url


@pytest.fixture
async def rig(target: str | EmbeddedClickHouse, tmp_path: Path) -> AsyncIterator[Rig]:
    async with open_operate_rig(target, tmp_path) as made:
        yield made


async def deliver(rig: Rig, *counts: tuple[int, int]) -> Partition:
    """Store batches of (good, bad) records and write the ledger."""
    worker = rig.worker()
    for good, bad in counts:
        partition, next_ = await rig.send(good, bad=bad)
        await rig.stored(partition, next_)
    await worker.close(Deadline(CLOCK, 10))
    assert rig.recorder is not None
    await rig.recorder.flush()
    return partition


async def audited(rig: Rig) -> DatasourceAudit:
    result = await audit(services(rig), AuditArguments(rig.name))
    assert len(result.datasources) == 1
    assert result.is_ok == result.datasources[0].is_ok
    return result.datasources[0]


def found(audit: DatasourceAudit) -> list[tuple[str, tuple[Range, ...]]]:
    return [(f.kind, f.offsets) for p in audit.partitions for f in p.verdict.findings]


# Audit ----------------------------------------------------------------------------------------


@EVERYWHERE
async def test_what_was_delivered_is_proven(rig: Rig) -> None:
    await deliver(rig, (100, 3), (50, 0))
    result = await audited(rig)
    assert result.is_proven, result
    (partition,) = result.partitions
    verdict = partition.verdict
    assert (verdict.checked, verdict.stored, verdict.quarantined) == (Range(0, 153), 150, 3)
    assert (verdict.waiting, verdict.in_flight, verdict.not_rows) == (0, None, 0)


async def test_without_any_ledger_the_tables_prove_it_too(rig: Rig) -> None:
    await deliver(rig, (100, 3))
    await execute(rig, "TRUNCATE TABLE pipehouse.ingest_ledger")
    assert (await audited(rig)).is_proven


async def test_a_row_that_is_gone_is_named(rig: Rig) -> None:
    await deliver(rig, (100, 0))
    await execute(rig, "DELETE FROM EV WHERE __offset IN (7, 8, 40)")
    result = await audited(rig)
    assert found(result) == [("missing", (Range(7, 9), Range(40, 41)))]
    assert "deleted by statements" in result.partitions[0].verdict.findings[0].reason
    assert not result.is_ok


@EVERYWHERE
async def test_a_missing_row_is_found_without_ledger_by_asking_the_log(rig: Rig) -> None:
    await deliver(rig, (100, 0))
    await execute(rig, "TRUNCATE TABLE pipehouse.ingest_ledger")
    await execute(rig, "DELETE FROM EV WHERE __offset = 7")
    assert found(await audited(rig)) == [("missing", (Range(7, 8),))]


@EVERYWHERE
async def test_a_row_that_is_there_twice_is_named(rig: Rig) -> None:
    await deliver(rig, (100, 0))
    await execute(
        rig,
        "INSERT INTO EV (id, ts, __stream, __partition, __offset)"
        " SELECT id, ts, __stream, __partition, __offset FROM EV WHERE __offset IN (3, 4)"
        " SETTINGS insert_allow_materialized_columns = 1",
    )
    assert found(await audited(rig)) == [("doubled", (Range(3, 5),))]


async def test_rows_ahead_of_a_position_that_was_moved_back_are_named(rig: Rig) -> None:
    partition = await deliver(rig, (60, 0), (40, 0))
    committed = await rig.log.committed(rig.name, partition)
    assert committed is not None
    await rig.log.commit(rig.name, partition, 60, committed.metadata)
    assert found(await audited(rig)) == [("ahead", (Range(60, 100),))]


async def test_an_open_range_is_in_flight_and_no_problem(rig: Rig) -> None:
    await deliver(rig, (10, 0))
    stopped = asyncio.Event()

    def stop(partition: Partition, at: str, when: str) -> None:
        if (at, when) == ("insert", "after"):
            stopped.set()
            raise asyncio.CancelledError

    worker = rig.worker(stop)
    await rig.send(20)
    async with asyncio.timeout(10):
        await stopped.wait()
    await kill(worker)
    result = await audited(rig)
    verdict = result.partitions[0].verdict
    assert verdict.in_flight is not None and verdict.in_flight.first == 10
    assert verdict.in_flight_stored > 0
    assert result.is_ok


async def test_what_was_not_read_yet_is_counted_and_no_problem(rig: Rig) -> None:
    await deliver(rig, (10, 0))
    await rig.send(5)
    result = await audited(rig)
    assert (result.is_proven, result.partitions[0].verdict.waiting) == (True, 5)


async def test_a_recorded_gap_is_named_as_lost(rig: Rig) -> None:
    partition = await deliver(rig, (10, 0))
    await execute(rig, "DELETE FROM EV WHERE __offset IN (4, 5)")
    await execute(rig, "TRUNCATE TABLE pipehouse.ingest_ledger")
    gap = LedgerEntry(
        kind="gap",
        datasource=rig.name,
        topic=partition.topic,
        partition=partition.number,
        stream=rig.log.stream(partition.topic),
        first=4,
        next=6,
        at_ms=CLOCK.now_ms(),
        note="retention removed them before they were read",
    )
    await Ledger(rig.engine).write([gap], worker="test")
    assert found(await audited(rig)) == [("lost", (Range(4, 6),))]


async def test_purged_quarantine_is_no_gap_where_the_ledger_knows_it(rig: Rig) -> None:
    await deliver(rig, (10, 3))
    await execute(rig, "TRUNCATE TABLE EV_quarantine")
    result = await audited(rig)
    assert (result.is_proven, result.partitions[0].verdict.not_rows) == (True, 3)


# Trace ----------------------------------------------------------------------------------------


async def traced(rig: Rig, offset: int, partition: int = 0) -> Sighting:
    result = await trace(services(rig), TraceArguments(f"events.{rig.name}:{partition}:{offset}"))
    (sighting,) = result.sightings
    return sighting


@EVERYWHERE
async def test_a_record_is_traced_to_where_it_is(rig: Rig) -> None:
    await deliver(rig, (10, 1))
    await rig.send(1)
    stored, refused = await traced(rig, 4), await traced(rig, 10)
    assert (stored.place, stored.table) == ("stored", rig.name)
    assert stored.token.startswith(f"ph1:{rig.name}:")
    assert refused.place == "quarantined"
    assert "id: " in refused.detail
    assert (await traced(rig, 11)).place == "not read"
    assert (await traced(rig, 12)).place == "not written"


async def test_a_record_that_should_be_there_and_is_not_is_missing(rig: Rig) -> None:
    await deliver(rig, (10, 0))
    await execute(rig, "DELETE FROM EV WHERE __offset = 4")
    assert (await traced(rig, 4)).place == "missing"


async def test_unknown_topics_partitions_and_forms_are_told(rig: Rig) -> None:
    await deliver(rig, (1, 0))
    for text in ("nothing:0:1", f"events.{rig.name}:7:1"):
        with pytest.raises(NotFoundError):
            await trace(services(rig), TraceArguments(text))
    with pytest.raises(BadRequestError):
        await trace(services(rig), TraceArguments("events:x:1"))


# Quarantine -----------------------------------------------------------------------------------


async def test_quarantine_is_counted_by_reason_and_shown_by_filter(rig: Rig) -> None:
    await deliver(rig, (10, 3))
    listed = (await list_quarantine(services(rig), ListArguments(rig.name))).datasources[0]
    assert (listed.rows, listed.reasons[0].column, listed.reasons[0].rows) == (3, "id", 3)

    async def shown(**filters: object) -> list[int]:
        arguments = ShowArguments(datasource=rig.name, **filters)  # type: ignore[arg-type]
        result = await show_quarantine(services(rig), arguments)
        return sorted(row.offset for row in result.rows)

    assert await shown() == [10, 11, 12]
    assert await shown(first=11, next=12) == [11]
    assert await shown(column="ts") == []
    assert await shown(reason=listed.reasons[0].message[2:9].upper()) == [10, 11, 12]
    assert await shown(partition=3) == []
    assert await shown(since="2100-01-01") == []
    assert await shown(until="2100-01-01", limit=2) == [11, 12]


@EVERYWHERE
async def test_a_purge_needs_to_be_confirmed(rig: Rig) -> None:
    await deliver(rig, (10, 3))
    with pytest.raises(BadRequestError, match="3 rows"):
        await purge_quarantine(services(rig), PurgeArguments(datasource=rig.name))
    arguments = PurgeArguments(datasource=rig.name, next=12, yes=True)
    assert (await purge_quarantine(services(rig), arguments)).purged == 2
    assert await rig.one("SELECT __offset FROM EV_quarantine FINAL") == ["12"]


# Replay ---------------------------------------------------------------------------------------


async def mend(rig: Rig) -> None:
    """What an operator does about bad events: here the text of the records themselves."""
    await execute(
        rig,
        "ALTER TABLE EV_quarantine UPDATE"
        ' __raw = format(\'{{"id": {}, "ts": "2024-01-01 00:00:00"}}\', 1000 + __offset)'
        " WHERE __offset % 2 = 0 SETTINGS mutations_sync = 1",
    )


async def replayed(rig: Rig, **filters: object) -> ReplayReport:
    arguments = ReplayArguments(datasource=rig.name, **filters)  # type: ignore[arg-type]
    return await replay_quarantine(services(rig), arguments)


async def assert_each_once(rig: Rig, good: int, replayed_rows: int, left: int) -> None:
    total = str(good + replayed_rows)
    assert await rig.one("SELECT count(), uniqExact(__offset) FROM EV") == [total, total]
    assert await rig.one("SELECT sum(n) FROM EV_view_target") == [total]
    assert await rig.one("SELECT count() FROM EV_quarantine FINAL") == [str(left)]
    assert (await audited(rig)).is_proven


async def test_mended_rows_are_stored_once_however_often_it_is_run(rig: Rig) -> None:
    await deliver(rig, (10, 4))
    await mend(rig)
    checked = await replayed(rig, check=True)
    assert (checked.stored, checked.still_bad) == (2, 2)
    assert await rig.one("SELECT count() FROM EV") == ["10"]
    first, second = await replayed(rig), await replayed(rig)
    assert (first.stored, first.still_bad) == (2, 2)
    assert (second.stored, second.still_bad) == (0, 2)
    await assert_each_once(rig, 10, 2, 2)


async def test_rows_that_are_still_bad_get_a_fresh_reason(rig: Rig) -> None:
    await deliver(rig, (10, 1))
    await execute(
        rig,
        'ALTER TABLE EV_quarantine UPDATE __raw = \'{"id": 5, "ts": "soon"}\' WHERE 1'
        " SETTINGS mutations_sync = 1",
    )
    assert (await replayed(rig)).still_bad == 1
    assert await rig.one("SELECT c__error_column[1] FROM EV_quarantine FINAL") == ["ts"]


@EVERYWHERE
async def test_rows_that_clickhouse_refuses_stay_and_the_others_go_in(rig: Rig) -> None:
    await deliver(rig, (10, 4))
    await mend(rig)
    await execute(rig, "ALTER TABLE EV ADD CONSTRAINT c CHECK id != 1010")
    report = await replayed(rig)
    assert (report.stored, report.still_bad) == (1, 3)
    await assert_each_once(rig, 10, 1, 3)


async def test_rows_of_an_open_range_are_left_for_later(rig: Rig) -> None:
    partition = await deliver(rig, (10, 4))
    await mend(rig)
    await rig.log.commit(rig.name, partition, 12, "")
    report = await replayed(rig)
    assert (report.stored, report.in_flight) == (1, 2)


STEPS = ("tidy", "announce", "insert", "acknowledge", "release", "done")


@EVERYWHERE
@pytest.mark.parametrize("step", STEPS)
async def test_a_replay_that_is_cut_off_at_any_step_is_completed_by_the_next(
    rig: Rig, step: str
) -> None:
    await deliver(rig, (10, 4))
    await mend(rig)

    def cut(at: str) -> None:
        if at == step:
            raise asyncio.CancelledError

    needs = ReplayNeeds(
        clickhouse=rig.engine,
        clock=CLOCK,
        window=DEDUPLICATION_WINDOW,
        holder="test",
        on_step=cut,
    )
    replay = Replay(rig.datasource, schema_revision(rig.datasource), needs)
    with pytest.raises(asyncio.CancelledError):
        await replay.run(Selection())
    await replayed(rig)
    await replayed(rig)
    await assert_each_once(rig, 10, 2, 2)


@EVERYWHERE
async def test_a_cut_off_replay_whose_token_is_forgotten_looks_at_the_table(rig: Rig) -> None:
    await deliver(rig, (10, 4))
    await mend(rig)

    def cut(at: str) -> None:
        if at == "acknowledge":
            raise asyncio.CancelledError

    revision = schema_revision(rig.datasource)
    needs = ReplayNeeds(clickhouse=rig.engine, clock=CLOCK, window=0, holder="test", on_step=cut)
    with pytest.raises(asyncio.CancelledError):
        await Replay(rig.datasource, revision, needs).run(Selection())
    needs = ReplayNeeds(clickhouse=rig.engine, clock=CLOCK, window=0, holder="test")
    report = await Replay(rig.datasource, revision, needs).run(Selection())
    assert "not verified" in report.notes[0]
    await assert_each_once(rig, 10, 2, 2)


class CrashedServer:
    """The engine as a plain server that died at an insert: it knows the token and has no rows."""

    def __init__(self, engine: ClickHouse, table: str) -> None:
        self._engine = engine
        self._table = table
        self.dies = True
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> object:
        return getattr(self._engine, name)

    @property
    def capabilities(self) -> Capabilities:
        return structs.replace(self._engine.capabilities, repairs_orphans=False)

    async def kill(self, query_id_prefix: str) -> None:
        self.calls.append(f"kill {query_id_prefix}")
        await self._engine.kill(query_id_prefix)

    async def insert(self, insert: Insert) -> Summary:
        if insert.table != self._table:
            return await self._engine.insert(insert)
        self.calls.append(f"insert {insert.token}:")
        if self.dies:
            raise InsertRetriableError("the server died")
        return Summary(boot_id="after")


async def test_a_replay_that_the_server_only_takes_for_stored_leaves_quarantine_as_it_is(
    rig: Rig,
) -> None:
    await deliver(rig, (10, 4))
    await mend(rig)
    server = CrashedServer(rig.engine, rig.name)
    needs = ReplayNeeds(
        clickhouse=server,  # type: ignore[arg-type]  # passes the rest of the contract on
        clock=CLOCK,
        window=DEDUPLICATION_WINDOW,
        holder="test",
    )
    revision = schema_revision(rig.datasource)
    with pytest.raises(InsertRetriableError):
        await Replay(rig.datasource, revision, needs).run(Selection())
    server.dies = False
    for _ in range(2):
        report = await Replay(rig.datasource, revision, needs).run(Selection())
        assert (report.is_ok, report.stored) == (False, 0)
        assert "the table does not hold them" in report.notes[0]
    assert await rig.one("SELECT count() FROM EV_quarantine FINAL") == ["4"]
    # Nothing of an earlier attempt may run beside the next one.
    inserts = [call.removeprefix("insert ") for call in server.calls if "insert" in call]
    assert server.calls[1:] == [f"{what} {inserts[0]}" for what in ("kill", "insert")] * 2
    # Once the token is forgotten they go in.
    needs = structs.replace(needs, clickhouse=rig.engine, window=0)
    assert (await Replay(rig.datasource, revision, needs).run(Selection())).stored == 2
    await assert_each_once(rig, 10, 2, 2)


# Repair ---------------------------------------------------------------------------------------


async def lose_a_part(rig: Rig) -> None:
    """What a crash of a server can do: rows are gone, their token is not, no statement says so."""
    await execute(rig, "ALTER TABLE EV DETACH PARTITION 202401")
    assert await rig.one("SELECT count() FROM EV") == ["50"]


@EVERYWHERE
async def test_lost_rows_are_stored_again_past_the_views(rig: Rig) -> None:
    await deliver(rig, (100, 2))
    await lose_a_part(rig)
    assert not (await audited(rig)).is_ok
    result = await audit(services(rig), AuditArguments(rig.name, repair=True))
    (repaired,) = result.datasources[0].repairs
    assert (repaired.stored, repaired.quarantined, result.is_ok) == (50, 0, True)
    await assert_each_once(rig, 100, 0, 2)
    again = await audit(services(rig), AuditArguments(rig.name, repair=True))
    assert again.datasources[0].repairs == ()
    assert await rig.one("SELECT name FROM system.tables WHERE name LIKE '%__repair'") == []


async def test_rows_that_were_deleted_on_purpose_are_not_brought_back(rig: Rig) -> None:
    await deliver(rig, (100, 0))
    await execute(rig, "DELETE FROM EV WHERE __offset = 5")
    with pytest.raises(ConflictError, match=r"lacks 1 offsets \(5\).*deleted by statements"):
        await audit(services(rig), AuditArguments(rig.name, repair=True))
    assert await rig.one("SELECT count() FROM EV") == ["99"]


# Held partitions ------------------------------------------------------------------------------


async def hold(rig: Rig) -> Worker:
    """A partition whose range lies in the table in part, its token forgotten."""
    stopped = asyncio.Event()

    def stop(partition: Partition, at: str, when: str) -> None:
        if (at, when) == ("insert", "before"):
            stopped.set()
            raise asyncio.CancelledError

    worker = rig.worker(stop)
    partition, _ = await rig.send(10)
    async with asyncio.timeout(10):
        await stopped.wait()
    await kill(worker)
    stream = rig.log.stream(partition.topic)
    await execute(
        rig,
        "INSERT INTO EV (id, ts, __stream, __partition, __offset)"
        f" SELECT number, toDateTime('2024-01-01 00:00:00'), {stream}, 0, number FROM numbers(4)"
        " SETTINGS insert_allow_materialized_columns = 1",
    )
    for _ in range(4):
        await execute(rig, "INSERT INTO EV (id, ts) SELECT 900, '2024-01-01' FROM numbers(1)")
    worker = rig.worker()
    async with asyncio.timeout(10):
        while not worker.held:  # noqa: ASYNC110 - it comes to it in tasks of its own
            await asyncio.sleep(0.01)
    assert rig.recorder is not None
    await rig.recorder.flush()
    return worker


@pytest.fixture
def forgetful(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables whose memory of tokens nobody relies on."""
    monkeypatch.setattr("ingest.worker.DEDUPLICATION_WINDOW", 2)


@EVERYWHERE
@pytest.mark.usefixtures("forgetful")
async def test_a_held_partition_goes_on_once_its_missing_rows_are_inserted(rig: Rig) -> None:
    worker = await hold(rig)
    operator = services(rig, worker)
    listed = await list_partitions(operator, PartitionsArguments(rig.name))
    assert not listed.is_ok
    assert "only a part" in listed.partitions[0].held_because
    direct = await list_partitions(services(rig), PartitionsArguments(rig.name))
    assert direct.partitions[0].held_because == listed.partitions[0].held_because
    assert "held" in next(c.text for c in await feed_checks(operator, rig.datasource))
    arguments = ResolveArguments(datasource=rig.name, partition=0, way="insert-missing")
    resolved = await resolve(operator, arguments)
    assert resolved.repaired is not None
    assert (resolved.stored_before, resolved.repaired.stored, resolved.gap) == (4, 6, ())
    await rig.stored(*await rig.send(5))
    assert worker.held == {}
    await worker.close(Deadline(CLOCK, 10))
    assert (await audited(rig)).is_proven
    assert await rig.one("SELECT count(), uniqExact(__offset) FROM EV WHERE id != 900") == [
        "15",
        "15",
    ]


@pytest.mark.usefixtures("forgetful")
async def test_a_held_partition_that_is_skipped_leaves_a_recorded_gap(rig: Rig) -> None:
    worker = await hold(rig)
    arguments = ResolveArguments(datasource=rig.name, partition=0, way="skip")
    resolved = await resolve(services(rig, worker), arguments)
    assert resolved.gap == (Range(4, 10),)
    await rig.stored(*await rig.send(5))
    await worker.close(Deadline(CLOCK, 10))
    assert found(await audited(rig)) == [("lost", (Range(4, 10),))]
    assert (await traced(rig, 7)).place == "lost"


async def test_a_partition_that_is_not_held_cannot_be_resolved(rig: Rig) -> None:
    await deliver(rig, (3, 0))
    arguments = ResolveArguments(datasource=rig.name, partition=0, way="skip")
    with pytest.raises(BadRequestError, match="is not held"):
        await resolve(services(rig), arguments)


async def test_a_record_whose_bytes_quarantine_cannot_show_is_not_stored_altered(rig: Rig) -> None:
    await deliver(rig, (10, 1))
    await execute(
        rig,
        "ALTER TABLE EV_quarantine UPDATE"
        ' __raw = \'{"id": 5, "ts": "2024-01-01 00:00:00", "x": "\N{REPLACEMENT CHARACTER}"}\''
        " WHERE 1 SETTINGS mutations_sync = 1",
    )
    assert (await replayed(rig)).still_bad == 1
    shown = await show_quarantine(services(rig), ShowArguments(datasource=rig.name))
    assert "not valid UTF-8" in shown.rows[0].messages[0]


async def test_a_replay_does_not_take_records_of_a_new_topic_for_those_of_the_old_one(
    rig: Rig,
) -> None:
    worker = rig.worker()
    await rig.send(3)
    appended = await rig.log.append(f"events.{rig.name}", [b'{"id": "\xff"}'])
    await rig.stored(appended.partition, appended.next)
    await worker.close(Deadline(CLOCK, 10))
    columns = "__topic, __partition, __offset, __raw, c__error_column, c__error, insertion_date"
    # As if the topic had been another one when it was quarantined.
    await execute(
        rig,
        f"INSERT INTO EV_quarantine ({columns}, __stream) SELECT {columns}, __stream + 1"
        " FROM EV_quarantine SETTINGS insert_allow_materialized_columns = 1",
    )
    assert (await replayed(rig)).still_bad == 2
    gone = "does not have it any more"
    found = await rig.one(
        f"SELECT __stream % 2, c__error[1] LIKE '%{gone}.' FROM EV_quarantine FINAL"
        " ORDER BY __stream"
    )
    assert found[1::2] == ["0", "1"]
