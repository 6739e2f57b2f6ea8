"""The embedded engine run as a server: many sessions, queries with ids, inserts of blocks."""

from __future__ import annotations

import contextlib
import re
import threading
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from shared.clickhouse.orphans import remove_orphans
from shared.clickhouse.rowfile import row_file
from shared.clickhouse.session import EngineError, Session, SessionPlan
from shared.clickhouse.sql import literal, quote_identifier, quote_table
from tests.standin.blocks import Block
from tests.standin.errors import ServerError, server_error
from tests.standin.replicas import ENGINES, alone
from tests.standin.running import Query, Running
from tests.standin.statements import Column, as_insert_select, kill_answer, write_all
from tests.standin.text import (
    InputCall,
    InsertHead,
    input_call,
    is_streamed,
    replace_calls,
    replace_tables,
    split_format,
    tokens,
)

_MAX_IDLE = 8
_MAX_KINDS = 32
# Database, level of readonly, and the settings that are fixed with it.
_Key = tuple[str, int, frozenset[tuple[str, str]]]
_BASE_SETTINGS: Mapping[str, str | int] = {"log_queries": 0}
_LENIENCY = "allow_dimensions_outside_sorting_key"
_CHECKED_TABLE = re.compile(r"(\s*CREATE TABLE\b.*?\bAggregatingMergeTree\b.*?\bSETTINGS) ", re.S)
# Since then a deduplication token is enough for what is not sorted.
_TOKEN_SUFFICES = (26, 4)
# Settings of ours that came after the oldest release that we work with.
_CAME_WITH: Mapping[str, tuple[int, int]] = {
    "deduplicate_insert_select": (25, 12),
    "deduplicate_insert": (26, 2),
    _LENIENCY: (26, 7),
}
_KILL_PAUSES_S = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
_KILL_WHERE = re.compile(r"\bWHERE\b(.*?)(?:\b(SYNC|ASYNC|TEST)\b)?\s*;?\s*\Z", re.I | re.S)


class Access(Struct, frozen=True, kw_only=True):
    """What a statement runs under.

    ``readonly`` is the engine's setting: 0, 1 (settings cannot be changed) or 2. ``shown`` are the
    tables of the system database that are listed; None for all.
    """

    database: str
    user: str = "default"
    settings: Mapping[str, str] = msgspec.field(default_factory=dict)
    parameters: Mapping[str, str] = msgspec.field(default_factory=dict)
    readonly: int = 0
    shown: frozenset[str] | None = None


class Engine:
    """The engine on one data folder; used from many threads.

    Args:
        folder: Where the data lies.
        repair_orphans: Whether deduplication entries without a part are removed first, which no
            server does.
        release: Three numbers of an older one to pose as: its version and defaults, and none of
            the settings of ours that came later.
        replicated: Whether to pose as one of several hosts.
    """

    def __init__(
        self,
        folder: Path,
        *,
        repair_orphans: bool = False,
        release: str = "",
        replicated: bool = False,
    ) -> None:
        self._replicated = replicated
        folder.mkdir(parents=True, exist_ok=True)
        if repair_orphans:
            remove_orphans(folder)
        self._connection = str(folder.absolute())
        self._lock = threading.Lock()
        self._idle: dict[_Key, list[Session]] = {}
        self.running = Running()
        self._compatibility = {"compatibility": release.rpartition(".")[0]} if release else {}
        self._control = self._open("", 0, {})
        self.real_version = self._scalar("SELECT version()")
        self.version = f"{release}.1" if release else self.real_version
        self.timezone = self._scalar("SELECT timezone()")
        self.number = tuple(int(part) for part in self.version.split(".")[:2])
        self._lacking = {name for name, since in _CAME_WITH.items() if self.number < since}
        known = self._scalar("SELECT name FROM system.settings").split("\n")
        self.setting_names = frozenset(known) - self._lacking
        self.server_uuid = self._kept_uuid(folder / "standin-uuid")
        self.boot_uuid = str(uuid.uuid4())
        self._kill_lock = threading.Lock()

    def check(self, sql: str, settings: Mapping[str, str]) -> None:
        """Whether this release takes what a client asks for.

        Raises:
            ServerError: It names a setting that came later, or wants what came later of one.
        """
        if (
            self.number < _TOKEN_SUFFICES
            and settings.get("deduplicate_insert_select") == "force_enable"
            and input_call(sql) is not None
        ):
            text = "Deduplication for INSERT SELECT with non-stable SELECT is not possible"
            raise ServerError(764, "DEDUPLICATION_IS_NOT_POSSIBLE", text)
        for name in self._lacking & {token.string or token.text for token in tokens(sql)}:
            raise ServerError(115, "UNKNOWN_SETTING", f"Unknown setting '{name}'")

    @staticmethod
    def _kept_uuid(path: Path) -> str:
        if not path.exists():
            path.write_text(str(uuid.uuid4()))
        return path.read_text()

    def _scalar(self, sql: str) -> str:
        return str(self._control.query(sql, "TSVRaw").bytes().decode().rstrip("\n"))

    def _open(self, database: str, readonly: int, settings: Mapping[str, str]) -> Session:
        plan = SessionPlan(
            connection_string=self._connection,
            database=database,
            settings={**_BASE_SETTINGS, **self._compatibility, **settings},
            read_only=readonly == 2,
        )
        try:
            session = Session(plan)
            if readonly == 1:
                session.query("SET readonly = 1", "Null")
        except (RuntimeError, EngineError) as error:
            raise server_error(str(error)) from None
        return session

    @contextlib.contextmanager
    def session(self, access: Access) -> Iterator[Session]:
        """A session for one statement that leaves nothing behind in it."""
        # At level 1 nothing can be changed any more, so the settings belong to the session.
        fixed = access.settings if access.readonly == 1 else {}
        key = (access.database, access.readonly, frozenset(fixed.items()))
        with self._lock:
            idle = self._idle.get(key)
            session = idle.pop() if idle else None
        session = session or self._open(access.database, access.readonly, fixed)
        try:
            yield session
        except BaseException:
            session.close()
            raise
        self._keep(key, session)

    def _keep(self, key: _Key, session: Session) -> None:
        dropped: list[Session] = []
        with self._lock:
            if len(self._idle) >= _MAX_KINDS and key not in self._idle:
                dropped = [other for idle in self._idle.values() for other in idle]
                self._idle.clear()
            idle = self._idle.setdefault(key, [])
            (idle if len(idle) < _MAX_IDLE else dropped).append(session)
        for other in dropped:
            other.close()

    def own_session(self, access: Access) -> Session:
        """A session for a connection, which keeps its state; the caller closes it."""
        return self._open(access.database, access.readonly, {})

    def run(
        self, session: Session, query: Query, access: Access, sql: str, output_format: str
    ) -> Any:
        """Run one statement and return the engine's result.

        Raises:
            ServerError: The engine refused it, or it was killed.
        """
        query.check()
        try:
            if access.readonly != 1:
                # The comment that it is found by is lost where it has parameters.
                found_by = {"log_comment": query.marker} if access.parameters else {}
                session.apply({**access.settings, **found_by})
            return session.query(
                f"{self.emulated(sql, access.user, access.shown)}\n-- {query.marker}",
                output_format,
                access.parameters,
            )
        except EngineError as error:
            raise server_error(str(error)) from None

    def run_into(
        self,
        session: Session,
        query: Query,
        access: Access,
        sql: str,
        output_format: str,
        descriptor: int,
    ) -> Any:
        """Run a query and write its answer to a pipe; see ``run``."""
        split = split_format(sql)
        if not is_streamed(sql):
            result = self.run(session, query, access, sql, split.format or output_format)
            write_all(descriptor, result.bytes())
            return result
        return self.run(
            session,
            query,
            access,
            f"{split.body}\nINTO OUTFILE '/proc/self/fd/{descriptor}' APPEND"
            f"\nFORMAT {split.format or output_format} {split.tail}",
            output_format,
        )

    def emulated(self, sql: str, user: str, shown: frozenset[str] | None = None) -> str:
        """The statement with what the embedded engine lacks put in its place."""
        if self._replicated:
            sql = alone(sql)
        lowered = sql.lower()
        if _LENIENCY in self._lacking:
            # Defaults of tables are not among those that follow ``compatibility``.
            sql = _CHECKED_TABLE.sub(rf"\1 {_LENIENCY} = 1, ", sql, count=1)
        if "system" in lowered:
            tables: dict[tuple[str, str], str] = {}
            if "processes" in lowered:
                tables["system", "processes"] = self.running.processes_sql()
            if self._replicated and "engine" in lowered:
                for table, engine in ENGINES.items():
                    posed = f"(SELECT * REPLACE ({engine} AS engine) FROM system.{table})"
                    tables["system", table] = posed
            if "uuid" in lowered and "tables" in lowered:
                tables["system", "tables"] = self._tables_sql(shown)
            if self._lacking:
                names = ", ".join(map(literal, self._lacking))
                for table in ("settings", "merge_tree_settings"):
                    known = f"(SELECT * FROM system.{table} WHERE name NOT IN ({names}))"
                    tables["system", table] = known
            if tables:
                sql = replace_tables(sql, tables)
        calls = {
            "serverUUID": f"toUUID('{self.server_uuid}')",
            "currentUser": literal(user),
            "user": literal(user),
        }
        if self.version != self.real_version:
            calls["version"] = literal(self.version)
        if any(name.lower() in lowered for name in calls):
            sql = replace_calls(sql, calls)
        return sql

    def _tables_sql(self, shown: frozenset[str] | None) -> str:
        # A server gives its system tables new identifiers at every start; this engine gives none.
        rows = ""
        if shown is not None:
            names = ", ".join(map(literal, sorted(shown)))
            rows = f" WHERE database != 'system' OR has([{names}]::Array(String), name)"
        engine = ENGINES["tables"] if self._replicated else "engine"
        return (
            "(SELECT * REPLACE (if(database = 'system',"
            f" reinterpretAsUUID(MD5(concat('{self.boot_uuid}', name))), uuid) AS uuid,"
            f" {engine} AS engine) FROM system.tables{rows})"
        )

    def columns(self, session: Session, database: str, table: str) -> list[Column]:
        """The columns of a table.

        Raises:
            ServerError: There is none of that name.
        """
        try:
            answer = session.query(
                f"DESCRIBE TABLE {quote_table(database, table)}", "JSONCompactEachRow"
            )
        except EngineError as error:
            raise server_error(str(error)) from None
        rows = (msgspec.json.decode(line) for line in answer.bytes().splitlines())
        return [Column(row[0], row[1], row[2]) for row in rows]

    def insert_blocks(
        self,
        session: Session,
        query: Query,
        access: Access,
        target: tuple[str, str],
        blocks: Iterable[Block],
        columns: tuple[tuple[str, str], ...],
        settings: str,
    ) -> Any:
        """Insert what came over the native protocol, as one block; see ``run``."""
        names = ", ".join(quote_identifier(name) for name, _ in columns)
        bodies = [block.body for block in blocks]
        structure = ", ".join(f"{quote_identifier(name)} {kind}" for name, kind in columns)
        with row_file(bodies) as path:
            return self.run(
                session,
                query,
                access,
                f"INSERT INTO {quote_table(*target)} ({names}) SELECT {names}"
                f" FROM file({literal(path)}, 'Native', {literal(structure)})"
                f" SETTINGS {as_insert_select(access.settings, bodies)}"
                + (f", {settings}" if settings else ""),
                "Null",
            )

    def structure(self, session: Session, text: str) -> tuple[tuple[str, str], ...]:
        """Names and types of a table function's structure.

        Raises:
            ServerError: It does not parse.
        """
        try:
            answer = session.query(f"DESCRIBE TABLE null({literal(text)})", "JSONCompactEachRow")
        except EngineError as error:
            raise server_error(str(error)) from None
        rows = (msgspec.json.decode(line) for line in answer.bytes().splitlines())
        return tuple((row[0], row[1]) for row in rows)

    def insert_input(
        self,
        session: Session,
        query: Query,
        access: Access,
        call: InputCall,
        bodies: list[bytes],
    ) -> Any:
        """Insert what a SELECT makes of data that the client sent, as one block; see ``run``."""
        with row_file(bodies) as path:
            source = f"file({literal(path)}, {literal(call.format)}, {literal(call.structure)})"
            return self.run(
                session,
                query,
                access,
                f"{call.before}{source}{call.after}"
                f" SETTINGS {as_insert_select(access.settings, bodies)}",
                "Null",
            )

    def insert_data(
        self, session: Session, query: Query, access: Access, head: InsertHead, data: bytes
    ) -> Any:
        """Insert data in any format, as it came in the text or over HTTP; see ``run``."""
        columns = ", ".join(quote_identifier(name) for name in head.columns)
        target = quote_table(head.database or access.database, head.table)
        with row_file([data]) as path:
            return self.run(
                session,
                query,
                access,
                f"INSERT INTO {target} {f'({columns})' if columns else ''}"
                f" FROM INFILE {literal(path)}"
                + (f" SETTINGS {head.settings}" if head.settings else "")
                + f" FORMAT {head.format}",
                "Null",
            )

    def kill(self, sql: str, user: str, *, everybody: bool) -> str:
        """End the statements that a ``KILL QUERY`` names; returns a query for its answer.

        Args:
            sql: The KILL statement.
            user: Who asks.
            everybody: Whether statements of others may be ended too.
        """
        match = _KILL_WHERE.search(sql)
        if match is None:
            raise ServerError(62, "SYNTAX_ERROR", f"Syntax error: failed at position 1: {sql}")
        mode = (match.group(2) or "ASYNC").upper()
        found: list[Query] = []
        for query_id in self._control_query(
            f"SELECT query_id FROM system.processes WHERE {match.group(1)}", user
        ):
            query = self.running.get(query_id)
            if query is not None:
                found.append(query)
        if not everybody and any(query.user != user for query in found):
            raise ServerError(
                497,
                "ACCESS_DENIED",
                f"{user}: Not enough privileges. To execute this query, it's necessary to have"
                " the grant KILL QUERY ON *.*.",
            )
        if mode == "TEST":
            return kill_answer(found, "unknown_status")
        for query in found:
            query.cancelled.set()
        if mode == "SYNC":
            for query in found:
                self.end(query)
        else:
            for query in found:
                threading.Thread(target=self.end, args=(query,), daemon=True).start()
        return kill_answer(found, "finished" if mode == "SYNC" else "waiting")

    def _control_query(self, sql: str, user: str) -> list[str]:
        with self._kill_lock:
            try:
                answer = self._control.query(self.emulated(sql, user), "JSONCompactEachRow").bytes()
            except EngineError as error:
                raise server_error(str(error)) from None
        return [msgspec.json.decode(line)[0] for line in answer.splitlines()]

    def end(self, query: Query) -> None:
        """Cancel a statement and wait until it is gone.

        Repeated, because it may not have reached the engine yet; at most ten seconds.
        """
        query.cancelled.set()
        until = time.monotonic() + 10
        for pause_s in (*_KILL_PAUSES_S, 5.0):
            if query.done.is_set() or time.monotonic() > until:
                return
            with self._kill_lock, contextlib.suppress(EngineError):
                self._control.query(
                    f"KILL QUERY WHERE endsWith(query, '-- {query.marker}')"
                    f" OR Settings['log_comment'] = '{query.marker}' ASYNC",
                    "Null",
                )
            if query.done.wait(pause_s):
                return

    def close(self) -> None:
        """Let go of the folder."""
        for idle in self._idle.values():
            for session in idle:
                session.close()
        self._control.close()
