from __future__ import annotations

import pytest

from deploy.own_tables import OWN_TABLES
from shared.clickhouse.replicated import database_of, replicated

WINDOWS = (
    "replicated_deduplication_window = 100000, replicated_deduplication_window_seconds = 604800"
)


def test_a_database_gets_a_path_that_its_hosts_share() -> None:
    sql = "CREATE DATABASE IF NOT EXISTS `shop`"
    assert database_of(sql) == "shop"
    assert replicated(sql) == (
        sql + " ENGINE = Replicated('/clickhouse/databases/shop', '{shard}', '{replica}')"
    )


@pytest.mark.parametrize(
    ("given", "made"),
    [
        ("x) ENGINE = MergeTree ORDER BY a", "x) ENGINE = ReplicatedMergeTree ORDER BY a SETTINGS"),
        (
            "x) ENGINE = ReplacingMergeTree(at) ORDER BY a TTL t SETTINGS n = 1",
            "x) ENGINE = ReplicatedReplacingMergeTree(at) ORDER BY a TTL t SETTINGS n = 1,",
        ),
    ],
)
def test_a_table_gets_the_engine_and_the_memory(given: str, made: str) -> None:
    assert replicated(given) == f"{made} {WINDOWS}"


def test_a_table_that_keeps_nothing_stays_as_it_is() -> None:
    assert replicated("x) ENGINE = Null") == "x) ENGINE = Null"


def test_every_table_of_ours_is_kept_by_all_hosts() -> None:
    assert all("ENGINE = Replicated" in replicated(sql) for sql in OWN_TABLES)
