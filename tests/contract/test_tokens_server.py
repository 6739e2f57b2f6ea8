"""Tokens on a ClickHouse server, with a process of its own for each store."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

import pytest
from msgspec import structs

from shared.auth.records import Details
from shared.auth.tokens import DATASOURCES_READ, PIPES_READ, Scope
from shared.clickhouse.contract import ClickHouse
from shared.clickhouse.server import open_server
from shared.errors import AuthenticationError, ConfigError
from tests.clickhouse_target import opened, targets
from tests.contract.tokens_rig import OwnDatabase, open_store

DETAILS = Details(
    scopes=(
        Scope(type=PIPES_READ, resource="top", fixed_params={"tenant": "é'\\\n\t\0"}),
        Scope(type=DATASOURCES_READ, resource="events", filter="a = '\\'' -- x"),
    ),
    description="für 'mich'\n",
)


@pytest.fixture(scope="module", params=targets())
def url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with opened(request.param, tmp_path_factory.mktemp("server")) as found:
        yield found


@pytest.fixture
async def servers(url: str) -> AsyncIterator[Sequence[ClickHouse]]:
    found = [await open_server(url) for _ in range(2)]
    yield found
    for server in found:
        await server.close()


async def test_two_processes_share_tokens_through_a_server(
    servers: Sequence[ClickHouse], tmp_path: Path
) -> None:
    engine = OwnDatabase(servers[0])
    one = await open_store(engine, tmp_path / "1")
    two = await open_store(OwnDatabase(servers[1], engine.database), tmp_path / "2")
    made = await one.create("für 'mich'", DETAILS)
    await two.refresh()
    assert two.records() == [made]
    assert two.grant(one.reveal(made).encode()).scopes == DETAILS.scopes

    renewed = await two.renew("für 'mich'")
    await one.refresh()
    assert one.records() == [renewed]
    with pytest.raises(AuthenticationError):
        one.grant(two.reveal(made).encode())

    await one.change("für 'mich'", lambda r: structs.replace(r, name="b"))
    await two.refresh()
    assert [record.name for record in two.records()] == ["b"]
    await two.remove("b")
    await one.refresh()
    assert one.records() == []
    with pytest.raises(ConfigError, match="another secret"):
        await open_store(engine, tmp_path / "3", secret="another-secret-of-these-tests")
