"""A rig whose ledger is written, on each engine there is, and what operators work with there."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from msgspec import structs

from deploy.operate.services import OperatorServices, prefixed_feed
from ingest.ledger import Ledger
from ingest.log.facts import LocalLogFacts
from ingest.recorder import LedgerRecorder
from ingest.worker import Worker
from shared.clickhouse.contract import ClickHouse, Statement
from shared.clickhouse.embedded import EmbeddedClickHouse
from shared.clickhouse.server import open_server
from shared.clickhouse.url import parse_url
from shared.model.resources import EngineSpec
from shared.observe.metrics import Metrics
from tests.contract.delivery_rig import CLOCK, PLAIN, Rig, open_rig


@asynccontextmanager
async def open_operate_rig(
    target: str | EmbeddedClickHouse, folder: Path, spec: EngineSpec = PLAIN
) -> AsyncIterator[Rig]:
    """A rig on the embedded engine, or in a database of its own on the server that a URL names."""
    async with _opened(target) as clickhouse, open_rig(clickhouse, folder, spec) as made:
        made.recorder = LedgerRecorder(Ledger(clickhouse), Metrics(), worker="test")
        yield made


@asynccontextmanager
async def _opened(target: str | EmbeddedClickHouse) -> AsyncIterator[ClickHouse]:
    if not isinstance(target, str):
        yield target
        return
    name = f"operate_{uuid.uuid4().hex[:8]}"
    outside = await open_server(target)
    await outside.execute(Statement(sql=f"CREATE DATABASE {name} ENGINE = Atomic"))
    inside = await open_server(structs.replace(parse_url(target), database=name))
    try:
        yield inside
    finally:
        await inside.close()
        await outside.execute(Statement(sql=f"DROP DATABASE {name} SYNC"))
        await outside.close()


def on_server(rig: Rig) -> bool:
    """Whether a crash of the engine may leave a token without its rows."""
    return not rig.engine.capabilities.repairs_orphans


def services(rig: Rig, ingestion: Worker | None = None) -> OperatorServices:
    return OperatorServices(
        clickhouse=rig.engine,
        clock=CLOCK,
        feed=prefixed_feed("events.", "", LocalLogFacts(rig.log)),
        ingestion=ingestion,
        fsync=False,
    )


async def execute(rig: Rig, sql: str) -> None:
    """A statement; EV stands for the table."""
    await rig.engine.execute(Statement(sql=sql.replace("EV", rig.name)))
