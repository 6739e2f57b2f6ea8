"""An event's path can be followed through the logs by ids that stand on both sides of each hop."""

from __future__ import annotations

import uuid

from structlog.testing import capture_logs

from deploy.ddl import create_table
from deploy.engine import Engine
from ingest.batch import make_batch
from ingest.chunk import Chunk, Partition
from ingest.landing import Landing
from shared.clickhouse.contract import Insert, Statement, Summary
from shared.model.resources import Column, Datasource, EngineSpec


async def test_a_batch_tells_its_offsets_and_the_query_id_that_clickhouse_logs(
    each_engine: Engine,
) -> None:
    name = f"clicks_{uuid.uuid4().hex[:8]}"
    columns = (Column(name="n", type="UInt32", jsonpath="$.n"),)
    datasource = Datasource(name=name, columns=columns, engine=EngineSpec(sorting_key="n"))
    await each_engine.execute(Statement(sql=create_table(each_engine.database, datasource)))
    sent: list[Insert] = []

    class Watched:
        def __getattr__(self, attribute: str) -> object:
            return getattr(each_engine, attribute)

        async def insert(self, insert: Insert) -> Summary:
            sent.append(insert)
            return await each_engine.insert(insert)

    landing = Landing(Watched(), datasource, 100)  # type: ignore[arg-type]  # passes the rest on
    chunk = Chunk(
        partition=Partition("t", 2), offsets=[7], values=[b'{"n":1}'], timestamps_ms=[0], next=8
    )
    batch = make_batch(7, 8, [landing.decoder.decode(chunk)])
    with capture_logs() as lines:
        await landing.insert(batch, stream=255, partition=2, token=f"ph1:{name}:x:7-8")
    (line,) = [line for line in lines if line["event"] == "batch_inserted"]
    assert (line["datasource"], line["partition"]) == (name, 2)
    assert (line["first"], line["next"], line["rows"]) == (7, 8, 1)
    assert line["stream"] == "00000000000000ff"
    assert line["query_id"] == sent[0].query_id == f"ph1:{name}:x:7-8"
