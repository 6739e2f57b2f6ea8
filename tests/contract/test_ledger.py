"""The ledger, its recorder, and leases, on each engine there is."""

from __future__ import annotations

import uuid

import pytest

from ingest.lease import LEASE_MS, TABLES, Lease, take_lease
from ingest.ledger import Ledger, LedgerEntry, absent_runs
from ingest.recorder import MAX_WAITING, LedgerRecorder
from shared.clickhouse.contract import ClickHouse, Run, Statement
from shared.clock import ManualClock, SystemClock
from shared.errors import ConflictError
from shared.observe.metrics import Metrics

NOW_MS = SystemClock().now_ms()


def batch(name: str, first: int, next_: int, **changes: object) -> LedgerEntry:
    given: dict[str, object] = {
        "kind": "batch",
        "datasource": name,
        "topic": f"events.{name}",
        "partition": 0,
        "stream": (1 << 64) - 5,
        "first": first,
        "next": next_,
        "token": f"token {first}-{next_}",
        "at_ms": NOW_MS,
        **changes,
    }
    return LedgerEntry(**given)  # type: ignore[arg-type]


async def test_entries_come_back_as_they_were_and_the_last_of_a_token_wins(
    clickhouse: ClickHouse,
) -> None:
    name = f"d{uuid.uuid4().hex[:8]}"
    ledger = Ledger(clickhouse)
    await ledger.prepare()
    first = batch(name, 0, 10, rows=9, absent=(Run(3, 1),), excluded=(Run(3, 1),), note="n")
    await ledger.write([first, batch(name, 10, 20, rows=10)], worker="one")
    await ledger.write([batch(name, 10, 20, rows=8, at_ms=NOW_MS + 9_000)], worker="two")
    found = await ledger.entries(name)
    assert [(e.first, e.next, e.rows, e.worker) for e in found] == [
        (0, 10, 9, "one"),
        (10, 20, 8, "two"),
    ]
    assert (found[0].absent, found[0].excluded) == ((Run(3, 1),), (Run(3, 1),))
    assert (found[0].stream, found[0].at_ms) == (first.stream, first.at_ms)


async def test_entries_are_found_by_kind_partition_and_offset(clickhouse: ClickHouse) -> None:
    name = f"d{uuid.uuid4().hex[:8]}"
    ledger = Ledger(clickhouse)
    await ledger.prepare()
    await ledger.write(
        [
            batch(name, 0, 10),
            batch(name, 10, 20),
            batch(name, 0, 10, partition=1),
            batch(name, 20, 30, kind="gap"),
        ],
        worker="w",
    )
    assert len(await ledger.entries(name, partition=0)) == 3
    assert [e.first for e in await ledger.entries(name, kinds=("gap",))] == [20]
    assert [e.first for e in await ledger.entries(name, partition=0, overlapping=(9, 10))] == [0]
    assert [e.first for e in await ledger.entries(name, partition=0, overlapping=(10, 11))] == [10]
    assert await ledger.entries(name, stream=7) == []
    assert await ledger.highest_next(name, batch(name, 0, 1).stream, 0) == 20


async def test_what_clickhouse_does_not_take_waits_and_the_oldest_is_dropped(
    clickhouse: ClickHouse,
) -> None:
    name = f"d{uuid.uuid4().hex[:8]}"
    metrics = Metrics()
    recorder = LedgerRecorder(Ledger(clickhouse), metrics, worker="w")
    for offset in range(MAX_WAITING + 3):
        recorder.record(batch(name, offset, offset + 1, kind="alarm"))
    await recorder.flush()
    assert b'pipehouse_dropped_total{queue="ledger"} 3.0' in metrics.exposition()
    (last,) = await Ledger(clickhouse).entries(name, overlapping=(MAX_WAITING + 2, MAX_WAITING + 3))
    assert last.kind == "alarm"
    assert await Ledger(clickhouse).entries(name, overlapping=(0, 3)) == []


async def test_a_lease_has_one_holder_and_is_free_again_afterwards(clickhouse: ClickHouse) -> None:
    name = f"work {uuid.uuid4().hex[:8]}"
    clock = SystemClock()
    async with take_lease(clickhouse, clock, name, "one") as lease:
        with pytest.raises(ConflictError, match="being done by one/"):
            async with take_lease(clickhouse, clock, name, "two"):
                pass
        await lease.renew()
    async with take_lease(clickhouse, clock, name, "two"):
        pass


async def test_a_holder_that_was_not_heard_of_loses_its_lease(clickhouse: ClickHouse) -> None:
    name = f"work {uuid.uuid4().hex[:8]}"
    clock = ManualClock()
    async with take_lease(clickhouse, clock, name, "one") as lease:
        clock.advance(LEASE_MS / 1000 + 1)
        async with take_lease(clickhouse, clock, name, "two"):
            with pytest.raises(ConflictError, match="taken by another"):
                await lease.renew()


async def test_of_two_that_take_the_same_term_one_gets_it(clickhouse: ClickHouse) -> None:
    for sql in TABLES:
        await clickhouse.execute(Statement(sql=sql))
    name = f"work {uuid.uuid4().hex[:8]}"
    one = Lease(clickhouse, SystemClock(), name, 1, "one")
    two = Lease(clickhouse, SystemClock(), name, 1, "two")
    await one.take()
    with pytest.raises(ConflictError, match="another process"):
        await two.take()


def test_what_runs_leave_out_is_absent() -> None:
    assert absent_runs(0, 10, [Run(2, 3), Run(7, 3)]) == (Run(0, 2), Run(5, 2))
    assert absent_runs(0, 10, []) == (Run(0, 10),)
    assert absent_runs(0, 10, [Run(0, 10)]) == ()
