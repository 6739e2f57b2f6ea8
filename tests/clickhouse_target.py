"""Which ClickHouse server tests use: a given one, one in Docker, else the stand-in.

In this order: ``PIPEHOUSE_TEST_CLICKHOUSE_URL``; containers of the current long-term release and of
the newest one, where a Docker engine answers; the stand-in.
"""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.standin.process import Standin

ENVIRONMENT = "PIPEHOUSE_TEST_CLICKHOUSE_URL"
IMAGES = ("clickhouse/clickhouse-server:25.8", "clickhouse/clickhouse-server:latest")

_USER, _PASSWORD = "admin", "admin-secret"
_READY_S = 60


def docker_answers() -> bool:
    """Whether a Docker engine can be used."""
    if "DOCKER_HOST" not in os.environ and not Path("/var/run/docker.sock").exists():
        return False
    docker: Any = importlib.import_module("docker")

    try:
        client = docker.from_env(timeout=2)
    except docker.errors.DockerException:
        return False
    with contextlib.closing(client):
        try:
            return bool(client.ping())
        except docker.errors.DockerException:
            return False


@contextlib.contextmanager
def container(image: str) -> Iterator[str]:
    """A server in a container; yields its URL."""
    from testcontainers.core.container import DockerContainer
    from testcontainers.core.wait_strategies import HttpWaitStrategy

    started = (
        DockerContainer(image)
        .with_env("CLICKHOUSE_USER", _USER)
        .with_env("CLICKHOUSE_PASSWORD", _PASSWORD)
        .with_env("CLICKHOUSE_DEFAULT_ACCESS_MANAGEMENT", "1")
        .with_exposed_ports(8123, 9000)
        .waiting_for(HttpWaitStrategy(8123, "/ping").with_startup_timeout(_READY_S))
    )
    with started:
        host = started.get_container_host_ip()
        port, http_port = started.get_exposed_port(9000), started.get_exposed_port(8123)
        yield (
            f"clickhouse://{_USER}:{_PASSWORD}@{host}:{port}/default?http_port={http_port}&secure=0"
        )


def targets() -> list[str]:
    """What tests of a server run on: an environment variable's name, images or ``standin``."""
    if ENVIRONMENT in os.environ:
        return [ENVIRONMENT]
    return list(IMAGES) if docker_answers() else ["standin"]


@contextlib.contextmanager
def opened(target: str, folder: Path) -> Iterator[str]:
    """The URL of a target's server, which runs meanwhile.

    Args:
        target: One of ``targets``.
        folder: Where a stand-in keeps its data.
    """
    if target == ENVIRONMENT:
        yield os.environ[ENVIRONMENT]
    elif target == "standin":
        with Standin(folder) as standin:
            yield standin.url()
    else:
        with container(target) as url:
            yield url


@pytest.fixture(scope="session", params=targets())
def clickhouse_server_url(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """The URL of a server's administrator; every test makes databases of its own."""
    with opened(request.param, tmp_path_factory.mktemp("server")) as url:
        yield url
