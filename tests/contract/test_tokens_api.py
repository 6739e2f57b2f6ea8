"""``/v0/tokens`` as clients use it, through the whole app and on a real engine."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from httpx import ASGITransport, AsyncClient, Response
from msgspec import structs

from query.http.pipes import QueryServices, pipes_route
from query.http.sql import sql_route
from query.http.tokens import tokens_route
from query.serving import Serving
from shared.auth.stored import StoredTokens
from shared.clickhouse.contract import Limits, Statement
from shared.clickhouse.embedded import EmbeddedClickHouse
from shared.clickhouse.sql import quote_identifier
from shared.clock import ManualClock
from shared.model.resources import Column, Datasource, Node, Pipe, TokenGrant
from shared.model.workspace import Workspace
from shared.observe.metrics import Metrics
from shared.web.app import create_app
from tests.contract.tokens_rig import ADMIN_TOKEN, OwnDatabase, as_engine, open_store

NOW_S = 1_700_000_000
EVENTS = Datasource(
    name="events", columns=(Column(name="tenant", type="Int32", jsonpath="$.tenant"),)
)
TOP = Pipe(
    name="top",
    nodes=(
        Node(
            name="answer",
            kind="endpoint",
            is_template=True,
            sql="SELECT {{Int32(tenant, 1)}} AS tenant, {{String(city, 'x')}} AS city",
        ),
    ),
    tokens=(TokenGrant("dashboard", "READ"),),
)
WORKSPACE = Workspace(datasources={"events": EVENTS}, pipes={"top": TOP})


class Api:
    """The app, called as the administrator where nothing else is said."""

    def __init__(self, client: AsyncClient, store: StoredTokens, clock: ManualClock) -> None:
        self.client = client
        self.store = store
        self.clock = clock

    async def ask(
        self, method: str, path: str, token: str | None = ADMIN_TOKEN, **options: Any
    ) -> Response:
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        return await self.client.request(method, path, headers=headers, **options)

    async def get(self, path: str, token: str | None = ADMIN_TOKEN) -> Any:
        answer = await self.ask("GET", path, token)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def make(self, name: str, *scopes: str, **fields: Any) -> Any:
        params = {"name": name, "scope": list(scopes), **fields}
        answer = await self.ask("POST", "/v0/tokens", params=params)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def jwt(self, *scopes: dict[str, Any], for_s: int = 60, **body: Any) -> str:
        params = {"name": "j", "expiration_time": NOW_S + for_s}
        answer = await self.ask(
            "POST", "/v0/tokens", params=params, json={"scopes": scopes, **body}
        )
        assert answer.status_code == 200, answer.text
        return str(answer.json()["token"])

    async def status(self, token: str, path: str = "/v0/pipes/top.json") -> int:
        return (await self.ask("GET", path, token)).status_code


@pytest.fixture
async def api(engine: EmbeddedClickHouse, database: str, tmp_path: Path) -> AsyncIterator[Api]:
    own, clock = OwnDatabase(engine, database), ManualClock(NOW_S)
    store = await open_store(own, tmp_path, clock=clock)
    table = f"{quote_identifier(database)}.events"
    await engine.execute(
        Statement(sql=f"CREATE TABLE {table} (tenant Int32) ENGINE = MergeTree ORDER BY tenant")
    )
    serving = Serving(engine.parse)
    serving.replace(WORKSPACE, {})
    await store.apply_workspace(WORKSPACE)
    services = QueryServices(
        tokens=store,
        serving=serving,
        clickhouse=as_engine(own),
        metrics=Metrics(),
        limits=Limits(max_time_s=10),
    )
    app = create_app(
        [pipes_route(services), sql_route(services), tokens_route(store, serving, clock)]
    )
    transport = ASGITransport(app)  # type: ignore[arg-type]
    async with AsyncClient(transport=transport, base_url="http://test") as client:
        yield Api(client, store, clock)


def assert_error(answer: Response, status: int, text: str = "") -> None:
    assert answer.status_code == status, answer.text
    body = answer.json()
    assert text in body["error"]
    assert body["documentation"] == f"/docs/errors#{body['code']}"


# What is there ------------------------------------------------------------------------------------


async def test_the_list_has_the_administrators_token_and_those_of_datafiles(api: Api) -> None:
    for path in ("/v0/tokens", "/v0/tokens/", "/v0/tokens/?from=cli"):
        tokens = (await api.get(path))["tokens"]
        assert [token["name"] for token in tokens] == ["workspace admin token", "dashboard"]
    admin, dashboard = tokens
    assert admin["token"] == ADMIN_TOKEN
    assert admin["scopes"] == [{"type": "ADMIN"}]
    assert dashboard["scopes"] == [{"type": "PIPES:READ", "resource": "top"}]
    assert dashboard["origin"] == {"type": "P", "resource_name": "top"}
    assert dashboard["host"] == "http://test"
    assert dashboard["created_at"] == "2023-11-14 22:13:20.000000"
    assert await api.status(dashboard["token"]) == 200


async def test_a_token_is_found_by_name_and_by_id(api: Api) -> None:
    made = await api.make("für mich", "PIPES:READ:top")
    assert await api.get("/v0/tokens/für mich") == made
    assert await api.get(f"/v0/tokens/{made['id']}") == made
    assert_error(await api.ask("GET", "/v0/tokens/dashbord"), 404, "Did you mean 'dashboard'")


async def test_a_token_may_read_itself_and_learns_nothing_of_others(api: Api) -> None:
    made = await api.make("mine", "PIPES:READ:top")
    for ref in ("mine", made["id"], "me"):
        assert await api.get(f"/v0/tokens/{ref}", made["token"]) == made
    for path in ("", "/dashboard", "/admin", "/nobody"):
        assert_error(await api.ask("GET", f"/v0/tokens{path}", made["token"]), 403, "ADMIN")
    for method in ("DELETE", "PUT"):
        assert_error(await api.ask(method, "/v0/tokens/mine", made["token"]), 403, "ADMIN")
    assert_error(await api.ask("POST", "/v0/tokens/mine/refresh", made["token"]), 403, "ADMIN")
    jwt = await api.jwt({"type": "PIPES:READ", "resource": "top"}, name="mine")
    assert_error(await api.ask("GET", "/v0/tokens/mine", jwt), 403, "ADMIN")
    assert_error(await api.ask("GET", "/v0/tokens/me", jwt), 403, "ADMIN")


async def test_answers_with_secrets_are_kept_by_nobody_on_the_way(api: Api) -> None:
    answer = await api.ask("GET", "/v0/tokens")
    assert answer.headers["cache-control"] == "no-store"
    head = await api.ask("HEAD", "/v0/tokens")
    assert (head.status_code, head.content) == (200, b"")


@pytest.mark.parametrize("token", [None, "", "p.wrong", ADMIN_TOKEN + "x", "a.b.c"])
async def test_without_a_good_token_there_is_nothing(api: Api, token: str | None) -> None:
    for method, path in (("GET", ""), ("POST", ""), ("DELETE", "/dashboard"), ("PUT", "/x")):
        assert_error(await api.ask(method, f"/v0/tokens{path}", token), 403)


async def test_other_methods_and_paths_are_named(api: Api) -> None:
    assert_error(await api.ask("PATCH", "/v0/tokens/dashboard"), 405)
    assert_error(await api.ask("PUT", "/v0/tokens"), 405)
    assert_error(await api.ask("GET", "/v0/tokens/dashboard/refresh"), 405)
    assert_error(await api.ask("POST", "/v0/tokens/dashboard/else"), 404)


# Making and changing ------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["query", "form", "json objects", "json texts", "mixed"])
async def test_a_token_is_made_whatever_way_clients_write_it(api: Api, form: str) -> None:
    plain = {
        "name": "t",
        "description": "d",
        "scope": ["PIPES:READ:top", "DATASOURCES:READ:events:tenant = 1"],
    }
    objects = [
        {"type": "PIPES:READ", "resource": "top"},
        {"type": "DATASOURCES:READ", "resource": "events", "filter": "tenant = 1"},
    ]
    options: dict[str, dict[str, Any]] = {
        "query": {"params": plain},
        "form": {"data": plain},
        "json objects": {"json": {"name": "t", "description": "d", "scopes": objects}},
        "json texts": {"json": plain},
        "mixed": {"params": {"name": "no", "description": "d"}, "json": {**plain, "scopes": []}},
    }
    answer = await api.ask("POST", "/v0/tokens", **options[form])
    assert answer.status_code == 200, answer.text
    made = answer.json()
    assert (made["name"], made["description"], made["scopes"]) == ("t", "d", objects)
    assert made["token"].startswith("p.")
    assert made["origin"] == {"type": "C"}
    assert await api.status(made["token"]) == 200


async def test_a_name_is_taken_once(api: Api) -> None:
    await api.make("t", "PIPES:READ:top")
    params = {"name": "t", "scope": "ADMIN"}
    assert_error(await api.ask("POST", "/v0/tokens", params=params), 409, "PUT it")


@pytest.mark.parametrize(
    ("params", "status", "text"),
    [
        ({}, 400, "no name"),
        ({"name": "t"}, 400, "no scopes"),
        ({"name": "t", "scope": ""}, 400, "no scopes"),
        ({"name": "a/b", "scope": "ADMIN"}, 400, "slashes"),
        ({"name": "admin", "scope": "ADMIN"}, 400, "reserved"),
        ({"name": "t", "scope": "PIPES:REED:top"}, 400, "Did you mean 'PIPES:READ'"),
        ({"name": "t", "scope": "PIPES:READ:tpo"}, 404, "Did you mean 'top'"),
        ({"name": "t", "scope": "DATASOURCES:READ:event"}, 404, "Did you mean 'events'"),
        ({"name": "t", "scope": "DATASOURCES:READ:events:tenant ="}, 400, "row filter of 'events'"),
        ({"name": "t", "scope": "DATASOURCES:READ:events:1) OR (1"}, 400, "row filter"),
        ({"name": "t", "scope": "DATASOURCES:READ:events:1 GROUP BY 1"}, 400, "row filter"),
        ({"name": "t", "scope": "DATASOURCES:READ:events:1 /*"}, 400, "row filter"),
        ({"name": "t", "scope": "DATASOURCES:READ:events:1; SELECT 1"}, 400, "row filter"),
        ({"name": "t", "scope": "DATASOURCES:READ:events:file('/x') = ''"}, 400, "file"),
        (
            {"name": "t", "scope": "DATASOURCES:READ:events:1 IN (SELECT 1 FROM pipehouse.tokens)"},
            400,
            "row filter",
        ),
        ({"name": "t", "expiration_time": "soon", "scope": "PIPES:READ:top"}, 400, "'soon'"),
        ({"name": "t", "expiration_time": "nan", "scope": "PIPES:READ:top"}, 400, "'nan'"),
        ({"name": "t", "expiration_time": 1, "scope": "PIPES:READ:top"}, 400, "in the past"),
        (
            {"name": "t", "expiration_time": (NOW_S + 9) * 1000, "scope": "PIPES:READ:top"},
            400,
            "not in seconds",
        ),
        ({"name": "t", "expiration_time": NOW_S + 9}, 400, "needs scopes"),
        ({"name": "t", "expiration_time": NOW_S + 9, "scope": "ADMIN"}, 400, "cannot have"),
        ({"expiration_time": NOW_S + 9, "scope": "PIPES:READ:top"}, 400, "no name"),
    ],
)
async def test_a_mistake_is_one_clear_line_and_makes_nothing(
    api: Api, params: dict[str, Any], status: int, text: str
) -> None:
    assert_error(await api.ask("POST", "/v0/tokens", params=params), status, text)
    assert [record.name for record in api.store.records()] == ["dashboard"]


@pytest.mark.parametrize(
    "body",
    [b"{", b'{"name": 1}', b'{"scopes": {}}', b'{"name": "t", "limits": {"rps": 0}}', b"\xff\xfe"],
)
async def test_a_bad_body_is_a_bad_request(api: Api, body: bytes) -> None:
    assert_error(await api.ask("POST", "/v0/tokens", content=body), 400)


async def test_a_change_leaves_what_it_does_not_name(api: Api) -> None:
    made = await api.make("t", "PIPES:READ:top", description="d")
    api.clock.advance(1)
    answer = await api.ask("PUT", "/v0/tokens/t", params={"name": "u"})
    changed = answer.json()
    assert changed == {**made, "name": "u", "updated_at": "2023-11-14 22:13:21.000000"}
    answer = await api.ask(
        "PUT", "/v0/tokens/u", params={"scope": "DATASOURCES:READ:events", "description": ""}
    )
    assert answer.json()["scopes"] == [{"type": "DATASOURCES:READ", "resource": "events"}]
    assert answer.json()["description"] == ""
    assert await api.status(made["token"]) == 403


async def test_what_datafiles_gave_a_token_stays(api: Api) -> None:
    scopes = ["PIPES:READ:top", "DATASOURCES:READ:events"]
    await api.ask("PUT", "/v0/tokens/dashboard", params={"scope": scopes})
    await api.ask("PUT", "/v0/tokens/dashboard", json={"scopes": []})
    assert (await api.get("/v0/tokens/dashboard"))["scopes"] == [
        {"type": "PIPES:READ", "resource": "top"}
    ]


async def test_a_refreshed_token_has_a_new_secret_and_the_old_one_is_void(api: Api) -> None:
    made = await api.make("t", "PIPES:READ:top")
    new = (await api.ask("POST", "/v0/tokens/t/refresh")).json()
    assert new["token"] != made["token"]
    assert {**new, "token": ""} == {**made, "token": ""}
    assert [await api.status(made["token"]), await api.status(new["token"])] == [403, 200]


async def test_a_deleted_token_is_void(api: Api) -> None:
    made = await api.make("t", "PIPES:READ:top")
    answer = await api.ask("DELETE", f"/v0/tokens/{made['id']}")
    assert (answer.status_code, answer.json()) == (200, {"ok": True})
    assert await api.status(made["token"]) == 403
    assert_error(await api.ask("DELETE", "/v0/tokens/t"), 404)


async def test_the_administrators_token_is_a_setting(api: Api) -> None:
    for method, path in (("DELETE", ""), ("PUT", ""), ("POST", "/refresh")):
        assert_error(await api.ask(method, f"/v0/tokens/admin{path}"), 409, "setting")


async def test_who_manages_tokens_does_not_become_an_administrator(api: Api) -> None:
    clerk = (await api.make("clerk", "TOKENS"))["token"]
    await api.make("boss", "ADMIN")
    listed = [token["name"] for token in (await api.get("/v0/tokens", clerk))["tokens"]]
    assert listed == ["dashboard"]
    params = {"name": "t", "scope": "PIPES:READ:top"}
    assert (await api.ask("POST", "/v0/tokens", clerk, params=params)).status_code == 200
    for scope in ("ADMIN", "TOKENS", "WORKSPACE:DEPLOY"):
        params = {"name": "x", "scope": scope}
        assert_error(await api.ask("POST", "/v0/tokens", clerk, params=params), 403)
        assert_error(await api.ask("PUT", "/v0/tokens/t", clerk, params=params), 403)
    for ref in ("boss", "admin"):
        assert_error(await api.ask("GET", f"/v0/tokens/{ref}", clerk), 403)
        assert_error(await api.ask("DELETE", f"/v0/tokens/{ref}", clerk), 403)
        assert_error(await api.ask("POST", f"/v0/tokens/{ref}/refresh", clerk), 403)
    assert (await api.ask("GET", "/v0/tokens/me", clerk)).json()["name"] == "clerk"


# What tokens do -----------------------------------------------------------------------------------


async def test_a_jwt_fixes_parameters_and_ends(api: Api) -> None:
    read = {"type": "PIPES:READ", "resource": "top", "fixed_params": {"tenant": 7}}
    token = await api.jwt(read)
    answer = await api.get("/v0/pipes/top.json?tenant=8&city=Rome", token)
    assert answer["data"] == [{"tenant": 7, "city": "Rome"}]
    answer = (
        await api.ask("POST", "/v0/pipes/top.json", token, json={"tenant": 8, "city": "Oslo"})
    ).json()
    assert answer["data"] == [{"tenant": 7, "city": "Oslo"}]
    assert [record.name for record in api.store.records()] == ["dashboard"]
    api.clock.advance(60)
    assert_error(await api.ask("GET", "/v0/pipes/top.json", token), 403, "expired")


async def test_a_jwt_over_its_limit_is_told_when_to_come_back(api: Api) -> None:
    token = await api.jwt({"type": "PIPES:READ", "resource": "top"}, limits={"rps": 2})
    answers = [await api.ask("GET", "/v0/pipes/top.json", token) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert [answer.headers["x-ratelimit-remaining"] for answer in answers] == ["1", "0", "0"]
    assert {answer.headers["x-ratelimit-limit"] for answer in answers} == {"2"}
    assert answers[2].headers["retry-after"] == "1"
    assert_error(answers[2], 429, "2 times a second")
    api.clock.advance(1)
    assert await api.status(token) == 200


async def test_a_kept_token_can_have_a_limit_too(api: Api) -> None:
    body = {"name": "t", "scopes": ["PIPES:READ:top"], "limits": {"rps": 1}}
    made = (await api.ask("POST", "/v0/tokens", json=body)).json()
    assert made["limits"] == {"rps": 1.0}
    assert [await api.status(made["token"]) for _ in range(2)] == [200, 429]


async def test_scopes_open_what_they_name_and_nothing_else(api: Api) -> None:
    table = {
        "PIPES:READ:top": (200, 403),
        "PIPES:READ:*": (200, 403),
        "WORKSPACE:READ_ALL": (200, 403),
        "DATASOURCES:READ:events": (403, 403),
        "DATASOURCES:APPEND:events": (403, 403),
        "ADMIN": (200, 200),
    }
    for scope, expected in table.items():
        token = (await api.make(scope.replace("*", "any"), scope))["token"]
        found = (await api.status(token), await api.status(token, "/v0/tokens"))
        assert found == expected, scope


async def test_no_token_reads_the_tokens_by_sql(api: Api) -> None:
    reader = (await api.make("all", "WORKSPACE:READ_ALL"))["token"]
    for token in (ADMIN_TOKEN, reader):
        answer = await api.ask(
            "GET", "/v0/sql", token, params={"q": "SELECT * FROM pipehouse.tokens"}
        )
        assert answer.status_code in (400, 403), answer.text
        assert "sealed" not in answer.text


async def test_a_line_that_went_away_closes_the_endpoint_to_its_token(api: Api) -> None:
    renamed = structs.replace(TOP, name="best", tokens=())
    assert await api.store.apply_workspace(Workspace(pipes={"best": renamed}))
    dashboard = api.store.find("dashboard")
    assert await api.status(api.store.reveal(dashboard)) == 403
