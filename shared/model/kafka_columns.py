"""The columns that every data source with Kafka lines has: where a record comes from.

They are visible and come behind those of the schema, unless the schema lists them.
"""

from __future__ import annotations

from msgspec import structs

from shared.model.resources import Column, KafkaSource

# The partition is as wide as in tables that keep it hidden, so that one kind of insert fits both.
KAFKA_COLUMNS = (
    ("__topic", "LowCardinality(String)"),
    ("__partition", "Int32"),
    ("__offset", "Int64"),
    ("__timestamp", "DateTime"),
    ("__key", "String"),
    ("__value", "String"),
)
HEADERS_COLUMN = ("__headers", "Map(String, String)")


def kafka_columns(source: KafkaSource) -> tuple[tuple[str, str], ...]:
    """Name and type of the columns of a data source that reads from Kafka."""
    return (*KAFKA_COLUMNS, HEADERS_COLUMN) if source.store_headers else KAFKA_COLUMNS


def with_kafka_columns(
    columns: tuple[Column, ...], source: KafkaSource | None
) -> tuple[Column, ...]:
    """The columns of the schema and those of Kafka; one that is listed keeps its place only."""
    if source is None or not columns:
        return columns
    types = dict(kafka_columns(source))
    listed = {column.name for column in columns}
    kept = tuple(
        structs.replace(column, type=types[column.name], jsonpath=None, default=None)
        if column.name in types
        else column
        for column in columns
    )
    added = tuple(Column(name=n, type=t) for n, t in types.items() if n not in listed)
    return kept + added
