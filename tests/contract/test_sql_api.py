"""Free SQL and explanations over HTTP, as clients send and read them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any, cast
from urllib.parse import quote

import httpx
import pytest

from query.http.pipes import QueryServices, pipes_route
from query.http.sql import sql_route
from query.serving import Serving
from shared.auth.tokens import DATASOURCES_READ, PIPES_READ, Grant, Scope
from shared.clickhouse.contract import Limits, Statement
from shared.model.resources import Column, Datasource, Node, Pipe
from shared.model.workspace import Workspace
from shared.observe.metrics import Metrics
from shared.web.app import create_app
from tests.contract.endpoint_rig import ADMIN, Tokens
from tests.contract.engines import AnyEngine, either, target

__all__ = ["either", "target"]

TENANT = Grant(
    name="tenant",
    scopes=(
        Scope(type=DATASOURCES_READ, resource="visits", filter="org = 1"),
        Scope(type=PIPES_READ, resource="top", fixed_params={"least": 2}),
    ),
)


def _workspace() -> Workspace:
    node = Node(
        name="answer",
        kind="endpoint",
        is_template=True,
        sql="SELECT n FROM visits WHERE n >= {{Int32(least, 0)}} ORDER BY n{{max_threads(2)}}",
    )
    columns = (Column(name="org", type="Int32"), Column(name="n", type="UInt64"))
    return Workspace(
        datasources={"visits": Datasource(name="visits", columns=columns)},
        pipes={"top": Pipe(name="top", nodes=(node,))},
    )


@pytest.fixture
async def client(either: AnyEngine) -> AsyncIterator[httpx.AsyncClient]:
    for sql in (
        "CREATE OR REPLACE TABLE visits (org Int32, n UInt64) ENGINE = MergeTree ORDER BY (org, n)",
        "INSERT INTO visits SELECT number % 2, number FROM numbers(6)",
    ):
        await either.execute(Statement(sql=sql))
    serving = Serving(either.parse, either.database)
    serving.replace(_workspace(), {})
    tokens = Tokens()
    tokens.grants[b"tenant"] = TENANT
    services = QueryServices(
        tokens=tokens,
        serving=serving,
        clickhouse=either,
        metrics=Metrics(),
        limits=Limits(max_time_s=5.0, max_result_bytes=10_000_000),
    )
    app = create_app([pipes_route(services), sql_route(services)])
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app=cast(Any, app)),
        base_url="http://test",
        headers={"Authorization": f"Bearer {ADMIN}", "Accept-Encoding": "identity"},
    ) as found:
        yield found


def _as(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


async def test_sql_is_taken_from_wherever_clients_put_it(client: httpx.AsyncClient) -> None:
    sql = "SELECT count() AS c FROM visits"
    sent = [
        await client.get("/v0/sql", params={"q": sql}),
        await client.post("/v0/sql", params={"q": sql}),
        await client.post("/v0/sql", data={"q": sql}),
        await client.post("/v0/sql", json={"q": sql}),
        await client.post("/v0/sql", content=sql),
        await client.post(
            "/v0/sql",
            content=sql,
            headers={"content-type": "application/x-www-form-urlencoded"},
        ),
    ]
    assert [(r.status_code, r.text) for r in sent] == [(200, "6\n")] * 6
    assert sent[0].headers["content-type"] == "text/plain"


async def test_a_format_is_named_in_the_sql(client: httpx.AsyncClient) -> None:
    sql = "SELECT n FROM visits ORDER BY n LIMIT 1 FORMAT JSON"
    answer = await client.get("/v0/sql", params={"q": sql})
    assert answer.headers["content-type"].startswith("application/json")
    assert answer.json()["data"] == [{"n": 0}]
    quoted = {"q": sql, "output_format_json_quote_64bit_integers": "1"}
    assert (await client.get("/v0/sql", params=quoted)).json()["data"] == [{"n": "0"}]
    refused = await client.get("/v0/sql", params={"q": "SELECT 1 FORMAT Protobuf"})
    assert refused.status_code == 400
    assert refused.json()["error"].startswith("FORMAT Protobuf is not offered. Known: JSON,")
    for sql in ("SELECT 1 FORMAT csv SETTINGS max_threads=1", "SELECT 1 -- x\nFORMAT Csv;"):
        assert (await client.get("/v0/sql", params={"q": sql})).text == "1\n"


async def test_parameters_reach_the_sql_and_the_pipes_it_reads(client: httpx.AsyncClient) -> None:
    query = {"q": "% SELECT count() FROM top WHERE n < {{Int32(below)}}", "below": "5"}
    assert (await client.get("/v0/sql", params=query)).text == "5\n"
    assert (await client.get("/v0/sql", params={**query, "least": "3"})).text == "2\n"
    body = {"q": query["q"], "below": 5, "least": 4}
    assert (await client.post("/v0/sql", json=body)).text == "1\n"
    missing = await client.get("/v0/sql", params={"q": query["q"]})
    assert (missing.status_code, missing.json()["errors"][0]["parameter"]) == (400, "below")


async def test_the_result_of_a_pipeline_has_a_short_name(client: httpx.AsyncClient) -> None:
    query = {"q": "SELECT max(n) FROM _", "pipeline": "top"}
    assert (await client.get("/v0/sql", params=query)).text == "5\n"
    assert (
        (await client.get("/v0/sql", params={**query, "pipeline": "tip"}))
        .json()["error"]
        .startswith("Pipe 'tip' not found")
    )


async def test_columns_are_described(client: httpx.AsyncClient) -> None:
    answer = await client.get("/v0/sql", params={"q": "DESCRIBE TABLE visits FORMAT JSONEachRow"})
    found = [json.loads(line) for line in answer.text.splitlines()]
    assert [(column["name"], column["type"]) for column in found] == [
        ("org", "Int32"),
        ("n", "UInt64"),
    ]


@pytest.mark.parametrize(
    ("sql", "status", "text"),
    [
        ("SELECT count() FROM visits", 200, "3\n"),
        ("SELECT min(n) FROM top", 200, "3\n"),
        ("SELECT * FROM visit", 404, "Resource 'visit' not found. Did you mean 'visits'?"),
        ("SELECT * FROM system.tables", 403, "'system.tables' cannot be read here."),
        ("SELECT * FROM visits_quarantine", 403, "sees some rows of its data source"),
        ("DROP TABLE visits", 400, "Only SELECT statements can be run."),
        ("INSERT INTO visits VALUES (1, 2)", 400, "Only SELECT statements can be run."),
        ("SELECT (", 400, "Syntax error"),
        ("SELEC", 400, "failed at position 1 (SELEC): SELEC. Maybe you meant: SELECT."),
        ("1 + 1", 400, "Syntax error"),
        ("SELECT nope FROM visits", 400, "nope"),
    ],
)
async def test_a_token_with_a_row_filter_is_answered(
    client: httpx.AsyncClient, sql: str, status: int, text: str
) -> None:
    query = {"q": sql, "least": "0"}
    answer = await client.get("/v0/sql", params=query, headers=_as("tenant"))
    assert answer.status_code == status
    assert text in (answer.text if status == 200 else answer.json()["error"])


async def test_other_methods_say_what_is_possible(client: httpx.AsyncClient) -> None:
    head = await client.head("/v0/sql", params={"q": "SELECT 1"})
    assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", "2")
    options = await client.options("/v0/sql")
    assert (options.status_code, options.headers["allow"]) == (204, "GET, HEAD, POST, OPTIONS")


async def test_who_has_no_token_gets_403_and_no_sql_400(client: httpx.AsyncClient) -> None:
    assert (await client.get("/v0/sql?q=SELECT+1", headers=_as("nobody"))).status_code == 403
    assert (await client.get("/v0/sql")).status_code == 400
    assert (await client.delete("/v0/sql")).status_code == 405


async def test_sql_that_is_longer_than_the_engine_takes_is_413(client: httpx.AsyncClient) -> None:
    for sql in (f"SELECT 1 IN ({'1,' * 140_000}1)", "SELECT '" + "x" * 280_000):
        answer = await client.post("/v0/sql", content=sql, headers=_as("tenant"))
        assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
        assert answer.json()["error"].startswith("The SQL is longer than ClickHouse takes, 256 KB")


async def test_an_explanation_says_what_a_request_would_do(client: httpx.AsyncClient) -> None:
    answer = await client.get("/v0/pipes/top/explain", params={"least": "3"})
    found = answer.json()
    assert answer.status_code == 200
    assert "n >= {p1:Int32}" in found["sql"] and found["bindings"] == {"p1": 3}
    assert found["settings"] == {"max_threads": 2}
    assert (found["tables"], found["filtered"], found["rows"]) == (["visits"], False, 6)
    assert ("visits", "PrimaryKey") in {(i["table"], i["type"]) for i in found["indexes"]}


async def test_an_explanation_counts_what_the_token_fixes(client: httpx.AsyncClient) -> None:
    answer = await client.get("/v0/pipes/top/explain?least=0", headers=_as("tenant"))
    found = answer.json()
    assert (found["bindings"], found["filtered"]) == ({"p1": 2}, True)
    assert "org = 1" not in json.dumps(found["settings"])
    refused = await client.get(f"/v0/pipes/{quote('other')}/explain", headers=_as("tenant"))
    assert refused.status_code == 403
