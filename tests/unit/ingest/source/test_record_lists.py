"""Records of Kafka as parallel lists."""

from __future__ import annotations

import gc
import struct

import pytest
from aiokafka.record.default_records import DefaultRecordBatch, DefaultRecordBatchBuilder
from aiokafka.record.legacy_records import LegacyRecordBatchBuilder
from aiokafka.record.util import calc_crc32c

from ingest.chunk import size_bytes
from ingest.source.lenient_records import KeptRecords
from ingest.source.record_lists import RecordLists


def batch_of(*offsets: int, value: bytes | None = b"v", base: int = 0) -> DefaultRecordBatch:
    """A batch of the log whose records have these offsets, counted from its first."""
    builder = DefaultRecordBatchBuilder(2, 0, 0, -1, -1, 0, 1 << 20)
    for offset in offsets:
        headers = [("h", str(offset).encode())]
        builder.append(offset, 1_000 + offset, b"k%d" % offset, value, headers)
    batch = bytearray(builder.build())
    batch[:8] = base.to_bytes(8, "big")
    return DefaultRecordBatch(bytes(batch))


def test_offsets_without_holes_are_a_range() -> None:
    lists = RecordLists()
    lists.extend(batch_of(0, 1, 2, base=10), first=10)
    lists.extend(batch_of(0, 1, base=13), first=13)
    assert lists.offsets == range(10, 15)
    assert lists.values == [b"v"] * 5
    assert lists.timestamps_ms == [1000, 1001, 1002, 1000, 1001]
    assert lists.keys is None and lists.headers is None
    assert lists.count == lists.size_bytes == 5


def test_offsets_keep_the_holes_that_compaction_left() -> None:
    lists = RecordLists()
    lists.extend(batch_of(0, 3, 4, base=10), first=10)
    assert lists.offsets == [10, 13, 14]


def test_a_batch_that_begins_before_the_position_is_cut_in_every_list() -> None:
    lists = RecordLists(with_keys=True, with_headers=True)
    lists.extend(batch_of(0, 1, base=8), first=8)
    lists.extend(batch_of(0, 1, 3, 4, base=10), first=12)
    assert lists.offsets == [8, 9, 13, 14]
    assert lists.timestamps_ms == [1000, 1001, 1003, 1004]
    assert lists.keys == [b"k0", b"k1", b"k3", b"k4"]
    assert [found for ((_, found),) in lists.headers or []] == [b"0", b"1", b"3", b"4"]
    assert lists.count == lists.size_bytes == 4


def test_a_batch_that_lies_before_the_position_adds_nothing() -> None:
    lists = RecordLists()
    lists.extend(batch_of(0, 1), first=2)
    assert not lists.count and not lists.values and not lists.size_bytes and not lists.offsets


def test_tombstones_are_kept_and_have_no_size() -> None:
    lists = RecordLists(with_keys=True)
    lists.extend(batch_of(0, value=None), first=0)
    lists.extend(batch_of(0, value=b"four", base=1), first=1)
    assert lists.values == [None, b"four"]
    assert lists.size_bytes == size_bytes(lists.values) == 4


def test_reading_a_large_batch_leaves_nothing_for_the_garbage_collector() -> None:
    batch = batch_of(*range(5_000))
    lists = RecordLists()
    gc.collect()
    collections = gc.get_stats()[0]["collections"]
    lists.extend(batch, first=0)
    assert gc.get_stats()[0]["collections"] - collections <= 1
    assert lists.count == 5_000


def misnamed_batch(compression: int, *, base: int) -> bytes:
    """Three records, of which the second has a header whose name is no UTF-8."""
    plain = DefaultRecordBatchBuilder(2, compression, 0, -1, -1, 0, 1 << 20)
    for offset, name in enumerate(("h", "name", "h")):
        plain.append(offset, 1_000 + offset, b"k", b"v%d" % offset, [(name, b"x"), ("n", None)])
    batch = bytearray(plain.build())
    if not compression:
        batch[batch.index(b"name")] = 0xFF
    batch[:8] = base.to_bytes(8, "big")
    struct.pack_into(">I", batch, 17, calc_crc32c(memoryview(batch)[21:]))
    return bytes(batch)


def test_a_header_whose_name_is_no_text_keeps_its_record() -> None:
    records = KeptRecords(misnamed_batch(0, base=4) + misnamed_batch(0, base=7))
    records.next_batch()
    batch = records.next_batch()
    assert batch is not None
    lists = RecordLists(with_headers=True)
    lists.extend(batch_of(0, base=6), first=6)
    with pytest.raises(UnicodeDecodeError):
        lists.extend(batch, first=8)
    assert lists.count == lists.size_bytes == 1
    lists.extend(records.lenient(7), first=8)
    assert lists.offsets == [6, 8, 9]
    assert lists.values == [b"v", b"v1", b"v2"]
    assert lists.timestamps_ms == [1000, 1001, 1002]
    assert lists.headers is not None
    assert lists.headers[1:] == [[("\ufffdame", b"x"), ("n", None)], [("h", b"x"), ("n", None)]]


@pytest.mark.parametrize("compression", range(5))
def test_the_lenient_reader_reads_what_the_other_one_reads(compression: int) -> None:
    records = KeptRecords(misnamed_batch(compression, base=7))
    read = RecordLists(with_keys=True, with_headers=True)
    read.extend(records.lenient(7), first=7)
    assert (read.offsets, read.keys) == (range(7, 10), [b"k"] * 3)
    assert read.values == [b"v0", b"v1", b"v2"]


@pytest.mark.parametrize(("magic", "timestamp"), [(0, -1), (1, 1_000)])
def test_records_in_older_formats_are_read(magic: int, timestamp: int) -> None:
    builder = LegacyRecordBatchBuilder(magic, 0, 1 << 20)
    builder.append(0, 1_000 if magic else None, b"k", b"v")
    records = KeptRecords(bytes(builder.build()))
    lists = RecordLists(with_headers=True)
    lists.extend(records.next_batch(), first=0)
    assert (lists.offsets, lists.values, lists.headers) == (range(1), [b"v"], [[]])
    assert lists.timestamps_ms == [timestamp]
