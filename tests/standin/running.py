"""The statements that run, by query id: what ``system.processes`` shows and ``KILL QUERY`` ends."""

from __future__ import annotations

import itertools
import threading
import time
import uuid

from shared.clickhouse.sql import literal
from tests.standin.errors import ServerError

_numbers = itertools.count(1)


class Query:
    """One statement on its way, from its arrival to its answer."""

    def __init__(
        self, *, sql: str, query_id: str, user: str, database: str, interface: str
    ) -> None:
        self.sql = sql
        self.query_id = query_id or str(uuid.uuid4())
        self.user = user
        self.database = database
        self.interface = interface
        self.marker = f"standin:{next(_numbers)}"
        self.started_s = time.monotonic()
        self.cancelled = threading.Event()
        self.done = threading.Event()

    def check(self) -> None:
        """Go on only if nobody killed it.

        Raises:
            ServerError: Somebody did.
        """
        if self.cancelled.is_set():
            raise ServerError(394, "QUERY_WAS_CANCELLED", "Query was cancelled.")


class Running:
    """All statements that run; used from many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._queries: dict[str, Query] = {}

    def enter(self, query: Query) -> None:
        """Add one.

        Raises:
            ServerError: One with the same id runs already.
        """
        with self._lock:
            if query.query_id in self._queries:
                raise ServerError(
                    216,
                    "QUERY_WITH_SAME_ID_IS_ALREADY_RUNNING",
                    f"Query with id = {query.query_id} is already running.",
                )
            self._queries[query.query_id] = query

    def leave(self, query: Query) -> None:
        """Take one off; harmless when repeated."""
        with self._lock:
            if self._queries.get(query.query_id) is query:
                del self._queries[query.query_id]
        query.done.set()

    def get(self, query_id: str) -> Query | None:
        """The one with that id."""
        with self._lock:
            return self._queries.get(query_id)

    def processes_sql(self) -> str:
        """A sub-query that stands for ``system.processes``."""
        with self._lock:
            queries = list(self._queries.values())
        rows = ", ".join(_row(query) for query in queries)
        return (
            "(SELECT toUInt8(1) AS is_initial_query, r.user AS user, r.query_id AS query_id,"
            " toIPv6('::1') AS address, toUInt16(0) AS port, r.user AS initial_user,"
            " r.query_id AS initial_query_id, r.interface AS interface, r.elapsed AS elapsed,"
            " toUInt8(r.is_cancelled) AS is_cancelled, p.read_rows AS read_rows,"
            " p.read_bytes AS read_bytes, p.total_rows_approx AS total_rows_approx,"
            " p.written_rows AS written_rows, p.written_bytes AS written_bytes,"
            " p.memory_usage AS memory_usage, p.peak_memory_usage AS peak_memory_usage,"
            " r.query AS query, p.Settings AS Settings, p.ProfileEvents AS ProfileEvents,"
            " r.database AS current_database FROM values('marker String, user String,"
            " query_id String, interface UInt8, elapsed Float64, is_cancelled UInt8,"
            f" query String, database String', {rows}) AS r"
            " LEFT JOIN (SELECT *, extract("
            "concat(query, '-- ', Settings['log_comment']), '-- (standin:[0-9]+)') AS marker"
            " FROM system.processes) AS p ON r.marker = p.marker)"
        )


def _row(query: Query) -> str:
    elapsed_s = time.monotonic() - query.started_s
    values = (
        literal(query.marker),
        literal(query.user),
        literal(query.query_id),
        "2" if query.interface == "http" else "1",
        repr(elapsed_s),
        str(int(query.cancelled.is_set())),
        literal(query.sql[:65536]),
        literal(query.database),
    )
    return f"({', '.join(values)})"
