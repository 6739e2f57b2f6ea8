"""The OpenAPI document and the page, over the embedded engine."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from query.http.docs import docs_routes
from query.http.pipes import QueryServices, pipes_route
from query.serving import Serving
from shared.auth.tokens import PIPES_READ, AdminTokenStore, Grant, Scope
from shared.clickhouse.contract import Limits, Statement
from shared.clickhouse.embedded import EmbeddedClickHouse
from shared.errors import AuthenticationError
from shared.model.resources import Column, Datasource, Node, Pipe
from shared.model.workspace import Workspace
from shared.observe.metrics import Metrics
from shared.web.app import create_app

ADMIN = "p.admin-token-of-tests"
READER = "p.reader"
BOUND = "p.bound"
TABLE = "docs_events"


class Tokens(AdminTokenStore):
    def grant(self, token: bytes) -> Grant:
        fixed = {"tenant": "acme"} if token == BOUND.encode() else {}
        if token in (READER.encode(), BOUND.encode()):
            scope = Scope(type=PIPES_READ, resource="one", fixed_params=fixed)
            return Grant(name="reader", scopes=(scope,))
        return super().grant(token)


def workspace(**pipes: str) -> Workspace:
    columns = (Column(name="tenant", type="String"), Column(name="n", type="UInt8"))
    return Workspace(
        datasources={TABLE: Datasource(name=TABLE, columns=columns)},
        pipes={
            name: Pipe(
                name=name,
                nodes=(Node(name="answer", sql=sql, kind="endpoint", is_template=True),),
            )
            for name, sql in pipes.items()
        },
    )


ONE = f"SELECT n, toNullable(tenant) AS t FROM {TABLE} WHERE tenant = {{{{String(tenant)}}}}"


class Client(httpx.AsyncClient):
    async def document(self, token: str = ADMIN, **headers: str) -> Any:
        answer = await self.get(
            "/v0/pipes/openapi.json", headers={"Authorization": f"Bearer {token}", **headers}
        )
        assert answer.status_code == 200, answer.text
        return answer.json()


@pytest.fixture
async def serving(engine: EmbeddedClickHouse) -> AsyncIterator[Serving]:
    create = f"CREATE TABLE {TABLE} (tenant String, n UInt8) ENGINE = MergeTree ORDER BY n"
    await engine.execute(Statement(sql=create))
    made = Serving(engine.parse)
    made.replace(workspace(one=ONE, two="SELECT 1 AS x"), {})
    yield made
    await engine.execute(Statement(sql=f"DROP TABLE IF EXISTS {TABLE} SYNC"))


@pytest.fixture
async def client(engine: EmbeddedClickHouse, serving: Serving) -> AsyncIterator[Client]:
    tokens = Tokens(ADMIN)
    services = QueryServices(
        tokens=tokens, serving=serving, clickhouse=engine, metrics=Metrics(), limits=Limits()
    )
    app: Any = create_app([pipes_route(services), *docs_routes(tokens, serving, engine)])
    async with Client(
        transport=httpx.ASGITransport(app), base_url="http://analytics.example:8080"
    ) as opened:
        yield opened


def columns(document: Any, pipe: str) -> dict[str, str]:
    answer = document["paths"][f"/v0/pipes/{pipe}.{{format}}"]["get"]["responses"]["200"]
    row = answer["content"]["application/json"]["schema"]["properties"]["data"]["items"]
    return {name: schema["x-clickhouse-type"] for name, schema in row["properties"].items()}


def parameter_names(document: Any, pipe: str) -> list[str]:
    get = document["paths"][f"/v0/pipes/{pipe}.{{format}}"]["get"]
    return [parameter["name"] for parameter in get["parameters"]]


async def test_columns_have_the_types_of_the_engine(client: Client) -> None:
    document = await client.document()
    assert columns(document, "one") == {"n": "UInt8", "t": "Nullable(String)"}


async def test_a_token_finds_what_it_may_read(client: Client) -> None:
    assert list((await client.document())["paths"]) == [
        "/v0/pipes/one.{format}",
        "/v0/pipes/two.{format}",
        "/v0/sql",
    ]
    found = await client.document(READER)
    assert [path for path in found["paths"] if path != "/v0/sql"] == ["/v0/pipes/one.{format}"]
    assert parameter_names(found, "one") == ["tenant"]


async def test_what_a_token_fixes_is_hidden(client: Client) -> None:
    assert parameter_names(await client.document(BOUND), "one") == []


async def test_a_release_changes_the_document(client: Client, serving: Serving) -> None:
    before = await client.document()
    serving.replace(workspace(one=f"SELECT tenant FROM {TABLE}"), {})
    after = await client.document()
    assert columns(after, "one") == {"tenant": "String"}
    assert after["info"]["version"] != before["info"]["version"]


async def test_an_endpoint_whose_table_is_gone_is_described_without_columns(
    client: Client, engine: EmbeddedClickHouse
) -> None:
    await engine.execute(Statement(sql=f"DROP TABLE {TABLE} SYNC"))
    document = await client.document()
    get = document["paths"]["/v0/pipes/one.{format}"]["get"]
    schema = get["responses"]["200"]["content"]["application/json"]["schema"]
    assert schema["properties"]["data"]["items"] == {"type": "object"}
    assert columns(document, "two") == {"x": "UInt8"}


@pytest.mark.parametrize(
    ("headers", "server"),
    [
        ({}, "http://analytics.example:8080"),
        ({"X-Forwarded-Proto": "https"}, "https://analytics.example:8080"),
        ({"X-Forwarded-Proto": "javascript"}, "http://analytics.example:8080"),
        ({"Host": "[::1]:7181"}, "http://[::1]:7181"),
        ({"Host": "o'host"}, "/"),
    ],
)
async def test_the_server_is_where_the_caller_found_it(
    client: Client, headers: dict[str, str], server: str
) -> None:
    assert (await client.document(**headers))["servers"] == [{"url": server}]


async def test_without_a_token_nothing_is_said(client: Client) -> None:
    answer = await client.get("/v0/pipes/openapi.json")
    assert answer.status_code == 403
    with pytest.raises(AuthenticationError):
        Tokens(ADMIN).grant(b"other")


async def test_the_document_stands_beside_the_endpoints(client: Client) -> None:
    answer = await client.get("/v0/pipes/two.json", params={"token": ADMIN})
    assert answer.json()["data"] == [{"x": 1}]
    for path in ("/v0/pipes/openapi.json", "/v0/pipes/openapi.json/"):
        found = await client.get(path, params={"token": ADMIN})
        assert found.json()["openapi"] == "3.1.0"
    head = await client.head("/v0/pipes/openapi.json", params={"token": ADMIN})
    assert (head.status_code, head.content) == (200, b"")


async def test_the_root_leads_to_the_page(client: Client) -> None:
    for answer in (await client.get("/"), await client.head("/")):
        assert answer.status_code == 302
        assert answer.headers["location"] == "docs"


async def test_the_page_may_load_its_own_parts_only(client: Client) -> None:
    for path in ("/docs", "/docs/", "/docs/docs.js", "/docs/docs.css", "/docs/icon.svg"):
        answer = await client.get(path)
        assert answer.status_code == 200, path
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"
    assert (await client.get("/docs/errors")).status_code == 200
    assert (await client.get("/docs/other.js")).status_code == 404
