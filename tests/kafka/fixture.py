"""A real broker for tests: one that is given, one in a container, or one of Java artifacts."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec import Struct

from deploy.kafka.broker import Broker, open_broker
from shared.errors import ConfigError

IMAGE = "apache/kafka:4.1.1"


class KafkaBroker(Struct, frozen=True):
    """Where a broker is; ``process`` only where it is ours to stop and kill."""

    bootstrap_servers: str
    process: Broker | None = None


def _has_docker() -> bool:
    docker = shutil.which("docker")
    if docker is None:
        return False
    try:
        done = subprocess.run([docker, "info"], capture_output=True, timeout=10, check=False)
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


@pytest.fixture(scope="session")
def kafka_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaBroker]:
    """A broker for the whole run; topics and groups have names of their own in every test."""
    if given := os.environ.get("PIPEHOUSE_TEST_KAFKA"):
        yield KafkaBroker(given)
        return
    if _has_docker():
        yield from _contained()
        return
    broker = start_broker(tmp_path_factory.mktemp("kafka"))
    try:
        yield KafkaBroker(broker.bootstrap_servers, broker)
    finally:
        broker.stop()


def _contained() -> Iterator[KafkaBroker]:
    from testcontainers.kafka import KafkaContainer

    with KafkaContainer(IMAGE).with_kraft() as container:
        yield KafkaBroker(container.get_bootstrap_server())


def start_broker(folder: Path, *, proxy_port: int | None = None) -> Broker:
    """A broker of Java artifacts, running; skips the test where Java or Maven is missing."""
    try:
        broker = open_broker(folder, proxy_port=proxy_port)
        broker.start()
    except ConfigError as error:
        pytest.skip(f"no Kafka broker to test with: {error}")
    return broker
