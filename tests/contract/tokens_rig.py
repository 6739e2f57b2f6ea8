"""Stores of tokens as several processes have them: one table, one secret, a folder each."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path
from typing import Any, cast

from shared.auth.opening import open_tokens
from shared.auth.stored import StoredTokens
from shared.clickhouse.contract import ClickHouse, Insert, Result, Statement, Summary
from shared.clock import ManualClock
from shared.settings import Settings

ADMIN_TOKEN = "p.the-admin-token-of-these-tests"
SECRET = "the-secret-of-these-tests"

_numbers = itertools.count(1)


class OwnDatabase:
    """An engine whose current database is another one, so that each test has tokens of its own.

    ``failure`` is raised instead of an answer where it is set, ``refusal`` instead of an insert.
    While it ``lags`` it answers as it did before, as a replica may.
    """

    def __init__(self, engine: ClickHouse, database: str | None = None) -> None:
        self._engine = engine
        self.database = database or f"tokens_{next(_numbers)}"
        self.failure: Exception | None = None
        self.refusal: Exception | None = None
        self.lags = False
        self._answers: dict[str, Result] = {}
        self.asked = asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    async def insert(self, insert: Insert) -> Summary:
        if self.refusal is not None:
            raise self.refusal
        return await self._engine.insert(insert)

    async def fetch(self, statement: Statement) -> Result:
        self.asked.set()
        if self.failure is not None:
            raise self.failure
        if self.lags:
            return self._answers[statement.sql]
        answer = self._answers[statement.sql] = await self._engine.fetch(statement)
        return answer


def as_engine(engine: OwnDatabase) -> ClickHouse:
    return cast(ClickHouse, engine)


async def open_store(
    engine: OwnDatabase, folder: Path, *, clock: ManualClock | None = None, **settings: Any
) -> StoredTokens:
    """The tokens as one more process has them."""
    return await open_tokens(
        as_engine(engine),
        Settings(data=folder, **{"secret": SECRET, **settings}),
        admin_token=ADMIN_TOKEN,
        clock=clock or ManualClock(),
    )
