"""From settings to a store of tokens, or to one line that says why not."""

from __future__ import annotations

import asyncio

from msgspec import structs

from shared.auth.cipher import TokenCipher, load_or_create_secret
from shared.auth.lookup import TokenLookup
from shared.auth.signed import JwtKey, checked_key
from shared.auth.stored import StoredTokens
from shared.auth.table import Loaded, TokenTable
from shared.clickhouse.contract import ClickHouse
from shared.clock import Clock
from shared.errors import (
    AppError,
    ClickHouseUnavailableError,
    ConfigError,
    InsertError,
    QueryError,
)
from shared.settings import Settings


async def open_tokens(
    clickhouse: ClickHouse, settings: Settings, *, admin_token: str, clock: Clock
) -> StoredTokens:
    """Everything that knows tokens, for the workspace that is the engine's database.

    Args:
        clickhouse: Where ``pipehouse.tokens`` is; the table is made where it is missing.
        settings: ``secret``, ``jwt_key``, ``token_rate_limit_rps`` and the data folder.
        admin_token: From ``load_or_create_admin_token``.
        clock: Where time comes from.

    Raises:
        ConfigError: The secret is not the one that the tokens are encrypted with, or the table
            can neither be read nor made.
        UnavailableError: ClickHouse does not answer.
    """
    secret = load_or_create_secret(settings.data, settings.secret)
    cipher = await asyncio.to_thread(TokenCipher, secret)
    table = TokenTable(clickhouse, cipher.key_id)
    try:
        loaded = await _prepared(table, clock)
    except (QueryError, InsertError) as error:
        if error.retriable:
            raise ClickHouseUnavailableError(
                f"The table pipehouse.tokens does not answer: {_one_line(error)}"
            ) from error
        raise ConfigError(
            f"The table pipehouse.tokens cannot be used: {_one_line(error)}",
            hint="Deploy the project first, or give this user the right to make the table.",
        ) from error
    if loaded.key_id != cipher.key_id:
        raise ConfigError(
            "The tokens of this workspace are encrypted with another secret.",
            hint="Set PIPEHOUSE_SECRET to that of the processes that made them.",
        )
    key = settings.jwt_key
    lookup = TokenLookup(
        cipher,
        admin_token=admin_token,
        jwt_key=JwtKey(
            admin_token if key is None else checked_key(key),
            cipher.derived_id(f"workspace {clickhouse.database}"),
        ),
        clock=clock,
        default_rps=settings.token_rate_limit_rps,
    )
    tokens = StoredTokens(table, cipher, lookup, clock)
    tokens.take(loaded)
    return tokens


async def _prepared(table: TokenTable, clock: Clock) -> Loaded:
    """What the table holds; made and marked with this process's secret where it is new."""
    if not await table.exists():
        await table.prepare()
    loaded = await table.load()
    if loaded.key_id is None:
        await table.mark(clock.now_ms() * 1000)
        # Who started at the same moment may have marked it too. Where a replica answers that does
        # not have the row yet, it is ours.
        loaded = await table.load()
        if loaded.key_id is None:
            loaded = structs.replace(loaded, key_id=table.key_id)
    return loaded


def _one_line(error: AppError) -> str:
    return " ".join(str(error).split())
