"""Data sources that name a connection, topic and group of their own."""

from __future__ import annotations

import time
import uuid
from datetime import UTC, datetime

from aiokafka import AIOKafkaProducer

from deploy import ddl
from deploy.feed import Feed
from ingest.batch import BatchLimits
from ingest.chunk import Partition
from ingest.log.kafka_connection import plain_connection
from ingest.log.kafka_watermarks import KafkaWatermarks
from ingest.observe import MetricsObserver
from ingest.progress import Progress
from ingest.worker import Worker, WorkerSettings
from shared.clickhouse.contract import Statement
from shared.clickhouse.embedded import EmbeddedClickHouse
from shared.datafile.datasource import parse_datasource
from shared.datafile.diagnostics import Diagnostics
from shared.datafile.source import source_file
from shared.model.resources import Connection, Datasource
from shared.model.workspace import Workspace
from shared.observe.metrics import Metrics
from shared.settings import Settings
from tests.kafka.fixture import KafkaBroker
from tests.kafka.rig import CLOCK, close


def _datasource(topic: str, name: str) -> Datasource:
    text = f"""
SCHEMA >
    `id` UInt32 `json:$.id`

ENGINE MergeTree
ENGINE_SORTING_KEY __timestamp, id

KAFKA_CONNECTION_NAME cluster
KAFKA_TOPIC {topic}
KAFKA_GROUP_ID {name}
KAFKA_AUTO_OFFSET_RESET earliest
KAFKA_STORE_RAW_VALUE True
KAFKA_STORE_HEADERS True
"""
    diagnostics = Diagnostics()
    parsed = parse_datasource(source_file(f"{name}.datasource", text), diagnostics, {})
    assert parsed is not None, [d.render() for d in diagnostics.sorted()]
    return parsed


def _utc(at_s: int) -> str:
    return f"{datetime.fromtimestamp(at_s, UTC):%Y-%m-%d %H:%M:%S}"


async def test_rows_say_where_they_come_from(
    engine: EmbeddedClickHouse, kafka_broker: KafkaBroker
) -> None:
    name, topic = f"k{uuid.uuid4().hex[:8]}", f"clicks-{uuid.uuid4().hex[:8]}"
    connection = plain_connection(kafka_broker.bootstrap_servers)
    settings = Settings(kafka_bootstrap_servers=kafka_broker.bootstrap_servers)
    feed = Feed(settings, connection)
    named = Connection(
        name="cluster",
        type="kafka",
        settings=(("KAFKA_BOOTSTRAP_SERVERS", kafka_broker.bootstrap_servers),),
    )
    feed.use(Workspace(connections={"cluster": named}))
    datasource = _datasource(topic, name)
    await engine.execute(Statement(sql=ddl.create_quarantine(engine.database, datasource)))
    await engine.execute(Statement(sql=ddl.create_table(engine.database, datasource)))
    await feed.log.topics.create(topic)
    # Not long ago: the broker removes what is older than its retention.
    begun_s = int(time.time()) - 60
    producer = AIOKafkaProducer(**connection.client_options())
    await producer.start()
    for number, value in enumerate([b'{"id": 7}', None, b'{"id": "x"}', b'{ "id": 8 }']):
        await producer.send_and_wait(
            topic,
            value,
            key=b"key" if number else None,
            partition=1,
            timestamp_ms=(begun_s + number) * 1000,
            headers=[("trace", b"t%d" % number)],
        )
    await producer.stop()
    worker = Worker(
        WorkerSettings(limits=BatchLimits(max_age_s=0.05)),
        engine,
        feed.open_source,
        progress=Progress(),
        clock=CLOCK,
        observe=lambda name: MetricsObserver(Metrics(), name),
    )
    worker.start({name: datasource})
    waiting = await feed.log.append(topic, [b'{"id": 9}'])
    try:
        watermarks = KafkaWatermarks(feed.log.topics, lambda _: name)
        partition = Partition(topic, 1)
        assert await watermarks.reached(partition, 4, 30)
        assert await watermarks.reached(waiting.partition, waiting.next, 30)
    finally:
        await close(worker)
        await feed.close()
    found = await engine.fetch(
        Statement(
            sql=f"SELECT * FROM {name} WHERE id != 9 ORDER BY id", format="JSONCompactEachRow"
        )
    )
    assert found.body.decode().splitlines() == [
        f'[7, "{topic}", 1, 0, "{_utc(begun_s)}", "", "{{\\"id\\": 7}}", {{"trace":"t0"}}]',
        f'[8, "{topic}", 1, 3, "{_utc(begun_s + 3)}", "key", "{{ \\"id\\": 8 }}",'
        ' {"trace":"t3"}]',
    ]
    bad = await engine.fetch(
        Statement(sql=f"SELECT __offset, __raw FROM {name}_quarantine", format="TSV")
    )
    assert bad.body == b'2\t{"id": "x"}\n'
