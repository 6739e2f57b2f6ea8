from __future__ import annotations

from collections.abc import Iterable

from msgspec.structs import replace

from shared.clickhouse.contract import Identity, Insert, Run
from shared.clickhouse.insert import insert_sql
from shared.clickhouse.profile import INSERT_SETTINGS


class NoRows:
    row_count = 0

    def json_lines(self) -> Iterable[bytes]:
        return ()


INSERT = Insert(
    database="d`b",
    table="t",
    columns=(("a", "Int32"), ("b'c", "Enum8('x' = 1)")),
    block=NoRows(),
    token="it's",
)


def test_names_types_and_token_are_quoted() -> None:
    sql = insert_sql(INSERT, "/proc/self/fd/3", None, "q")
    assert sql.startswith("INSERT INTO `d\\`b`.`t` (`a`, `b'c`) SELECT r.`a`, r.`b'c` FROM ")
    assert "'`a` Int32, `b\\'c` Enum8(\\'x\\' = 1)'" in sql
    assert "`insert_deduplication_token` = 'it\\'s'" in sql


def test_every_setting_that_exactly_once_needs_is_in_every_insert() -> None:
    sql = insert_sql(INSERT, "f", None, "q")
    for name in INSERT_SETTINGS:
        assert f"`{name}` = " in sql
    assert "`async_insert` = 0" in sql
    assert "`insert_deduplicate` = 1" in sql


def test_no_server_cuts_a_setting_down_and_warns_of_it_at_every_insert() -> None:
    # What a server's check of settings lets pass; it lists bytes of views among the rows.
    for name, value in INSERT_SETTINGS.items():
        if "block_size" in name:
            assert int(value) <= 2**32


def test_without_a_token_nothing_is_deduplicated() -> None:
    sql = insert_sql(replace(INSERT, token=""), "f", None, "q")
    assert "insert_deduplication_token" not in sql
    assert "`insert_deduplicate` = 0" in sql


def test_consecutive_offsets_are_counted_and_others_pasted() -> None:
    identity = Identity(stream=1, partition=2, runs=(Run(40, 3),))
    counted = insert_sql(replace(INSERT, identity=identity), "f", None, "q")
    assert "1, 2, toInt64(40 + rowNumberInAllBlocks()) FROM" in counted
    pasted = insert_sql(replace(INSERT, identity=identity), "f", "o", "q")
    assert "PASTE JOIN file('o', 'RowBinary'" in pasted
    assert "rowNumberInAllBlocks" not in pasted


def test_a_time_limit_and_a_name_are_sent_along() -> None:
    sql = insert_sql(replace(INSERT, max_time_s=2.5), "f", None, "named")
    assert "`max_execution_time` = 2.5" in sql
    assert "`log_comment` = 'named'" in sql
