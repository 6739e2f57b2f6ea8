"""Topics with more than plain records, and with more than one reader."""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import AsyncIterator

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.record.util import calc_crc32c
from msgspec import structs

from deploy import ddl
from ingest.chunk import Partition
from shared.clickhouse.contract import Statement
from shared.clickhouse.embedded import EmbeddedClickHouse
from shared.clock import SystemClock
from tests.kafka.fixture import KafkaBroker
from tests.kafka.rig import Rig, close, open_rig


@pytest.fixture
async def rig(engine: EmbeddedClickHouse, kafka_broker: KafkaBroker) -> AsyncIterator[Rig]:
    async with open_rig(engine, kafka_broker, partitions=1) as made:
        yield made


def event(number: int) -> bytes:
    return json.dumps({"id": number, "ts": "2024-01-01 00:00:00"}).encode()


async def test_what_was_aborted_is_not_stored_and_its_offsets_are_passed(rig: Rig) -> None:
    await rig.log.create_topic(rig.topic)
    producer = AIOKafkaProducer(
        bootstrap_servers=rig.connection.bootstrap_servers, transactional_id=rig.group
    )
    await producer.start()
    try:
        for number, is_kept in enumerate((True, False, True, False)):
            await producer.begin_transaction()
            for i in range(3):
                await producer.send_and_wait(rig.topic, event(number * 3 + i), partition=0)
            await (producer.commit_transaction() if is_kept else producer.abort_transaction())
    finally:
        await producer.stop()
    # Twelve records and four markers.
    rig.ends[Partition(rig.topic, 0)] = 16
    worker = rig.worker()
    await rig.stored()
    await close(worker)
    assert await rig.one("SELECT id FROM EV ORDER BY id") == ["0", "1", "2", "6", "7", "8"]
    assert await rig.one("SELECT __offset FROM EV ORDER BY id") == ["0", "1", "2", "8", "9", "10"]
    assert await rig.one("SELECT sum(n) FROM EV_view_target") == ["6"]


async def test_a_header_whose_name_is_no_text_stops_nothing(rig: Rig) -> None:
    await rig.log.create_topic(rig.topic)
    now_ms = SystemClock().now_ms()
    servers = rig.connection.bootstrap_servers
    async with AIOKafkaProducer(bootstrap_servers=servers, acks="all") as producer:
        batch = producer.create_batch()
        for number in range(3):
            name = "name" if number == 1 else "h"
            headers = [(name, b"x")]
            # Of now: the broker removes what is older than its retention.
            batch.append(key=None, value=event(number), timestamp=now_ms, headers=headers)
        batch.close()
        content = bytearray(batch._build())
        content[content.index(b"name")] = 0xFF
        struct.pack_into(">I", content, 17, calc_crc32c(memoryview(content)[21:]))
        batch._buffer = content
        await (await producer.send_batch(batch, rig.topic, partition=0))
    rig.sent, rig.ends[Partition(rig.topic, 0)] = 3, 3
    worker = rig.worker()
    await rig.stored()
    await close(worker)
    await rig.assert_exactly_once()


async def test_two_data_sources_of_one_topic_share_the_table_of_a_view(rig: Rig) -> None:
    first, second = rig.datasource, structs.replace(rig.datasource, name=rig.name + "_second")
    database = rig.engine.database
    view = ddl.ViewDefinition(
        name=f"{second.name}_view",
        target=f"{first.name}_view_target",
        select=f"SELECT toYYYYMM(ts) AS m, count() AS n FROM {second.name} GROUP BY m",
    )
    for sql in (
        ddl.create_quarantine(database, second),
        ddl.create_table(database, second),
        ddl.create_view(database, view),
    ):
        await rig.engine.execute(Statement(sql=sql))
    await rig.send(10, bad=2)
    other = structs.replace(rig, datasource=second, group=rig.group + ".second", entries=[])
    workers = [rig.worker(), other.worker()]
    await asyncio.gather(rig.stored(), other.stored())
    await asyncio.gather(*map(close, workers))
    for of in (rig, other):
        assert await of.one("SELECT count(), uniqExact(__offset) FROM EV") == ["10", "10"]
        assert await of.one("SELECT count() FROM EV_quarantine FINAL") == ["2"]
    assert await rig.one("SELECT sum(n) FROM EV_view_target") == ["20"]
