"""The engines that tests of queries run over: the embedded one, and every server there is."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator
from urllib.parse import urlsplit

import pytest

from shared.clickhouse.contract import Statement
from shared.clickhouse.embedded import EmbeddedClickHouse
from shared.clickhouse.server import open_server
from shared.clickhouse.serverengine import ServerClickHouse
from tests.clickhouse_target import opened, targets

DATABASE = "queried"

Target = str | EmbeddedClickHouse
"""The URL of a server, or the embedded engine."""

AnyEngine = EmbeddedClickHouse | ServerClickHouse


@pytest.fixture(scope="module", params=["embedded", *targets()])
def target(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Target]:
    """What the tests of a module run on, one after the other."""
    if request.param == "embedded":
        yield request.getfixturevalue("engine")
        return
    with opened(request.param, tmp_path_factory.mktemp("server")) as url:
        yield url


@contextlib.asynccontextmanager
async def open_target(target: Target) -> AsyncIterator[AnyEngine]:
    """The engine, on the running event loop; on a server in a database that is kept."""
    if not isinstance(target, str):
        yield target
        return
    server = await open_server(target)
    try:
        await server.execute(
            Statement(sql=f"CREATE DATABASE IF NOT EXISTS {DATABASE} ENGINE = Atomic")
        )
    finally:
        await server.close()
    server = await open_server(urlsplit(target)._replace(path=f"/{DATABASE}").geturl())
    try:
        yield server
    finally:
        await server.close()


@pytest.fixture
async def either(target: Target) -> AsyncIterator[AnyEngine]:
    """The engine under test."""
    async with open_target(target) as found:
        yield found
