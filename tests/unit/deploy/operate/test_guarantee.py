"""Verdicts that need engines which are not there in tests; the others have contract tests."""

from __future__ import annotations

import pytest
from msgspec import structs

from deploy.operate.guarantee import Subject, covered_s, duration, judge
from deploy.operate.tables import TableFacts, ViewFacts, table_settings
from shared.clickhouse.contract import Capabilities
from shared.model.resources import Column, Datasource

SERVER = Capabilities(name="server", shares_process=False, repairs_orphans=False, can_cancel=True)
DATASOURCE = Datasource(name="d", columns=(Column(name="a", type="Int32", jsonpath="$.a"),))
WEEK_S = 7 * 24 * 3600


def table(name: str, engine: str, window: int, window_s: int | None = None) -> TableFacts:
    return TableFacts(name=name, engine=engine, uuid="u", window=window, window_s=window_s)


def test_replicated_tables_with_a_long_memory_are_exactly_once_in_views_too() -> None:
    replicated = table("d", "ReplicatedMergeTree", 100_000, WEEK_S)
    target = table("t", "ReplicatedSummingMergeTree", 100_000, WEEK_S)
    views = (ViewFacts(name="v", target=target),)
    found = judge(Subject(datasource=DATASOURCE, table=replicated, views=views, engine=SERVER))
    assert (found.verdict, found.level, found.fixes) == ("exactly once", "ok", ())


@pytest.mark.parametrize(("window", "window_s"), [(10_000, WEEK_S), (100_000, 3600)])
def test_the_default_memory_of_replicated_tables_is_too_short(window: int, window_s: int) -> None:
    replicated = table("d", "ReplicatedMergeTree", window, window_s)
    found = judge(Subject(datasource=DATASOURCE, table=replicated, views=(), engine=SERVER))
    assert (found.verdict, found.level) == ("at least once", "bad")
    assert "replicated_deduplication_window_seconds = 604800" in found.fixes[0]


def test_a_plain_table_on_a_server_is_exactly_once_because_lost_parts_are_found() -> None:
    plain = table("d", "MergeTree", 100_000)
    found = judge(Subject(datasource=DATASOURCE, table=plain, views=(), engine=SERVER))
    assert found.verdict == "exactly once"
    assert any("audit --repair" in reason for reason in found.reasons)


def test_a_view_whose_table_is_not_known_cannot_be_verified() -> None:
    replicated = table("d", "ReplicatedMergeTree", 100_000, WEEK_S)
    views = (ViewFacts(name="strange", target=None),)
    found = judge(Subject(datasource=DATASOURCE, table=replicated, views=views, engine=SERVER))
    assert found.verdict == "exactly once in the table, not verifiable in view strange"


def test_the_outage_that_is_covered_follows_from_the_rate() -> None:
    quiet = table("d", "MergeTree", 100_000)
    assert covered_s(quiet) == 25_000
    busy = TableFacts(name="d", engine="MergeTree", uuid="u", window=100, parts_last_hour=3_600)
    assert covered_s(busy) == 100
    timed = table("d", "ReplicatedMergeTree", 100_000, 60)
    assert covered_s(timed) == 60


def test_durations_have_their_two_largest_units() -> None:
    assert duration(90_061) == "1 d 1 h"
    assert duration(61) == "1 min 1 s"
    assert duration(0.4) == "less than 1 s"


def test_settings_are_read_from_the_end_of_an_engine() -> None:
    text = "MergeTree ORDER BY a TTL b + 1 SETTINGS window_x = 5, storage_policy = 'hot'"
    assert table_settings(text) == {"window_x": "5", "storage_policy": "hot"}
    assert table_settings("MergeTree ORDER BY a") == {}


@pytest.mark.parametrize(("shares_process", "is_said"), [(False, True), (True, False)])
def test_what_a_lease_cannot_prevent_is_said_where_workers_are_processes_of_their_own(
    shares_process: bool, is_said: bool
) -> None:
    engine = structs.replace(SERVER, shares_process=shares_process)
    plain = table("d", "MergeTree", 100_000)
    found = judge(Subject(datasource=DATASOURCE, table=plain, views=(), engine=engine))
    assert any("suspended" in reason for reason in found.reasons) is is_said
