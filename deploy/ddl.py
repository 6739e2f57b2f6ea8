"""Data sources and materialized nodes as ClickHouse statements.

Each table and view says in its comment what it was made from, as JSON: that is the live state that
plans are made against, so a table and what we know of it cannot drift apart.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import msgspec
from msgspec import Struct, structs

from ingest.quarantine import STREAM_COLUMN, QuarantineTable
from shared.clickhouse.replicated import WINDOWS, replicated
from shared.clickhouse.sql import literal, quote_identifier, quote_table
from shared.model.identity import DEDUPLICATION_WINDOW, IDENTITY_COLUMNS, carries_identity
from shared.model.resources import Column, Datasource, EngineSpec, Index
from shared.model.types import TypeSyntaxError, parse_type

QUARANTINE_TTL_DAYS = 30
# Plain columns outside the sorting key of an aggregating table, which published projects have.
_LENIENT_ENGINES = frozenset({"AggregatingMergeTree"})
# It came with the check, in 26.7: older releases know neither.
LENIENCY = "allow_dimensions_outside_sorting_key"


class Traits(Struct, frozen=True, kw_only=True):
    """What the form of a table depends on, of the engine that it is made in.

    ``checks_keys``: aggregating tables with plain columns outside the key are refused, unless a
    setting allows them. ``replicates``: see ``Capabilities``.
    """

    checks_keys: bool = True
    replicates: bool = False


_USUAL = Traits()


class ViewDefinition(Struct, frozen=True, kw_only=True):
    """A materialized view: SELECT text, the data source it writes to, the tables it reads."""

    name: str
    target: str
    select: str
    sources: tuple[str, ...] = ()


class Definition(Struct, frozen=True, kw_only=True):
    """What the comment of a table or view holds; exactly one of the two is given."""

    pipehouse: int = 1
    datasource: Datasource | None = None
    view: ViewDefinition | None = None


def comment(definition: Definition) -> str:
    """The text of the comment."""
    return msgspec.json.encode(definition).decode()


def read_comment(text: str) -> Definition | None:
    """The definition in a comment, None where the comment is not ours."""
    try:
        return msgspec.json.decode(text.encode(), type=Definition)
    except msgspec.MsgspecError:
        return None


def without_spans(datasource: Datasource) -> Datasource:
    """The data source without the places in files, which do not belong to its definition."""
    return structs.replace(
        datasource,
        columns=tuple(structs.replace(c, span=None, default_span=None) for c in datasource.columns),
        indexes=tuple(structs.replace(i, span=None) for i in datasource.indexes),
        span=None,
        engine_spans=(),
    )


def create_table(database: str, datasource: Datasource, traits: Traits = _USUAL) -> str:
    """The table of a data source, with its hidden identity columns and its token memory."""
    columns = [column_definition(c) for c in datasource.columns]
    if carries_identity(datasource):
        # A data source with Kafka lines shows some of them.
        visible = {c.name for c in datasource.columns}
        columns += [
            f"{quote_identifier(name)} {type_} MATERIALIZED 0"
            for name, type_ in IDENTITY_COLUMNS
            if name not in visible
        ]
        columns += [
            f"INDEX {quote_identifier(name + '_range')} {name} TYPE minmax GRANULARITY 1"
            for name in ("__partition", "__offset")
        ]
    if datasource.engine.name != "Null":
        columns += [_index(index) for index in datasource.indexes]
    definition = Definition(datasource=without_spans(datasource))
    return _statement(
        f"CREATE TABLE IF NOT EXISTS {quote_table(database, datasource.name)}",
        columns,
        engine_clause(datasource, traits),
        f"COMMENT {literal(comment(definition))}",
    )


def _index(index: Index) -> str:
    name = quote_identifier(index.name)
    return f"INDEX {name} {index.expression} TYPE {index.type} GRANULARITY {index.granularity}"


def create_quarantine(database: str, datasource: Datasource, traits: Traits = _USUAL) -> str:
    """The quarantine table: keyed by stream, partition and offset; the last version wins."""
    table = QuarantineTable(datasource)
    columns = [f"{quote_identifier(name)} {type_}" for name, type_ in table.columns]
    columns.append(f"{STREAM_COLUMN[0]} {STREAM_COLUMN[1]} MATERIALIZED 0")
    engine = (
        "ENGINE = ReplacingMergeTree(insertion_date)"
        " ORDER BY (__stream, __partition, __offset)"
        f" TTL insertion_date + INTERVAL {QUARANTINE_TTL_DAYS} DAY"
        f" SETTINGS non_replicated_deduplication_window={DEDUPLICATION_WINDOW}"
    )
    return _statement(
        f"CREATE TABLE IF NOT EXISTS {quote_table(database, table.name)}",
        columns,
        replicated(engine) if traits.replicates else engine,
        "",
    )


def _statement(head: str, columns: Iterable[str], engine: str, tail: str) -> str:
    body = ",\n    ".join(columns)
    return f"{head} (\n    {body}\n) {engine} {tail}".rstrip()


def column_definition(column: Column) -> str:
    """One column of a CREATE or ALTER statement."""
    parts = [quote_identifier(column.name), column.type]
    if column.default is not None:
        parts.append(f"DEFAULT {column.default}")
    if column.codec is not None:
        parts.append(f"CODEC({column.codec})")
    return " ".join(parts)


def engine_clause(datasource: Datasource, traits: Traits = _USUAL) -> str:
    """Everything after the columns: engine, keys, TTL and settings."""
    engine = datasource.engine
    if engine.name == "Null":
        return "ENGINE = Null"
    prefix = "Replicated" if traits.replicates else ""
    parts = [f"ENGINE = {prefix}{engine.name}{_engine_arguments(engine)}"]
    if engine.partition_key:
        parts.append(f"PARTITION BY ({engine.partition_key})")
    parts.append(f"ORDER BY ({engine.sorting_key or default_sorting_key(datasource)})")
    if engine.primary_key:
        parts.append(f"PRIMARY KEY ({engine.primary_key})")
    if engine.sampling_key:
        parts.append(f"SAMPLE BY ({engine.sampling_key})")
    if engine.ttl:
        parts.append(f"TTL {_without_end(engine.ttl)}")
    parts.append("SETTINGS " + ", ".join(_settings(engine, traits)))
    return " ".join(parts)


def _without_end(text: str) -> str:
    """Without semicolons at the end: the comment behind would be a statement of its own."""
    return text.rstrip("; \t\r\n")


def _settings(engine: EngineSpec, traits: Traits) -> Iterable[str]:
    """What the engine needs and what the file says, but never a shorter memory of tokens.

    Of a setting that is given twice the last one counts.
    """
    if engine.name in _LENIENT_ENGINES and traits.checks_keys:
        yield f"{LENIENCY}=1"
    given = _without_end(engine.settings or "")
    if given:
        yield given
    windows = {"non_replicated_deduplication_window": DEDUPLICATION_WINDOW}
    if traits.replicates:
        windows |= WINDOWS
    for name, least in windows.items():
        window = re.search(rf"\b{name}\s*=\s*([0-9]+)", given)
        if window is None or int(window[1]) < least:
            yield f"{name}={least}"


def _engine_arguments(engine: EngineSpec) -> str:
    given: list[str | None] = []
    match engine.name:
        case "ReplacingMergeTree":
            given = [engine.ver, engine.is_deleted]
        case "SummingMergeTree":
            given = [f"({engine.columns})" if engine.columns else None]
        case "CollapsingMergeTree":
            given = [engine.sign]
        case "VersionedCollapsingMergeTree":
            given = [engine.sign, engine.version]
    arguments = ", ".join(a for a in given if a)
    return f"({arguments})" if arguments else ""


def default_sorting_key(datasource: Datasource) -> str:
    """The key of a table whose file names none: a time, a number, a string, in that order.

    The first column of each kind that may stand in a key; ``tuple()`` where there is none. Columns
    that the engine itself works with (sign, version, those it sums) are left out: in the key they
    would keep rows apart that belong together.
    """
    engine = datasource.engine
    taken = {engine.ver, engine.is_deleted, engine.sign, engine.version}
    taken |= {name.strip(" `") for name in (engine.columns or "").split(",")}
    kinds: dict[str, str] = {}
    for column in datasource.columns:
        if column.name in taken:
            continue
        try:
            type_ = parse_type(column.type)
        except TypeSyntaxError:
            continue
        kind = _key_kind(type_.unwrapped.name)
        if kind and not type_.is_nullable:
            kinds.setdefault(kind, quote_identifier(column.name))
    key = [kinds[kind] for kind in ("time", "number", "string") if kind in kinds]
    return ", ".join(key) or "tuple()"


def _key_kind(name: str) -> str | None:
    if name.startswith("Date"):
        return "time"
    if name.startswith(("Int", "UInt")):
        return "number"
    return "string" if name == "String" else None


def create_view(database: str, view: ViewDefinition) -> str:
    """A materialized view that writes to the table of its data source.

    The comment stands on a line of its own: the SELECT may end in a line comment.
    """
    return (
        f"CREATE MATERIALIZED VIEW IF NOT EXISTS {quote_table(database, view.name)}"
        f" TO {quote_table(database, view.target)} AS {_without_end(view.select)}"
        f"\nCOMMENT {literal(comment(Definition(view=view)))}"
    )


def drop_view(database: str, name: str) -> str:
    """Drop a view; what it has written stays."""
    return f"DROP VIEW IF EXISTS {quote_table(database, name)}"


def alter_table(database: str, table: str, changes: Iterable[str]) -> str:
    """Several changes as one statement: the engine makes all of them or none.

    A change of the TTL must be the last one, because a TTL itself may contain commas.
    """
    return f"ALTER TABLE {quote_table(database, table)} {', '.join(changes)}"


def add_column(column: Column) -> str:
    """A change that adds a column; rows that are there already get its default."""
    return f"ADD COLUMN IF NOT EXISTS {column_definition(column)}"


def modify_default(column: Column) -> str:
    """A change that sets a column's default, or removes one that is there.

    It holds for rows to come, and for rows that are older than the column until they are merged.
    """
    name = quote_identifier(column.name)
    if column.default is None:
        return f"MODIFY COLUMN {name} REMOVE DEFAULT"
    return f"MODIFY COLUMN {name} {column.type} DEFAULT {column.default}"


def modify_codec(column: Column) -> str:
    """A change of how a column is compressed, in parts to come."""
    return f"MODIFY COLUMN {quote_identifier(column.name)} CODEC({column.codec or 'Default'})"


def modify_comment(datasource: Datasource) -> str:
    """A change that writes down a new definition; a part of every change of a table."""
    text = comment(Definition(datasource=without_spans(datasource)))
    return f"MODIFY COMMENT {literal(text)}"
