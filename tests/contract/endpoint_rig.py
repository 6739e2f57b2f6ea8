"""A server with endpoints over an engine, as their callers meet it."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx

from query.http.pipes import QueryServices, pipes_route
from query.serving import Serving
from shared.auth.tokens import PIPES_READ, AdminTokenStore, Grant, GrantLimits, Scope
from shared.clickhouse.contract import Limits, Statement
from shared.clock import Deadline, SystemClock
from shared.errors import AuthenticationError
from shared.model.resources import Column, Datasource, Node, Pipe
from shared.model.workspace import Workspace
from shared.observe.metrics import Metrics
from shared.supervise import Service
from shared.web.app import create_app
from shared.web.server import listen, serve_http
from tests.contract.engines import AnyEngine

ADMIN = "p.admin-token-of-tests"
LIMITS = Limits(max_time_s=5.0, max_result_bytes=40_000_000)


class Tokens(AdminTokenStore):
    """The administrator, and tokens that may do less."""

    def __init__(self) -> None:
        super().__init__(ADMIN)
        self.grants: dict[bytes, Grant] = {}

    def grant(self, token: bytes) -> Grant:
        try:
            return super().grant(token)
        except AuthenticationError:
            if token not in self.grants:
                raise
            return self.grants[token]


class Rig:
    """A server with endpoints given as SQL; EV in it stands for a table of its own."""

    def __init__(self, engine: AnyEngine, table: str) -> None:
        self.engine = engine
        self.table = table
        self.tokens = Tokens()
        self.metrics = Metrics()
        self.serving = Serving(engine.parse, engine.database)
        self.pipes: dict[str, Pipe] = {}
        self.port = 0
        self.client = httpx.AsyncClient()

    def endpoint(self, name: str, sql: str, *, kind: Any = "endpoint") -> None:
        node = Node(
            name="answer",
            sql=sql.replace("EV", self.table),
            is_template="{" in sql,
            kind=kind,
        )
        self.pipes[name] = Pipe(name=name, nodes=(node,), description=f"All of {name}.")
        columns = (Column(name="n", type="UInt32"), Column(name="s", type="String"))
        datasource = Datasource(name=self.table, columns=columns)
        workspace = Workspace(datasources={self.table: datasource}, pipes=dict(self.pipes))
        self.serving.replace(workspace, {})

    async def insert(self, first: int, count: int) -> None:
        rows = f"SELECT number, toString(number) FROM numbers({first}, {count})"
        sql = f"INSERT INTO {self.table} {rows}"
        await self.engine.execute(Statement(sql=sql))

    def allow(self, token: str, *pipes: str, **limits: Any) -> None:
        self.tokens.grants[token.encode()] = Grant(
            name=token,
            scopes=tuple(Scope(type=PIPES_READ, resource=pipe) for pipe in pipes),
            limits=GrantLimits(**limits),
        )

    async def start(self, service: Service, **changed: Any) -> None:
        given: dict[str, Any] = {"limits": LIMITS, "clickhouse": self.engine, **changed}
        services = QueryServices(
            tokens=self.tokens, serving=self.serving, metrics=self.metrics, **given
        )
        listener = listen("127.0.0.1", 0)
        self.port = listener.getsockname()[1]
        await serve_http(service, create_app([pipes_route(services)]), listener)
        self.client = httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{self.port}",
            headers={"Authorization": f"Bearer {ADMIN}", "Accept-Encoding": "identity"},
        )

    async def get(self, path: str, **options: Any) -> httpx.Response:
        return await self.client.get(f"/v0/pipes{path}", **options)

    async def running(self, text: str) -> bool:
        sql = "SELECT count() FROM system.processes WHERE query LIKE {like:String}"
        sql += " AND query NOT LIKE '%system.processes%'"
        statement = Statement(sql=sql, parameters={"like": f"%{text}%"}, format="TSV")
        return (await self.engine.fetch(statement)).body != b"0\n"


async def until(check: Any, *, timeout_s: float = 5.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not await check():  # noqa: ASYNC110 - the engine's lists tell nobody when they change
            await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def serving_rig(
    engine: AnyEngine, options: Callable[[Rig], dict[str, Any]] = lambda rig: {}
) -> AsyncIterator[Rig]:
    """A rig that serves, with ten rows in its table, until the end of the block.

    Args:
        engine: Where the table is.
        options: More or other services for the routes.
    """
    table = "ev" + uuid.uuid4().hex[:8]
    create = f"CREATE TABLE {table} (n UInt32, s String) ENGINE = MergeTree ORDER BY n"
    await engine.execute(Statement(sql=create))
    rig, service = Rig(engine, table), Service()
    await rig.insert(0, 10)
    await rig.start(service, **options(rig))
    try:
        yield rig
    finally:
        await rig.client.aclose()
        await service.close(Deadline(SystemClock(), 5.0))
        await engine.execute(Statement(sql=f"DROP TABLE {table}"))
