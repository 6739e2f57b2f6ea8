from __future__ import annotations

from shared.clickhouse.boot import Boots

NO_UUID = "00000000-0000-0000-0000-000000000000"


def test_the_uuid_of_a_system_table_is_the_boot_id() -> None:
    boots = Boots()
    assert boots.latest == ""
    assert (
        boots.seen("server", 100, 0, "first") == boots.seen("server", 165, 60, "first") == "first"
    )
    assert boots.seen("server", 100, 0, "second") == boots.latest == "second"


def test_without_one_the_time_of_the_start_is_and_clocks_may_differ_a_little() -> None:
    boots = Boots()
    first = boots.seen("server", 100, 0, NO_UUID)
    assert boots.seen("server", 201, 100, NO_UUID) == boots.seen("server", 99, 0, "") == first
    assert boots.seen("other", 100, 0, NO_UUID) != first
    assert boots.seen("server", 130, 0, NO_UUID) != first


def test_the_clock_of_a_server_is_known_from_what_it_said_last() -> None:
    boots = Boots()
    boots.seen("server", 5_000, 60, "first")
    assert 5_000 <= boots.server_now_s < 5_100
    boots.read_clock(9_000)
    assert 9_000 <= boots.server_now_s < 9_100
