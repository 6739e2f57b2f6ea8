"""What the doctor makes of a log's answers."""

from __future__ import annotations

import pytest
from msgspec import structs

from deploy.operate.feeds import open_checks, trait_checks
from deploy.operate.health import disk_check
from deploy.operate.trace import Record, parse_record
from deploy.operate.verdict import Standing
from ingest.chunk import Partition
from ingest.ledger import Recorded
from ingest.log.facts import LogTraits, PartitionFacts
from shared.errors import BadRequestError

FACTS = PartitionFacts(partition=Partition("t", 0), stream=1, start=0, end=100)
SAFE = LogTraits(
    kind="Kafka", replication_factor=3, min_insync_replicas=2, unclean_leader_election=False
)


def test_a_safe_topic_is_not_mentioned() -> None:
    assert trait_checks("t", SAFE) == []
    assert trait_checks("t", LogTraits(kind="embedded log")) == []


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"replication_factor": 1}, "one broker only"),
        ({"min_insync_replicas": 1}, "only one replica has"),
        ({"unclean_leader_election": True}, "lacks records"),
        ({"compacted": True}, "compacted"),
    ],
)
def test_each_dangerous_setting_of_a_topic_is_named(changes: dict[str, object], text: str) -> None:
    (check,) = trait_checks("t", structs.replace(SAFE, **changes))
    assert (check.level, text in check.text, bool(check.fix)) == ("warning", True, True)


def test_a_range_that_was_just_begun_is_fine_and_an_old_one_is_not() -> None:
    standing = Standing(offset=10, next=20, declared_ms=0)
    assert open_checks("d", FACTS, standing, [], now_ms=5_000) == []
    (check,) = open_checks("d", FACTS, standing, [], now_ms=600_000)
    assert (check.level, "open for 10 min" in check.text) == ("warning", True)


def test_a_held_range_is_bad_and_says_why() -> None:
    alarm = Recorded(
        kind="alarm",
        datasource="d",
        topic="t",
        partition=0,
        stream=1,
        first=10,
        next=20,
        at_ms=0,
        note="only a part",
    )
    standing = Standing(offset=10, next=20)
    (check,) = open_checks("d", FACTS, standing, [alarm], now_ms=0)
    assert (check.level, "only a part" in check.text) == ("bad", True)
    assert open_checks("d", FACTS, Standing(offset=20), [alarm], now_ms=0) == []


def test_a_log_that_ends_before_the_commit_is_bad() -> None:
    (check,) = open_checks("d", FACTS, Standing(offset=101), [], now_ms=0)
    assert (check.level, "offsets may be used again" in check.text) == ("bad", True)


def test_little_space_is_a_warning_and_none_is_bad() -> None:
    gib = 1 << 30
    assert disk_check("a", 50 * gib, 100 * gib).level == "ok"
    assert disk_check("a", 3 * gib, 100 * gib).level == "warning"
    assert disk_check("a", gib // 4, 100 * gib).level == "bad"
    assert disk_check("a", 3 << 20, 64 << 20).text == "3.0 MiB of 64.0 MiB are free."
    assert disk_check("a", 0, 2 * gib).text == "0.0 MiB of 2.0 GiB are free."


def test_a_record_is_named_by_topic_partition_and_offset() -> None:
    assert parse_record(" events.x:3:12 ") == Record("events.x", 3, 12)
    for text in ("x", "x:1", "x:a:1", "x:1:-1", ":1:1", "x:1:2:3"):
        with pytest.raises(BadRequestError):
            parse_record(text)
