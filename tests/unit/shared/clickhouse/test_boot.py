from __future__ import annotations

from shared.clickhouse.boot import Boots

NO_UUID = "00000000-0000-0000-0000-000000000000"


def test_the_uuid_of_a_system_table_is_the_boot_id() -> None:
    boots = Boots()
    assert boots.latest == ""
    assert boots.seen("server", 100, "first") == boots.seen("server", 105, "first") == "first"
    assert boots.seen("server", 100, "second") == boots.latest == "second"


def test_without_one_the_time_of_the_start_is_and_clocks_may_differ_a_little() -> None:
    boots = Boots()
    first = boots.seen("server", 100, NO_UUID)
    assert boots.seen("server", 101, NO_UUID) == boots.seen("server", 99, "") == first
    assert boots.seen("other", 100, NO_UUID) != first
    assert boots.seen("server", 130, NO_UUID) != first
