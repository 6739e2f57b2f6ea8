from __future__ import annotations

from pathlib import Path

import pytest

from shared.clickhouse.orphans import (
    PartName,
    parse_part_name,
    remove_orphans,
    without_orphans,
)


@pytest.mark.parametrize(
    ("name", "parsed"),
    [
        ("all_1_1_0", PartName("all", 1, 1)),
        ("all_1_9_2_12", PartName("all", 1, 9)),
        ("202401_3_4_1", PartName("202401", 3, 4)),
        ("2024-1-7_3_4_1_8", PartName("2024-1-7", 3, 4)),
        ("0f1e2d3c4b5a_1_2_3", PartName("0f1e2d3c4b5a", 1, 2)),
        ("detached", None),
        ("tmp_insert_all_1_1_0", None),
        ("all_1_1", None),
        ("", None),
    ],
)
def test_part_names_are_parsed(name: str, parsed: PartName | None) -> None:
    assert parse_part_name(name) == parsed


def added(part: str) -> str:
    return f"1\t{part}\t{part}_block\n"


@pytest.mark.parametrize(
    ("parts", "stays"),
    [
        (["all_5_5_0"], True),
        (["all_1_9_2"], True),
        (["all_5_6_1"], True),
        (["all_1_9_2_30"], True),
        ([], False),
        (["all_4_4_0", "all_6_6_0"], False),
        (["all_1_4_1"], False),
        (["other_1_9_2"], False),
        (["all_6_9_1"], False),
    ],
)
def test_an_entry_stays_while_a_part_holds_its_block(parts: list[str], stays: bool) -> None:
    line = added("all_5_5_0")
    assert without_orphans([line], parts) == ([line] if stays else [])


def test_what_was_forgotten_on_purpose_stays_and_order_is_kept() -> None:
    lines = [added("all_1_1_0"), "2\tall_1_1_0\tblock\n", added("all_2_2_0"), added("all_3_3_0")]
    assert without_orphans(lines, ["all_1_1_0", "all_3_3_0"]) == [lines[0], lines[1], lines[3]]


@pytest.mark.parametrize(
    "torn", ["1", "1\tall_1_1_0", "1\tall_1_1_0\t", "\0\0\0\0", "x\ty\tz", "1\tz\tz"]
)
def test_a_torn_line_is_dropped(torn: str) -> None:
    assert without_orphans([added("all_1_1_0"), torn], ["all_1_1_0"]) == [added("all_1_1_0")]


def make_part(table: Path, name: str, *, complete: bool = True) -> None:
    (table / name).mkdir(parents=True)
    if complete:
        (table / name / "checksums.txt").write_text("x")


def make_log(table: Path, number: int, *lines: str) -> Path:
    log = table / "deduplication_logs" / f"deduplication_log_{number}.txt"
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text("".join(lines))
    return log


def test_orphans_of_every_table_are_removed_from_a_folder(tmp_path: Path) -> None:
    first, second = tmp_path / "store" / "aaa" / "aaa-1", tmp_path / "store" / "bbb" / "bbb-1"
    make_part(first, "all_1_1_0")
    make_part(first, "all_2_2_0", complete=False)
    make_part(first, "detached/all_3_3_0")
    make_part(second, "all_2_2_0")
    logs = [
        make_log(first, 1, added("all_1_1_0"), added("all_2_2_0")),
        make_log(first, 2, added("all_3_3_0")),
        make_log(second, 1, added("all_1_1_0"), added("all_2_2_0")),
    ]
    assert remove_orphans(tmp_path) == 3
    assert [log.read_text() for log in logs] == [added("all_1_1_0"), "", added("all_2_2_0")]
    assert remove_orphans(tmp_path) == 0
    assert sorted(p.name for p in logs[0].parent.iterdir()) == [
        "deduplication_log_1.txt",
        "deduplication_log_2.txt",
    ]


def test_a_log_without_orphans_is_left_as_it_is(tmp_path: Path) -> None:
    table = tmp_path / "store" / "aaa" / "aaa-1"
    make_part(table, "all_1_1_0")
    log = make_log(table, 1, added("all_1_1_0"))
    before = log.stat().st_ino
    assert remove_orphans(tmp_path) == 0
    assert log.stat().st_ino == before


def test_a_folder_that_is_new_has_nothing_to_remove(tmp_path: Path) -> None:
    assert remove_orphans(tmp_path / "missing") == 0
