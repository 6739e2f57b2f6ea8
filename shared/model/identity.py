"""Which tables carry the origin of their rows, and how many tokens tables remember.

Every stored row says where it came from: stream, partition and offset, in three hidden columns.
Tables that add rows up or merge them cannot carry it: there the deduplication token stands alone.
"""

from __future__ import annotations

from shared.model.resources import Datasource

IDENTITY_COLUMNS = (("__stream", "UInt64"), ("__partition", "Int32"), ("__offset", "Int64"))

# How many inserts a table and every view target remember; protocol rule: not below 100,000.
DEDUPLICATION_WINDOW = 100_000

_WITHOUT_IDENTITY = frozenset(
    {
        "SummingMergeTree",
        "AggregatingMergeTree",
        "CollapsingMergeTree",
        "VersionedCollapsingMergeTree",
        "Null",
    }
)


def carries_identity(datasource: Datasource) -> bool:
    """Whether rows of the data source's table carry stream, partition and offset."""
    return datasource.engine.name not in _WITHOUT_IDENTITY
