"""Engine settings that this product chooses, as data; both engines read them from here.

``ENGINE_PROFILE`` is what published projects rely on. ``STABLE_ORDER_PROFILE`` makes the order of
rows without a full ORDER BY repeatable, for test runs only. ``INSERT_SETTINGS`` is what
exactly-once needs and is sent with every insert.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from shared.clickhouse.contract import Limits, SettingValue

ENGINE_PROFILE: Mapping[str, SettingValue] = MappingProxyType(
    {
        "output_format_json_quote_64bit_integers": 0,
        "date_time_output_format": "simple",
        "session_timezone": "UTC",
        "join_use_nulls": 0,
        "prefer_column_name_to_alias": 0,
        "aggregate_functions_null_for_empty": 0,
        "joined_subquery_requires_alias": 0,
        "allow_suspicious_types_in_group_by": 1,
        "allow_suspicious_types_in_order_by": 1,
        "allow_suspicious_low_cardinality_types": 1,
    }
)

STABLE_ORDER_PROFILE: Mapping[str, SettingValue] = MappingProxyType(
    {"max_threads": 1, "join_algorithm": "hash", "enable_packed_string_keys_in_aggregation": 0}
)

# Above anything an insert may hold, so that the engine never closes a block before its end; and the
# most that a server takes without a warning in its log for every insert.
_UNBOUNDED = 2**32

INSERT_SETTINGS: Mapping[str, SettingValue] = MappingProxyType(
    {
        "async_insert": 0,
        "insert_deduplicate": 1,
        "deduplicate_insert": "enable",
        "deduplicate_blocks_in_dependent_materialized_views": 1,
        "materialized_views_ignore_errors": 0,
        "max_partitions_per_insert_block": 0,
        "max_insert_threads": 1,
        "max_threads": 1,
        "min_insert_block_size_rows": _UNBOUNDED,
        "min_insert_block_size_bytes": _UNBOUNDED,
        # A view that groups writes its groups in small blocks; squashed they are one part too.
        "min_insert_block_size_rows_for_materialized_views": _UNBOUNDED,
        "min_insert_block_size_bytes_for_materialized_views": _UNBOUNDED,
        "max_insert_block_size": _UNBOUNDED,
        "insert_allow_materialized_columns": 1,
    }
)


# The engine rounds to microseconds, and to it 0 is no limit.
_LEAST_TIME_S = 0.001


def limit_settings(limits: Limits) -> dict[str, SettingValue]:
    """The engine's names of the limits that are set; a limit that is reached is an error."""
    time_s = limits.max_time_s
    chosen: dict[str, SettingValue | None] = {
        "max_execution_time": None if time_s is None else max(time_s, _LEAST_TIME_S),
        "max_memory_usage": limits.max_memory_bytes,
        "max_rows_to_read": limits.max_rows_to_read,
        "max_result_rows": limits.max_result_rows,
        "max_result_bytes": limits.max_result_bytes,
    }
    return {name: value for name, value in chosen.items() if value is not None}
