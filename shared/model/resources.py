"""The nouns of a project: what its datafiles say, as frozen values.

Nothing here knows how the files are written or how the tables are made. Types are kept as
ClickHouse spells them; ``shared/model/types.py`` parses that spelling.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

NodeKind = Literal["standard", "endpoint", "materialized", "copy", "sink"]


class Span(Struct, frozen=True):
    """A place in a file; line and column start at 1."""

    path: str
    line: int
    column: int = 1


class Column(Struct, frozen=True, kw_only=True):
    """One column of a data source.

    ``type`` is canonical ClickHouse spelling with ``Nullable(...)`` included. ``jsonpath`` is
    without the ``json:`` prefix (``$.a.b[:]``), None for a column fed by its default.
    ``default`` and ``codec`` are SQL text; ``default_span`` is where the default begins.
    """

    name: str
    type: str
    jsonpath: str | None = None
    default: str | None = None
    codec: str | None = None
    span: Span | None = None
    default_span: Span | None = None


class Index(Struct, frozen=True, kw_only=True):
    """One data-skipping index."""

    name: str
    expression: str
    type: str
    granularity: int = 1
    span: Span | None = None


class EngineSpec(Struct, frozen=True, kw_only=True):
    """The table engine; every expression is SQL text, None where the file says nothing."""

    name: str = "MergeTree"
    partition_key: str | None = None
    sorting_key: str | None = None
    primary_key: str | None = None
    sampling_key: str | None = None
    ttl: str | None = None
    settings: str | None = None
    ver: str | None = None
    is_deleted: str | None = None
    columns: str | None = None
    sign: str | None = None
    version: str | None = None


class TokenGrant(Struct, frozen=True):
    """A `TOKEN name PERMISSION` line; the permission is ``READ`` or ``APPEND``."""

    name: str
    permission: str


class KafkaSource(Struct, frozen=True, kw_only=True):
    """The `KAFKA_*` lines of a data source."""

    connection: str
    topic: str
    group_id: str
    auto_offset_reset: str = "latest"
    store_raw_value: bool = False
    store_headers: bool = False
    key_format: str = "string"
    value_format: str = "json_without_schema"


class Datasource(Struct, frozen=True, kw_only=True):
    """A table that events are written to.

    ``engine_spans`` holds where the value of each ENGINE command begins.
    """

    name: str
    columns: tuple[Column, ...]
    engine: EngineSpec = EngineSpec()
    description: str = ""
    indexes: tuple[Index, ...] = ()
    tokens: tuple[TokenGrant, ...] = ()
    tags: tuple[str, ...] = ()
    shared_with: tuple[str, ...] = ()
    forward_query: str | None = None
    backfill: str | None = None
    kafka: KafkaSource | None = None
    imports: tuple[tuple[str, str], ...] = ()
    span: Span | None = None
    engine_spans: tuple[tuple[str, Span], ...] = ()


class Node(Struct, frozen=True, kw_only=True):
    """One SELECT of a pipe.

    ``sql`` is the text of the block without a leading ``%``; ``sql_line`` is the file line its
    first line stands on and ``sql_indent`` how many characters were cut from each line's start, so
    that a position in ``sql`` can be turned into one in the file. ``options`` holds what belongs
    to the kind, keyed by command: ``DATASOURCE``, ``TARGET_DATASOURCE``, ``COPY_SCHEDULE`` …
    """

    name: str
    sql: str
    kind: NodeKind = "standard"
    is_template: bool = False
    description: str = ""
    options: tuple[tuple[str, str], ...] = ()
    span: Span | None = None
    sql_line: int = 1
    sql_lines: tuple[int, ...] = ()
    sql_indent: int = 0

    def option(self, key: str) -> str | None:
        """The value of one option, None where the file does not give it."""
        return dict(self.options).get(key)


class Pipe(Struct, frozen=True, kw_only=True):
    """An ordered list of nodes; at most one of them is not a standard node."""

    name: str
    nodes: tuple[Node, ...]
    description: str = ""
    tokens: tuple[TokenGrant, ...] = ()
    tags: tuple[str, ...] = ()
    span: Span | None = None

    @property
    def answer(self) -> Node:
        """The node that stands for the pipe when it is read: its typed node, else its last."""
        return next((n for n in self.nodes if n.kind != "standard"), self.nodes[-1])

    @property
    def endpoint(self) -> Node | None:
        """The node served over HTTP, None where the pipe has no endpoint."""
        return next((n for n in self.nodes if n.kind == "endpoint"), None)

    @property
    def materialized(self) -> Node | None:
        """The node that feeds a data source, None where there is none."""
        return next((n for n in self.nodes if n.kind == "materialized"), None)


class Connection(Struct, frozen=True, kw_only=True):
    """A `.connection` file; ``settings`` keeps each command as written."""

    name: str
    type: str
    settings: tuple[tuple[str, str], ...] = ()
    span: Span | None = None
