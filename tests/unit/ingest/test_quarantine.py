"""Whatever a producer sends becomes a quarantine row."""

from __future__ import annotations

import msgspec
import pytest

from ingest.chunk import CellError, Partition, Rejection
from ingest.quarantine import QuarantineTable
from shared.model.resources import Column, Datasource, EngineSpec

TABLE = QuarantineTable(
    Datasource(
        name="events",
        columns=(Column(name="id", type="UInt32", jsonpath="$.id"),),
        engine=EngineSpec(sorting_key="id"),
    )
)


def line(timestamp_ms: int = 0, raw: bytes = b"{}") -> dict[str, object]:
    rejection = Rejection(
        offset=2**40,
        timestamp_ms=timestamp_ms,
        raw=raw,
        errors=(CellError("id", "The value is missing or null."),),
    )
    block = TABLE.block([rejection], stream=2**64 - 1, partition=Partition("t", 3), now_s=5)
    (only,) = block.json_lines()
    decoded: dict[str, object] = msgspec.json.decode(only)
    return decoded


@pytest.mark.parametrize(
    ("timestamp_ms", "stored"),
    [
        (1_700_000_000_123, "2023-11-14 22:13:20.123"),
        (-1, "1970-01-01 00:00:00.000"),
        (1_700_000_000_000_000, "2299-12-31 23:59:59.999"),
        (2**63 - 1, "2299-12-31 23:59:59.999"),
    ],
)
def test_a_timestamp_that_no_date_can_hold_becomes_the_nearest(
    timestamp_ms: int, stored: str
) -> None:
    assert line(timestamp_ms)["__timestamp"] == stored


def test_bytes_that_are_no_text_are_shown_as_far_as_they_are() -> None:
    assert str(line(raw=b"a\xff{")["__raw"]) == "a\ufffd{"


def test_identity_is_kept_whole() -> None:
    found = line()
    assert (found["__stream"], found["__partition"], found["__offset"]) == (2**64 - 1, 3, 2**40)
