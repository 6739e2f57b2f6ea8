"""What the holder of a token sees of a workspace: which resources, and which of their rows; pure.

Row filters are put to the engine as its setting ``additional_table_filters``: the engine itself
adds the condition wherever it reads the table, whatever the SQL around it looks like. It finds a
table by its full name *or by the alias that a query gives it*, so that no alias may be spelled
like the full name of a table.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping

from msgspec import Struct, field

from shared.auth.tokens import DATASOURCES_READ, PIPES_READ, Grant
from shared.clickhouse.allowlist import Analysis
from shared.clickhouse.contract import SettingValue
from shared.clickhouse.sql import literal
from shared.errors import NotFoundError, PermissionDeniedError, QueryError
from shared.model.workspace import Workspace, did_you_mean

QUARANTINE_SUFFIX = "_quarantine"


def resources(workspace: Workspace) -> frozenset[str]:
    """Every name that SQL can read: data sources, their quarantine tables, pipes."""
    quarantines = (name + QUARANTINE_SUFFIX for name in workspace.datasources)
    return frozenset({*workspace.datasources, *workspace.pipes, *quarantines})


def may_read(workspace: Workspace, grant: Grant, name: str) -> bool:
    """Whether a token may read the resource of that name by its own SQL."""
    return grant.allows(PIPES_READ if name in workspace.pipes else DATASOURCES_READ, name)


def require_readable(workspace: Workspace, grant: Grant, name: str) -> None:
    """Refuse a resource that the token may not read.

    Raises:
        NotFoundError: There is none of that name; the hint names a near miss that may be read.
        PermissionDeniedError: Names the scope that is missing.
    """
    known = resources(workspace)
    if name not in known:
        readable = [each for each in known if may_read(workspace, grant, each)]
        raise NotFoundError(f"Resource '{name}' not found.", hint=did_you_mean(name, readable))
    grant.require(PIPES_READ if name in workspace.pipes else DATASOURCES_READ, name)


# Right of IN a name may be a column, and the engine looks for one outwards too: a caller's column
# could take the place of a table that a pipe reads there. Without this it is an error.
NO_OUTER_COLUMNS: Mapping[str, SettingValue] = {"allow_experimental_correlated_subqueries": 0}


class Readable:
    """The resources that a token may read, for asking whether one is among them."""

    def __init__(self, workspace: Workspace, grant: Grant, known: Container[str]) -> None:
        self._workspace = workspace
        self._grant = grant
        self._known = known

    def __contains__(self, name: object) -> bool:
        return (
            isinstance(name, str)
            and name in self._known
            and may_read(self._workspace, self._grant, name)
        )


class RowFilters(Struct, frozen=True, kw_only=True):
    """What a token sees of tables of which it sees some rows only.

    ``datasources`` are those tables and ``texts`` their conditions as the token has them.
    ``conditions`` is keyed by what the engine compares with a table's full name and its alias.
    """

    datasources: frozenset[str] = frozenset()
    texts: tuple[str, ...] = ()
    conditions: Mapping[str, str] = field(default_factory=dict)

    @property
    def settings(self) -> Mapping[str, SettingValue]:
        """What holds the engine to the conditions; empty where there are none.

        Conditions of the query's own must come after: one that fails on a row that is not the
        token's would tell what is in it.
        """
        if not self.conditions:
            return {}
        entries = (f"{literal(key)}:{literal(text)}" for key, text in self.conditions.items())
        return {
            "additional_table_filters": "{" + ",".join(entries) + "}",
            "optimize_move_to_prewhere": 0,
            "query_plan_merge_filters": 0,
        }

    def check_caller(self, analysis: Analysis) -> None:
        """Refuse what a caller's own SQL could look at rows with before they are filtered.

        Raises:
            QueryError: It has a PREWHERE.
        """
        if analysis.has_prewhere and self.conditions:
            raise QueryError(
                "PREWHERE cannot be used: the token sees some rows only.", hint="Write WHERE."
            )

    def check(self, analysis: Analysis) -> None:
        """Refuse SQL that the engine could take for reading another table than it does.

        Raises:
            QueryError: It gives a name that could turn a filter away from its table.
            PermissionDeniedError: It reads quarantined rows of a data source that has a filter.
        """
        if not self.conditions:
            return
        for name in (*analysis.aliases, *analysis.ctes):
            if name in self.conditions:
                raise QueryError(
                    f"'{name}' cannot be an alias here: the token sees some rows of it only.",
                    hint="Use another name.",
                )
        for table in analysis.tables:
            if table.name.removesuffix(QUARANTINE_SUFFIX) in self.datasources - {table.name}:
                raise PermissionDeniedError(
                    f"'{table}' cannot be read: the token sees some rows of its data source only."
                )


NO_FILTERS = RowFilters()


def row_filters(workspace: Workspace, grant: Grant | None, database: str) -> RowFilters:
    """The filters of a token; a row is seen when any of its conditions holds.

    A view that writes into a data source can be read like a table. It is held to the same
    condition, should any SQL ever reach it.

    Args:
        workspace: Where views are found.
        grant: Of the token; None sees everything.
        database: Where the tables are.
    """
    found = grant.row_filters() if grant is not None else {}
    if not found:
        return NO_FILTERS
    # On lines of their own: a condition may end in a comment.
    joined = {name: " OR ".join(f"(\n{text}\n)" for text in texts) for name, texts in found.items()}
    conditions = dict(joined)
    for name, pipe in workspace.pipes.items():
        node = pipe.materialized
        target = node.option("DATASOURCE") if node is not None else None
        if target in joined:
            conditions.setdefault(name, joined[target])
    prefix = f"{database}." if database else ""
    return RowFilters(
        datasources=frozenset(found),
        texts=tuple(text for texts in found.values() for text in texts),
        conditions={prefix + name: text for name, text in conditions.items()},
    )


def check_capture(analysis: Analysis, inner: Iterable[str]) -> None:
    """Refuse names that would change what a pipe reads.

    The engine looks names in a WITH up where it is *used*: a caller's ``WITH members AS …`` would
    take the place of a table ``members`` that the pipe reads.

    Args:
        analysis: Of the SQL that reads pipes.
        inner: The names that those pipes read or define.

    Raises:
        QueryError: Names the name.
    """
    taken = sorted(set(inner) & {*analysis.ctes, *analysis.aliases})
    if taken:
        raise QueryError(
            f"'{taken[0]}' is read within a pipe of this query and cannot be defined here.",
            hint="Use another name.",
        )
