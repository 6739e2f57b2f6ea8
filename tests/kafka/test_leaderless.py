"""A cluster of two brokers of which one is gone: its partitions have no leader."""

from __future__ import annotations

import uuid
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError
from structlog.testing import capture_logs

from deploy.kafka.artifacts import broker_artifacts
from deploy.kafka.broker import HOST, Broker, free_ports, server_properties
from ingest.chunk import Partition
from ingest.source import kafka
from shared.clickhouse.embedded import EmbeddedClickHouse
from tests.kafka.fixture import KafkaBroker, start_broker
from tests.kafka.rig import Rig, close, open_rig, until


@pytest.fixture
def first(tmp_path: Path) -> Iterator[Broker]:
    (tmp_path / "first").mkdir()
    broker = start_broker(tmp_path / "first")
    yield broker
    broker.kill()


@pytest.fixture
def second(first: Broker, tmp_path: Path) -> Iterator[Broker]:
    """A broker that joins the cluster of the first when it is started."""
    folder = tmp_path / "second"
    (folder / "data").mkdir(parents=True)
    broker = Broker(folder, free_ports(), broker_artifacts())
    properties = server_properties(folder, broker.ports, None) | {
        "process.roles": "broker",
        "node.id": "2",
        "controller.quorum.voters": f"1@{HOST}:{first.ports.controller}",
        "listeners": f"PLAINTEXT://{HOST}:{broker.ports.plain}",
    }
    lines = [f"{key}={value}\n" for key, value in properties.items()]
    (folder / "server.properties").write_text("".join(lines))
    meta = (first.folder / "data" / "meta.properties").read_text().splitlines()
    mine = [line for line in meta if not line.startswith(("node.id", "directory.id"))]
    directory_id = urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
    mine += ["node.id=2", f"directory.id={directory_id}"]
    (folder / "data" / "meta.properties").write_text("\n".join(mine))
    yield broker
    broker.kill()


@pytest.fixture
async def rig(engine: EmbeddedClickHouse, first: Broker) -> AsyncIterator[Rig]:
    async with open_rig(engine, KafkaBroker(first.bootstrap_servers, first)) as made:
        yield made


async def test_a_partition_without_a_leader_does_not_keep_the_others_from_being_read(
    rig: Rig, second: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka, "_LONGEST_PAUSE_S", 1.0)
    # The commits of the group stay with the first broker.
    await rig.log.topics.committed(rig.group, [Partition(rig.topic, 0)])
    second.start()
    admin = AIOKafkaAdminClient(**rig.connection.client_options())
    await admin.start()
    places = {0: [1], 1: [2]}
    await admin.create_topics([NewTopic(rig.topic, -1, -1, replica_assignments=places)])
    while len(rig.ends) < 2:
        await rig.send(10)
    second.kill()

    async def has_no_leader() -> bool:
        try:
            (found,) = await admin.describe_topics([rig.topic])
        except KafkaError:
            # It asked the one that is gone.
            return False
        return {p["partition"]: p["leader"] for p in found["partitions"]} == {0: 1, 1: -1}

    await until(has_no_leader)
    await admin.close()
    gone = Partition(rig.topic, 1)
    ends = rig.ends.copy()
    del rig.ends[gone]
    with capture_logs() as logs:
        worker = rig.worker()
        await rig.stored()

        async def is_told() -> bool:
            return any(line["event"] == "partitions_without_answer" for line in logs)

        await until(is_told)
    told = [line for line in logs if line["event"] == "partitions_without_answer"]
    assert told[0]["partitions"] == {1: "no leader"}
    assert len(told) <= 2
    assert await rig.one("SELECT DISTINCT __partition FROM EV") == ["0"]
    rig.ends = ends
    second.start()
    await rig.stored()
    await close(worker)
    await rig.assert_exactly_once()
