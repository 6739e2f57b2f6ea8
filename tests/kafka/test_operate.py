"""What operators ask, where the log is a real Kafka broker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from deploy.operate.audit import AuditArguments, DatasourceAudit, audit
from deploy.operate.doctor import DoctorArguments, doctor
from deploy.operate.quarantine import ReplayArguments, replay_quarantine
from deploy.operate.ranges import size
from deploy.operate.services import Feed, OperatorServices
from deploy.operate.trace import TraceArguments, trace
from ingest.chunk import Partition
from ingest.ledger import Ledger
from ingest.log.facts import Position
from ingest.log.kafka_connection import plain_connection
from ingest.log.kafka_facts import KafkaLogFacts
from shared.clickhouse.contract import Statement
from shared.clickhouse.embedded import EmbeddedClickHouse
from shared.errors import ConflictError, LogUnavailableError
from tests.kafka.fixture import KafkaBroker
from tests.kafka.rig import CLOCK, Rig, close, open_rig


@pytest.fixture
async def rig(engine: EmbeddedClickHouse, kafka_broker: KafkaBroker) -> AsyncIterator[Rig]:
    async with open_rig(engine, kafka_broker) as made:
        yield made


@pytest.fixture
async def facts(rig: Rig) -> AsyncIterator[KafkaLogFacts]:
    made = KafkaLogFacts(rig.connection)
    yield made
    await made.close()


def services(rig: Rig, facts: KafkaLogFacts) -> OperatorServices:
    return OperatorServices(
        clickhouse=rig.engine,
        clock=CLOCK,
        # Tables of other tests are in the same database.
        feed=lambda d: Feed(topic=f"events.{d.name}", group=f"test.{d.name}", log=facts),
    )


async def deliver(rig: Rig, *counts: tuple[int, int]) -> None:
    worker = rig.worker()
    for good, bad in counts:
        await rig.send(good, bad=bad)
    await rig.stored()
    await close(worker)
    ledger = Ledger(rig.engine)
    await ledger.prepare()
    await ledger.write(rig.entries, worker="test")


async def audited(rig: Rig, facts: KafkaLogFacts) -> DatasourceAudit:
    result = await audit(services(rig, facts), AuditArguments(rig.name))
    return result.datasources[0]


async def test_what_was_delivered_from_kafka_is_proven_and_lost_rows_are_named(
    rig: Rig, facts: KafkaLogFacts
) -> None:
    await deliver(rig, (200, 3), (100, 0))
    proven = await audited(rig, facts)
    assert proven.is_proven, proven
    assert sum(p.verdict.stored for p in proven.partitions) == 300
    assert sum(p.verdict.quarantined for p in proven.partitions) == 3
    await rig.engine.execute(Statement(sql=f"ALTER TABLE {rig.name} DETACH PARTITION 202402"))
    lost = await audited(rig, facts)
    missing = [f for p in lost.partitions for f in p.verdict.findings]
    assert {f.kind for f in missing} == {"missing"}
    assert sum(size(f.offsets) for f in missing) == 150
    await audit(services(rig, facts), AuditArguments(rig.name, repair=True))
    assert (await audited(rig, facts)).is_proven
    await rig.assert_exactly_once(quarantined=3)


async def test_records_of_kafka_are_traced_and_unread_ones_counted(
    rig: Rig, facts: KafkaLogFacts
) -> None:
    await deliver(rig, (20, 0))
    (partition,) = rig.ends
    asked = f"{rig.topic}:{partition.number}:"
    stored = await trace(services(rig, facts), TraceArguments(asked + "7"))
    later = await trace(services(rig, facts), TraceArguments(asked + "20"))
    assert stored.sightings[0].place == "stored"
    assert later.sightings[0].place == "not written"


async def test_a_replay_stores_quarantined_records_of_kafka_once(
    rig: Rig, facts: KafkaLogFacts
) -> None:
    await deliver(rig, (10, 2))
    await rig.engine.execute(
        Statement(
            sql=f"ALTER TABLE {rig.name}_quarantine UPDATE"
            ' __raw = format(\'{{"id": {}, "ts": "2024-01-01 00:00:00"}}\', 1000 + __offset)'
            " WHERE 1 SETTINGS mutations_sync = 1"
        )
    )
    arguments = ReplayArguments(datasource=rig.name)
    first = await replay_quarantine(services(rig, facts), arguments)
    second = await replay_quarantine(services(rig, facts), arguments)
    assert (first.stored, second.stored) == (2, 0)
    rig.sent += 2
    await rig.assert_exactly_once()
    assert (await audited(rig, facts)).is_proven


async def test_the_doctor_knows_how_safe_the_topic_is(rig: Rig, facts: KafkaLogFacts) -> None:
    await deliver(rig, (10, 0))
    result = await doctor(services(rig, facts), DoctorArguments(rig.name))
    texts = {c.subject: c.text for c in result.checks if c.level == "warning"}
    assert "one broker only" in texts[rig.topic]
    traits = await facts.traits(rig.topic)
    assert traits.retention_s == 7 * 24 * 3600
    assert (await facts.traits("no.such.topic")).replication_factor is None
    assert await facts.partitions("no.such.topic") == ()


async def move_when_empty(
    rig: Rig, facts: KafkaLogFacts, partition: Partition, position: Position
) -> None:
    """Move once the broker knows that the last member has left."""
    async with asyncio.timeout(60):
        while True:
            try:
                return await facts.move(rig.group, partition, position)
            except ConflictError:
                await asyncio.sleep(0.2)


async def test_the_position_of_a_group_is_moved_only_while_nobody_reads(
    rig: Rig, facts: KafkaLogFacts
) -> None:
    await deliver(rig, (10, 0))
    (partition,) = rig.ends
    before = (await facts.positions(rig.group, rig.topic))[partition.number]
    await move_when_empty(rig, facts, partition, Position(offset=4, metadata="moved"))
    moved = (await facts.positions(rig.group, rig.topic))[partition.number]
    assert (moved.offset, moved.metadata) == (4, "moved")
    await facts.move(rig.group, partition, before)
    worker = rig.worker()
    await rig.send(5)
    await rig.stored()
    with pytest.raises(ConflictError, match="still read"):
        await facts.move(rig.group, partition, before)
    await close(worker)


async def test_a_cluster_that_does_not_answer_is_told_in_one_line() -> None:
    facts = KafkaLogFacts(plain_connection("127.0.0.1:1"))
    with pytest.raises(LogUnavailableError, match=r"topic .t.: no connection to 127\.0\.0\.1:1\."):
        await facts.partitions("t")
    await facts.close()
