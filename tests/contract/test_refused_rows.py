"""The search for rows that ClickHouse refuses, where it refuses most of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from deploy.engine import Engine
from ingest.chunk import Chunk, Partition
from ingest.landing import Landing
from shared.clickhouse.contract import ClickHouse, Insert, Statement, Summary
from shared.model.resources import EngineSpec
from tests.contract.delivery_rig import PLAIN, Rig, open_rig

ADDING_UP = EngineSpec(name="SummingMergeTree", sorting_key="id")


class CountingEngine:
    """The real engine; counts inserts."""

    def __init__(self, engine: ClickHouse) -> None:
        self._engine = engine
        self.inserts = 0

    def __getattr__(self, name: str) -> object:
        return getattr(self._engine, name)

    async def insert(self, insert: Insert) -> Summary:
        self.inserts += 1
        return await self._engine.insert(insert)


async def search(rig: Rig, first: int, next_: int) -> tuple[dict[int, str], int]:
    """What is found guilty among events whose ids are their offsets, and with how many inserts."""
    engine = CountingEngine(rig.engine)
    landing = Landing(engine, rig.datasource, 1_000)  # type: ignore[arg-type]  # passes the rest on
    offsets = range(first, next_)
    values = [json.dumps({"id": i, "ts": "2024-01-01 00:00:00"}).encode() for i in offsets]
    chunk = Chunk(
        partition=Partition("t", 0),
        offsets=offsets,
        values=values,
        timestamps_ms=[0] * len(values),
        next=next_,
    )
    guilty = await landing.find_guilty(0, [chunk])
    assert await rig.one("SELECT name FROM system.tables WHERE name LIKE '%EV__scratch%'") == []
    return guilty, engine.inserts


async def constrain(rig: Rig, *checks: str) -> None:
    for number, check in enumerate(checks):
        await rig.engine.execute(
            Statement(sql=f"ALTER TABLE {rig.name} ADD CONSTRAINT c{number} CHECK {check}")
        )


@pytest.mark.parametrize("spec", [PLAIN, ADDING_UP])
async def test_rows_that_break_a_constraint_are_found_together(
    each_engine: Engine, tmp_path: Path, spec: EngineSpec
) -> None:
    async with open_rig(each_engine, tmp_path, spec) as rig:
        await rig.engine.execute(
            Statement(sql=f"ALTER TABLE {rig.name} ADD COLUMN m UInt32 MATERIALIZED id % 7")
        )
        await constrain(rig, "id % 5 < 2", "m != 3", "nullIf(id % 11, 4) != 20")
        guilty, inserts = await search(rig, 1_000, 4_000)
        assert guilty.keys() == {
            i for i in range(1_000, 4_000) if i % 5 >= 2 or i % 7 == 3 or i % 11 == 4
        }
        for offset, expression in ((1_002, "(id % 5) < 2"), (1_011, "m != 3"), (1_005, "nullIf")):
            assert "Constraint `c" in guilty[offset] and expression in guilty[offset]
        assert inserts <= 10


async def test_rows_that_nothing_names_are_found_one_by_one(
    each_engine: Engine, tmp_path: Path
) -> None:
    """The end of the expression cannot be told; and a column whose value cannot be made."""
    async with open_rig(each_engine, tmp_path) as rig:
        await constrain(rig, "id != 7 OR 'x' = '). Column values: '")
        await rig.engine.execute(
            Statement(
                sql=f"ALTER TABLE {rig.name} ADD COLUMN m UInt8 MATERIALIZED"
                " throwIf(id = 9, 'nine is not taken')"
            )
        )
        guilty, _ = await search(rig, 0, 12)
        assert guilty.keys() == {7, 9}
        assert "nine is not taken" in guilty[9]


async def test_most_of_a_large_batch_is_found_in_seconds(
    each_engine: Engine, tmp_path: Path
) -> None:
    async with open_rig(each_engine, tmp_path) as rig:
        await constrain(rig, "id % 5 < 2")
        guilty, inserts = await search(rig, 0, 100_000)
        assert len(guilty) == 60_000
        assert inserts == 3
