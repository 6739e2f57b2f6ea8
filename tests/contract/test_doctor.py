"""Each verdict of the doctor, and beside it what really happens on such a table."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from msgspec import structs

from deploy import ddl
from deploy.operate.audit import AuditArguments, audit
from deploy.operate.doctor import DoctorArguments, DoctorResult, doctor
from deploy.operate.guarantee import Guarantee, Subject, judge
from deploy.operate.services import prefixed_feed
from deploy.operate.tables import read_tables
from deploy.state import read_state
from ingest.batch import make_batch
from ingest.chunk import Chunk, Partition
from ingest.decode import Decoder
from ingest.landing import Landing
from ingest.log.facts import LocalLogFacts, LogTraits
from ingest.log.local import LocalLog
from ingest.messages import Holding
from shared.clickhouse.contract import Capabilities
from shared.clickhouse.embedded import EmbeddedClickHouse
from shared.clock import Deadline
from shared.model.identity import DEDUPLICATION_WINDOW
from shared.model.resources import EngineSpec
from tests.clickhouse_target import opened, targets
from tests.contract.delivery_rig import CLOCK, PLAIN, Rig, open_rig
from tests.contract.operate_rig import execute, on_server, open_operate_rig, services

SPECS = {
    "plain": PLAIN,
    "summing": EngineSpec(name="SummingMergeTree", sorting_key="ts", columns="id"),
    "replacing": EngineSpec(name="ReplacingMergeTree", sorting_key="ts"),
    "ttl": EngineSpec(sorting_key="id", ttl="ts + INTERVAL 1 DAY"),
    "null": EngineSpec(name="Null"),
}


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
async def rig(
    request: pytest.FixtureRequest, target: str | EmbeddedClickHouse, tmp_path: Path
) -> AsyncIterator[Rig]:
    spec = SPECS[getattr(request, "param", "plain")]
    async with open_operate_rig(target, tmp_path, spec) as made:
        yield made


async def asked(rig: Rig) -> DoctorResult:
    return await doctor(services(rig), DoctorArguments(rig.name))


async def verdict(rig: Rig) -> Guarantee:
    (guarantee,) = (await asked(rig)).guarantees
    return guarantee


def expected(rig: Rig, on_embedded: str) -> str:
    """The verdict where everything is right; a plain server may lose a part of a view's table."""
    in_view = f"exactly once in the table, not verifiable in view {rig.name}_view"
    return in_view if on_server(rig) else on_embedded


async def insert(rig: Rig, first: int, ids: list[int], ts: str = "2024-01-01 00:00:00") -> None:
    """The range of these records as delivery inserts it, token and all."""
    partition = Partition(f"events.{rig.name}", 0)
    values = [b'{"id": %d, "ts": "%s"}' % (i, ts.encode()) for i in ids]
    chunk = Chunk(
        partition=partition,
        offsets=range(first, first + len(ids)),
        values=values,
        timestamps_ms=[0] * len(ids),
        next=first + len(ids),
    )
    batch = make_batch(first, chunk.next, [Decoder(rig.datasource).decode(chunk)])
    landing = Landing(rig.engine, rig.datasource, DEDUPLICATION_WINDOW)
    token = f"ph1:{rig.name}:{7:016x}:walk:{first}-{chunk.next}"
    await landing.insert(batch, stream=7, partition=0, token=token)


async def repeat_after_another(rig: Rig) -> None:
    """Insert a range, then another, then the first again: its answer may have been lost."""
    await insert(rig, 0, [1])
    await insert(rig, 1, [2])
    await insert(rig, 0, [1])


async def deliver(rig: Rig, count: int) -> None:
    worker = rig.worker()
    await rig.stored(*await rig.send(count))
    await worker.close(Deadline(CLOCK, 10))
    assert rig.recorder is not None
    await rig.recorder.flush()


@EVERYWHERE
async def test_exactly_once_and_a_repeated_insert_is_stored_once(rig: Rig) -> None:
    assert (await verdict(rig)).verdict == expected(rig, "exactly once")
    assert (await asked(rig)).is_ok
    await repeat_after_another(rig)
    assert await rig.one("SELECT count() FROM EV") == ["2"]
    assert await rig.one("SELECT sum(n) FROM EV_view_target") == ["2"]


@EVERYWHERE
async def test_at_least_once_where_the_table_forgets_and_a_repeated_insert_is_doubled(
    rig: Rig,
) -> None:
    await execute(rig, "ALTER TABLE EV MODIFY SETTING non_replicated_deduplication_window = 1")
    found = await verdict(rig)
    assert (found.verdict, found.level) == ("at least once", "bad")
    assert "remembers 1 inserted parts" in found.reasons[0]
    assert found.fixes == (
        f"ALTER TABLE {rig.name} MODIFY SETTING"
        f" non_replicated_deduplication_window = {DEDUPLICATION_WINDOW}",
    )
    await repeat_after_another(rig)
    assert await rig.one("SELECT count() FROM EV") == ["3"]
    await execute(rig, found.fixes[0])
    assert (await verdict(rig)).verdict == expected(rig, "exactly once")


@EVERYWHERE
async def test_at_least_once_in_a_view_whose_table_forgets_and_only_it_doubles(rig: Rig) -> None:
    await execute(
        rig, "ALTER TABLE EV_view_target MODIFY SETTING non_replicated_deduplication_window = 1"
    )
    found = await verdict(rig)
    assert found.verdict == f"exactly once in the table, at least once in view {rig.name}_view"
    await repeat_after_another(rig)
    assert await rig.one("SELECT count() FROM EV") == ["2"]
    assert await rig.one("SELECT sum(n) FROM EV_view_target") == ["3"]


async def test_not_verifiable_in_a_view_on_a_plain_server_and_a_lost_part_stays_unseen(
    rig: Rig,
) -> None:
    tables = await read_tables(rig.engine, await read_state(rig.engine))
    subject = Subject(
        datasource=rig.datasource,
        table=tables.tables[rig.name],
        views=tables.views(rig.name),
        engine=Capabilities(
            name="server", shares_process=False, repairs_orphans=False, can_cancel=True
        ),
    )
    found = judge(subject)
    assert found.verdict == f"exactly once in the table, not verifiable in view {rig.name}_view"
    # What a crash of the server can leave in the view's table: a token without its rows.
    await deliver(rig, 4)
    await execute(rig, "ALTER TABLE EV_view_target DELETE WHERE 1 SETTINGS mutations_sync = 1")
    assert (await audit(services(rig), AuditArguments(rig.name))).datasources[0].is_proven
    assert await rig.one("SELECT sum(n) FROM EV_view_target") == ["0"]


@pytest.mark.parametrize("rig", ["summing"], indirect=True)
async def test_rows_that_are_added_up_are_stored_once_but_cannot_be_verified(rig: Rig) -> None:
    found = await verdict(rig)
    assert found.verdict == expected(rig, "exactly once, not verifiable")
    assert any("held for an operator" in reason for reason in found.reasons)
    await repeat_after_another(rig)
    assert await rig.one("SELECT sum(id) FROM EV") == ["3"]
    # Nothing tells 1 + 2 from 3, so a range whose token is forgotten is not repeated.
    landing = Landing(rig.engine, rig.datasource, DEDUPLICATION_WINDOW)
    chunk = Chunk(
        partition=Partition("t", 0),
        offsets=[0],
        values=[b'{"id": 1, "ts": "2024-01-01 00:00:00"}'],
        timestamps_ms=[0],
        next=1,
    )
    batch = make_batch(0, 1, [landing.decoder.decode(chunk)])
    assert await landing.holding(batch, 7, 0) is Holding.PART
    result = (await audit(services(rig), AuditArguments(rig.name))).datasources[0]
    assert (result.is_ok, result.is_proven) == (True, False)


@pytest.mark.parametrize("rig", ["replacing"], indirect=True)
async def test_rows_that_are_replaced_cannot_be_verified(rig: Rig) -> None:
    assert (await verdict(rig)).verdict == expected(rig, "exactly once, not verifiable")
    await deliver(rig, 6)
    await execute(rig, "OPTIMIZE TABLE EV FINAL")
    # Two months, so two keys: four of six offsets are gone, and nothing is wrong.
    assert await rig.one("SELECT count() FROM EV") == ["2"]
    result = (await audit(services(rig), AuditArguments(rig.name))).datasources[0]
    assert (result.is_ok, result.is_proven) == (True, False)
    assert "ReplacingMergeTree" in result.notes[0]


@pytest.mark.parametrize("rig", ["ttl"], indirect=True)
async def test_rows_that_expire_cannot_be_verified(rig: Rig) -> None:
    assert (await verdict(rig)).verdict == expected(rig, "exactly once, not verifiable")
    await deliver(rig, 4)
    await execute(rig, "OPTIMIZE TABLE EV FINAL")
    assert await rig.one("SELECT count() FROM EV") == ["0"]
    result = (await audit(services(rig), AuditArguments(rig.name))).datasources[0]
    assert (result.is_ok, result.is_proven) == (True, False)


@pytest.mark.parametrize("rig", ["null"], indirect=True)
async def test_a_null_landing_delivers_to_its_views_once_but_cannot_be_verified(rig: Rig) -> None:
    found = await verdict(rig)
    assert found.verdict == expected(rig, "exactly once, not verifiable")
    await repeat_after_another(rig)
    assert await rig.one("SELECT sum(n) FROM EV_view_target") == ["2"]


@pytest.mark.parametrize("rig", ["null"], indirect=True)
async def test_a_null_landing_whose_view_forgets_is_at_least_once(rig: Rig) -> None:
    await execute(
        rig, "ALTER TABLE EV_view_target MODIFY SETTING non_replicated_deduplication_window = 1"
    )
    assert (await verdict(rig)).verdict == f"at least once in view {rig.name}_view"
    await repeat_after_another(rig)
    assert await rig.one("SELECT sum(n) FROM EV_view_target") == ["3"]


@EVERYWHERE
async def test_a_table_made_anew_is_noticed_and_so_is_one_that_is_gone(rig: Rig) -> None:
    await deliver(rig, 3)
    assert (await asked(rig)).is_ok
    await execute(rig, "DROP TABLE EV SYNC")
    await execute(rig, ddl.create_table(rig.engine.database, rig.datasource))
    result = await asked(rig)
    assert not result.is_ok
    assert any("made anew" in c.text for c in result.checks if c.subject == rig.name)


@EVERYWHERE
async def test_the_engine_and_its_disk_are_looked_at(rig: Rig) -> None:
    checks = {c.subject: c for c in (await asked(rig)).checks}
    assert "answers" in checks["ClickHouse"].text
    assert "GiB" in checks["disk default"].text
    assert checks["power loss"].level == "warning"


class SlowFacts(LocalLogFacts):
    """Answers nobody before two have asked."""

    def __init__(self, log: LocalLog) -> None:
        super().__init__(log)
        self._asked = 0
        self._both = asyncio.Event()

    async def traits(self, topic: str) -> LogTraits:
        self._asked += 1
        if self._asked == 2:
            self._both.set()
        async with asyncio.timeout(20):
            await self._both.wait()
        return await super().traits(topic)


async def test_a_log_that_is_slow_to_answer_is_waited_for_once(rig: Rig, tmp_path: Path) -> None:
    async with open_rig(rig.engine, tmp_path / "other") as other:
        feed = prefixed_feed("events.", "", SlowFacts(rig.log))
        found = await doctor(structs.replace(services(rig), feed=feed), DoctorArguments())
        assert {rig.name, other.name} <= {check.subject for check in found.checks}
