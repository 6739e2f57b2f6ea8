"""The tables that the product keeps for itself, as statements; made by those who may.

Only that of the tokens is not among them: making it means to say which secret encrypts them.
"""

from __future__ import annotations

from deploy import record
from ingest import excluded, lease, ledger, replay_store
from shared.clickhouse.contract import ClickHouse
from shared.clickhouse.define import define

OWN_TABLES = tuple(
    dict.fromkeys(
        (
            *record.TABLES,
            *ledger.TABLES,
            *excluded.TABLES,
            *lease.TABLES,
            *replay_store.TABLES,
        )
    )
)


async def prepare_own_tables(clickhouse: ClickHouse) -> None:
    """Make those that are missing.

    At the start of a process, not when one is first needed: on a disk that has become full the
    embedded engine leaves the definition of a new table empty, and cannot open its folder again.

    Raises:
        ConfigError: Several hosts are to keep them, but not their database.
        QueryError: This user may not.
    """
    await define(clickhouse, OWN_TABLES)
