"""Fixtures that several folders share.

One process runs one embedded engine at a time, so the engine is opened once a module and closed
with it; what needs an engine of its own runs in a process of its own.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator

import pytest

from shared.clickhouse.contract import Statement
from shared.clickhouse.embedded import EmbeddedClickHouse, open_embedded
from shared.clickhouse.sql import quote_identifier
from tests.kafka.fixture import kafka_broker

__all__ = ["kafka_broker"]

_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedClickHouse]:
    """An embedded engine; usable from any event loop."""
    opened = asyncio.run(open_embedded(tmp_path_factory.mktemp("clickhouse")))
    yield opened
    asyncio.run(opened.close())


@pytest.fixture
async def database(engine: EmbeddedClickHouse) -> AsyncIterator[str]:
    """The name of an empty database that goes with the test."""
    name = f"test_{next(_numbers)}"
    await engine.execute(Statement(sql=f"CREATE DATABASE {quote_identifier(name)} ENGINE = Atomic"))
    yield name
    await engine.execute(Statement(sql=f"DROP DATABASE {quote_identifier(name)} SYNC"))
