"""Fixtures that several folders share.

One process runs one embedded engine at a time, so the engine is opened once a module and closed
with it; what needs an engine of its own runs in a process of its own. Tests that take
``each_engine`` run on it and on every server there is, each in a database of its own.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import uuid
import warnings
from collections.abc import AsyncIterator, Iterator

import pytest
from hypothesis import settings
from msgspec import structs

from deploy.engine import Engine
from shared.clickhouse.contract import ClickHouse, Statement
from shared.clickhouse.embedded import EmbeddedClickHouse, open_embedded
from shared.clickhouse.server import open_server
from shared.clickhouse.sql import quote_identifier
from shared.clickhouse.url import parse_url
from tests.clickhouse_target import opened, targets
from tests.kafka.fixture import kafka_broker

__all__ = ["kafka_broker"]

_numbers = itertools.count(1)

# How long an example takes says more about the machine than about us.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Iterator[None]:
    """Collect connections that the Kafka client dropped, here instead of during another test.

    One that is stopped while it connects leaves the connection to the event loop, and with it to
    the garbage collector, which may come much later; and warnings are errors.
    """
    yield
    if "kafka" in item.nodeid or "faults" in item.nodeid:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            gc.collect()


@pytest.fixture(scope="module")
def embedded_engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedClickHouse]:
    """An embedded engine; usable from any event loop."""
    engine = asyncio.run(open_embedded(tmp_path_factory.mktemp("clickhouse")))
    yield engine
    asyncio.run(engine.close())


@pytest.fixture(scope="module")
def engine(embedded_engine: EmbeddedClickHouse) -> EmbeddedClickHouse:
    """The embedded engine, under the name that a module may take for another one."""
    return embedded_engine


@pytest.fixture(scope="module", params=["embedded", *targets()])
def engine_target(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str | EmbeddedClickHouse]:
    """The embedded engine, or the URL of a server."""
    if request.param == "embedded":
        yield request.getfixturevalue("embedded_engine")
        return
    with opened(request.param, tmp_path_factory.mktemp("server")) as url:
        yield url


@pytest.fixture
async def clickhouse(engine_target: str | EmbeddedClickHouse) -> AsyncIterator[ClickHouse]:
    """Every engine there is; tests make databases of their own."""
    if not isinstance(engine_target, str):
        yield engine_target
        return
    server = await open_server(engine_target)
    yield server
    await server.close()


@pytest.fixture
async def each_engine(engine_target: str | EmbeddedClickHouse) -> AsyncIterator[Engine]:
    """Every engine there is; of a server a database that goes with the test."""
    if not isinstance(engine_target, str):
        yield engine_target
        return
    name = f"test_{uuid.uuid4().hex[:12]}"
    outer = await open_server(engine_target)
    await outer.execute(Statement(sql=f"CREATE DATABASE {name} ENGINE = Atomic"))
    inner = await open_server(structs.replace(parse_url(engine_target), database=name))
    yield inner
    await inner.close()
    await outer.execute(Statement(sql=f"DROP DATABASE {name} SYNC"))
    await outer.close()


@pytest.fixture
async def database(engine: EmbeddedClickHouse) -> AsyncIterator[str]:
    """The name of an empty database that goes with the test."""
    name = f"test_{next(_numbers)}"
    await engine.execute(Statement(sql=f"CREATE DATABASE {quote_identifier(name)} ENGINE = Atomic"))
    yield name
    await engine.execute(Statement(sql=f"DROP DATABASE {quote_identifier(name)} SYNC"))
