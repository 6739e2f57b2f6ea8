"""``fixtures/<datasource>.ndjson`` as rows, through the real decoder.

``<datasource>_<anything>.ndjson`` belongs to the same data source.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from msgspec import Struct

from ingest.chunk import Chunk, Partition, Rejection
from ingest.decode import Decoder
from shared.clickhouse.contract import ClickHouse, Insert
from shared.errors import DatafileError
from shared.model.resources import Datasource
from shared.model.workspace import did_you_mean

_OTHER_FORMATS = frozenset({".csv", ".tsv", ".json", ".jsonl", ".parquet", ".sql"})


class Fixture(Struct, frozen=True, kw_only=True):
    """One file of events for one data source; a value is a JSON text, ``lines`` its place."""

    path: Path
    datasource: Datasource
    values: tuple[bytes, ...]
    lines: tuple[int, ...]


def find_fixtures(
    folders: Sequence[Path], datasources: Mapping[str, Datasource]
) -> Iterator[Fixture]:
    """Every fixture of the projects, by file name; files of unknown data sources are skipped.

    Raises:
        DatafileError: A file cannot be read.
    """
    for folder in folders:
        for path in sorted((folder / "fixtures").glob("*.ndjson")):
            name = _owner(path.stem, datasources)
            if name is None:
                continue
            datasource = datasources[name]
            try:
                text = path.read_bytes()
            except OSError as error:
                raise DatafileError(f"The fixture {path} cannot be read: {error}.") from error
            values = {n: v for n, v in enumerate(text.splitlines(), start=1) if v.strip()}
            yield Fixture(
                path=path,
                datasource=datasource,
                values=tuple(values.values()),
                lines=tuple(values),
            )


def skipped_fixtures(
    folders: Sequence[Path], datasources: Mapping[str, Datasource]
) -> Iterator[str]:
    """One line for each file of the fixtures that ``find_fixtures`` passes over."""
    for folder in folders:
        for path in sorted((folder / "fixtures").glob("*")):
            if path.suffix in _OTHER_FORMATS:
                yield f"{path}: skipped: fixtures are NDJSON, in files named *.ndjson."
            elif path.suffix == ".ndjson" and _owner(path.stem, datasources) is None:
                hint = did_you_mean(path.stem, datasources)
                yield f"{path}: skipped: no data source has this name. {hint or ''}".rstrip()


def _owner(stem: str, datasources: Mapping[str, Datasource]) -> str | None:
    matches = [n for n in datasources if stem == n or stem.startswith(n + "_")]
    return max(matches, key=len, default=None)


def chunk_of(fixture: Fixture) -> Chunk:
    """The values of a fixture as records of a partition that does not exist."""
    count = len(fixture.values)
    return Chunk(
        partition=Partition(fixture.path.name, 0),
        offsets=range(count),
        values=fixture.values,
        timestamps_ms=[0] * count,
        next=count,
    )


async def load_fixture(clickhouse: ClickHouse, fixture: Fixture) -> tuple[Rejection, ...]:
    """Insert the good rows of a fixture; what was rejected is returned and not stored."""
    decoder = Decoder(fixture.datasource)
    decoded = decoder.decode(chunk_of(fixture))
    if decoded.block.row_count:
        await clickhouse.insert(
            Insert(
                database=clickhouse.database,
                table=fixture.datasource.name,
                columns=decoder.columns,
                defaults=decoder.defaults,
                block=decoded.block,
            )
        )
    return decoded.rejections
