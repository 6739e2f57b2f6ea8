"""Which connections an embedded engine has, and how each is set up."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct

from shared.clickhouse.contract import SettingValue
from shared.clickhouse.profile import ENGINE_PROFILE
from shared.clickhouse.session import EngineError, Lane, Session, SessionPlan
from shared.clickhouse.sql import quote_identifier

# The database of the product's own tables.
OWN_DATABASE = "pipehouse"

_MAX_WAITING_QUERIES = 256
_MAX_WAITING_INSERTS = 64
_STREAMS = 8

_READ_SETTINGS: Mapping[str, SettingValue] = {
    **ENGINE_PROFILE,
    # Several queries at a time on few cores: parallelism inside one only adds to its latency.
    "max_threads": 1,
    "output_format_parallel_formatting": 0,
    "log_queries": 0,
}
_WRITE_SETTINGS: Mapping[str, SettingValue] = {**ENGINE_PROFILE, "log_queries": 0}


class Lanes(Struct, frozen=True, kw_only=True):
    """The connections of one engine, by what they are for."""

    inserts: Lane
    statements: Lane
    queries: Lane
    streams: Lane
    control: Lane

    def close(self) -> None:
        """Wait for what runs and close every connection; control last, it ends the others."""
        for lane in (self.inserts, self.statements, self.queries, self.streams, self.control):
            lane.close()


def open_lanes(folder: Path, database: str, readers: int, fsync: bool) -> Lanes:
    """Open the engine on a folder that is claimed, with its databases made.

    Raises:
        EngineError: The engine cannot be opened there.
    """
    connection = str(folder)
    if fsync:
        connection += f"?config-file={_write_fsync_configuration(folder)}"

    def plan(settings: Mapping[str, SettingValue], *, read_only: bool = False) -> SessionPlan:
        return SessionPlan(
            connection_string=connection, database=database, settings=settings, read_only=read_only
        )

    _create_databases(connection, (database, OWN_DATABASE))
    reading = plan(_READ_SETTINGS, read_only=True)
    writing = plan(_WRITE_SETTINGS)
    lanes = Lanes(
        inserts=Lane("insert", writing, size=1, max_waiting=_MAX_WAITING_INSERTS),
        statements=Lane("execute", writing, size=1, max_waiting=_MAX_WAITING_INSERTS),
        queries=Lane("query", reading, size=readers, max_waiting=_MAX_WAITING_QUERIES),
        streams=Lane("stream", reading, size=_STREAMS, max_waiting=_MAX_WAITING_QUERIES),
        control=Lane("control", writing, size=2, max_waiting=_MAX_WAITING_QUERIES),
    )
    try:
        for lane in (lanes.inserts, lanes.queries, lanes.control):
            lane.warm()
    except EngineError:
        lanes.close()
        raise
    return lanes


def _create_databases(connection: str, names: tuple[str, ...]) -> None:
    plan = SessionPlan(connection_string=connection, database="", settings={}, read_only=False)
    try:
        session = Session(plan)
    except RuntimeError as error:
        raise EngineError(str(error)) from None
    try:
        for name in names:
            session.query(
                f"CREATE DATABASE IF NOT EXISTS {quote_identifier(name)} ENGINE = Atomic", "Null"
            )
    finally:
        session.close()


def _write_fsync_configuration(folder: Path) -> Path:
    # These are table settings whose default only the engine's configuration file can change.
    path = folder / "pipehouse-engine.xml"
    path.write_text(
        "<clickhouse><merge_tree>"
        "<fsync_after_insert>1</fsync_after_insert>"
        "<fsync_part_directory>1</fsync_part_directory>"
        "</merge_tree></clickhouse>\n",
        encoding="utf-8",
    )
    return path
