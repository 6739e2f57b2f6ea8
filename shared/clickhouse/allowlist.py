"""What a SELECT reads and calls, taken from the engine's own syntax tree, and what is allowed.

``readonly`` is no sandbox: a read-only statement can read files, write one, open connections and
end other queries. So free SQL is admitted by this list only: one SELECT, known functions, a few
harmless table functions, tables that are given a meaning. Whatever the list does not know is
refused, kinds of syntax included.

Pure: tree and catalogue in, values out.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import msgspec
from msgspec import Struct

from shared.clickhouse.functions import Functions
from shared.clickhouse.syntax_tree import SELECT, TableName, Walk
from shared.errors import PermissionDeniedError, QueryError

SYSTEM_TABLES = frozenset({"functions", "numbers", "numbers_mt", "one"})
TABLE_FUNCTIONS = frozenset(
    {"generateRandom", "generate_series", "generateSeries", "null", "numbers", "numbers_mt"}
    | {"values", "zeros", "zeros_mt"}
)
# They change what a query means or how it is carried out, never what it may use.
SETTINGS = frozenset(
    {
        "any_join_distinct_right_table_keys",
        "aggregate_functions_null_for_empty",
        "date_time_output_format",
        "final",
        "group_by_use_nulls",
        "join_algorithm",
        "join_use_nulls",
        "max_threads",
        "optimize_aggregation_in_order",
        "optimize_read_in_order",
        "output_format_json_quote_64bit_integers",
        "prefer_column_name_to_alias",
        "transform_null_in",
        "union_default_mode",
    }
)


class Analysis(Struct, frozen=True, kw_only=True):
    """What a statement is and does; names in order of appearance, each once.

    ``tables`` leaves out CTEs; ``aliases`` are those of tables and of expressions.
    ``disabled_functions`` and ``unknown_functions`` are those of ``functions`` that free SQL may
    not call. ``threads`` is every value of ``max_threads``, 0 where it is left to the engine.
    ``volatile_functions`` read a clock or draw a number. ``forward_ctes`` are read by a
    CTE before them, where the engine's meaning is not followed.
    """

    statement: str
    tables: tuple[TableName, ...] = ()
    functions: tuple[str, ...] = ()
    disabled_functions: tuple[str, ...] = ()
    unknown_functions: tuple[str, ...] = ()
    volatile_functions: tuple[str, ...] = ()
    table_functions: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    threads: tuple[int, ...] = ()
    parameters: tuple[str, ...] = ()
    ctes: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    forward_ctes: tuple[str, ...] = ()
    unknown_syntax: tuple[str, ...] = ()
    format: str | None = None
    has_out_file: bool = False
    has_table_parameter: bool = False
    has_alias_parameter: bool = False
    has_prewhere: bool = False

    @property
    def is_select(self) -> bool:
        """Whether it is one SELECT, or several joined by UNION and the like."""
        return self.statement == SELECT

    @property
    def is_volatile(self) -> bool:
        """Whether the same data may give another answer a moment later."""
        return bool(self.volatile_functions) or "generateRandom" in self.table_functions


def analyse(ast_json: str | bytes, functions: Functions) -> Analysis:
    """Read the engine's syntax tree (``parseQueryToJSON``) of one statement.

    Args:
        ast_json: The tree.
        functions: The catalogue of the engine that made it.
    """
    root = msgspec.json.decode(ast_json, type=dict[str, Any])
    walk = Walk()
    walk.start(root)
    verdicts = {name: functions.verdict(name) for name in walk.functions}
    output_format = root.get("format_ast")
    return Analysis(
        statement=root["type"],
        tables=tuple(walk.tables),
        functions=tuple(walk.functions),
        disabled_functions=tuple(n for n, v in verdicts.items() if v == "disabled"),
        # A lambda may be named, but never like a function of the engine.
        unknown_functions=tuple(
            n for n, v in verdicts.items() if v == "unknown" and n not in walk.lambdas
        ),
        volatile_functions=tuple(n for n in walk.functions if functions.is_volatile(n)),
        table_functions=tuple(walk.table_functions),
        settings=tuple(walk.settings),
        threads=tuple(walk.threads),
        parameters=tuple(walk.parameters),
        ctes=tuple(walk.ctes),
        aliases=tuple(walk.aliases),
        forward_ctes=tuple(walk.forward_ctes),
        unknown_syntax=tuple(walk.unknown_syntax),
        format=output_format["name"] if output_format else None,
        has_out_file=walk.has_out_file,
        has_table_parameter=walk.has_table_parameter,
        has_alias_parameter=walk.has_alias_parameter,
        has_prewhere=walk.has_prewhere,
    )


def check_select(
    analysis: Analysis,
    *,
    tables: Collection[str] | None = None,
    table_functions: Collection[str] = TABLE_FUNCTIONS,
    settings: Collection[str] = SETTINGS,
) -> None:
    """Let a harmless SELECT pass.

    Args:
        analysis: Of the whole text that will run, or of every piece it is made of.
        tables: Names that may be read without a database; None leaves them to the caller, who
            must then give every one of ``analysis.tables`` a meaning.
        table_functions: Which of them may be called.
        settings: Which of them the text may change.

    Raises:
        QueryError: It is not one SELECT, or does what free SQL may not do.
        PermissionDeniedError: It reads a table that is not among ``tables``.
    """
    if not analysis.is_select:
        raise QueryError("Only SELECT statements can be run.")
    _refuse("uses syntax that is not supported here", analysis.unknown_syntax)
    if analysis.has_out_file:
        raise QueryError("INTO OUTFILE cannot be used.")
    if analysis.has_table_parameter:
        raise QueryError("The name of a table cannot be a query parameter.")
    if analysis.has_alias_parameter:
        raise QueryError("An alias cannot be a query parameter.")
    _refuse("uses disabled functions", analysis.disabled_functions)
    _refuse("uses unknown functions", analysis.unknown_functions)
    _refuse(
        "uses disabled table functions",
        [name for name in analysis.table_functions if name not in table_functions],
    )
    _refuse("changes settings", [name for name in analysis.settings if name not in settings])
    _refuse("reads a WITH before it is defined", analysis.forward_ctes)
    for table in analysis.tables:
        _check_table(table, tables)


def _check_table(table: TableName, allowed: Collection[str] | None) -> None:
    if table.database == "system" and table.name in SYSTEM_TABLES and not table.is_operand:
        return
    if table.database or (allowed is not None and table.name not in allowed):
        raise PermissionDeniedError(f"'{table}' cannot be read here.")


def _refuse(what: str, names: Collection[str]) -> None:
    if names:
        listed = ", ".join(f"'{name}'" for name in names)
        raise QueryError(f"The query {what}: {listed}.")
