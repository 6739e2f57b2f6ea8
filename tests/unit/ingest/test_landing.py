"""Chunks without some of their records."""

from __future__ import annotations

from ingest.chunk import Chunk, Partition
from ingest.landing import slice_chunk, without
from shared.clickhouse.contract import Run

CHUNK = Chunk(
    partition=Partition("t", 0),
    offsets=[3, 4, 6],
    values=[b"a", b"b", b"c"],
    timestamps_ms=[30, 40, 60],
    next=9,
    keys=[b"k3", b"k4", b"k6"],
    headers=[(("h", b"3"),), (), (("h", b"6"),)],
)


def test_what_is_left_keeps_its_own_keys_and_headers() -> None:
    (found,) = without([CHUNK], [Run(4, 1)])
    assert (found.offsets, found.values, found.next) == ([3, 6], [b"a", b"c"], 9)
    assert (found.keys, found.headers) == ([b"k3", b"k6"], [(("h", b"3"),), (("h", b"6"),)])


def test_a_slice_keeps_its_own_keys_and_ends_behind_its_last_record() -> None:
    found = slice_chunk(CHUNK, 1, None)
    assert (found.offsets, found.keys, found.next) == ([4, 6], [b"k4", b"k6"], 7)
    assert slice_chunk(CHUNK, 0, 2).next == 5
