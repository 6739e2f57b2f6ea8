"""The tables that the product keeps for itself, as statements; made by those who may.

Only that of the tokens is not among them: making it means to say which secret encrypts them.
"""

from __future__ import annotations

from deploy import record
from ingest import excluded, lease, ledger, replay_store

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
