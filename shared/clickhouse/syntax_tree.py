"""The engine's syntax tree of a statement, walked with its scopes; pure.

A table can be read without FROM: ``x IN name`` reads it too, and a name means a CTE or an alias
only where that is in scope. Scopes are followed here as the engine follows them; in doubt a name
counts as a table.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

SELECT = "SelectWithUnionQuery"

_NODE_TYPES = frozenset(
    [
        "ArrayJoin",
        "Asterisk",
        "ColumnsApplyTransformer",
        "ColumnsExceptTransformer",
        "ColumnsListMatcher",
        "ColumnsRegexpMatcher",
        "ColumnsReplaceTransformer",
        "ColumnsReplaceTransformerReplacement",
        "ColumnsTransformerList",
        "ExpressionList",
        "Function",
        "Identifier",
        "InterpolateElement",
        "Literal",
        "OrderByElement",
        "QualifiedAsterisk",
        "QualifiedColumnsListMatcher",
        "QualifiedColumnsRegexpMatcher",
        "QueryParameter",
        "SampleRatio",
        "SelectIntersectExceptQuery",
        "SelectQuery",
        "SelectWithUnionQuery",
        "SetQuery",
        "Subquery",
        "TableExpression",
        "TableIdentifier",
        "TableJoin",
        "TablesInSelectQuery",
        "TablesInSelectQueryElement",
        "WindowDefinition",
        "WindowListElement",
        "WithElement",
    ]
)
_IN_FUNCTIONS = frozenset(
    prefix + stem + ending
    for prefix in ("", "global")
    for stem in ("in", "notIn", "nullIn", "notNullIn", "In", "NotIn", "NullIn", "NotNullIn")
    for ending in ("", "IgnoreSet")
)
# How the tree shows a value that is a query parameter.
_PARAMETER_FIELD = "CustomType"
_SPOKEN = {"default_settings": "DEFAULT", "query_parameters": "param_…"}
Node = Mapping[str, Any]


class TableName(Struct, frozen=True, order=True):
    """A name that stands for a table; the database is empty where the SQL gives none.

    ``is_operand``: it stands right of IN, where it may be a column as well.
    """

    database: str
    name: str
    is_operand: bool = False

    def __str__(self) -> str:
        return f"{self.database}.{self.name}" if self.database else self.name


class _Scope(Struct, frozen=True):
    """What names mean here.

    ``aliases`` come from WITH and hold in sub-selects too, ``own`` only in this SELECT. ``later``
    are CTEs that come after the one being read.
    """

    ctes: frozenset[str] = frozenset()
    aliases: frozenset[str] = frozenset()
    own: frozenset[str] = frozenset()
    later: frozenset[str] = frozenset()


class Walk:
    """Collects what a tree holds; dicts keep order and drop repetitions."""

    def __init__(self) -> None:
        self.tables: dict[TableName, None] = {}
        self.functions: dict[str, None] = {}
        self.table_functions: dict[str, None] = {}
        self.settings: dict[str, None] = {}
        self.threads: list[int] = []
        self.parameters: dict[str, None] = {}
        self.ctes: dict[str, None] = {}
        self.aliases: dict[str, None] = {}
        self.forward_ctes: dict[str, None] = {}
        self.unknown_syntax: dict[str, None] = {}
        self.lambdas: set[str] = set()
        self._renamed: dict[str, set[TableName]] = {}
        self.has_out_file = False
        self.has_table_parameter = False
        self.has_alias_parameter = False
        self.has_prewhere = False

    def start(self, root: Node) -> None:
        """Collect from a whole tree."""
        self._visit(root, _Scope())
        self._follow_renamed()

    def _follow_renamed(self) -> None:
        # WITH secret AS x … IN x reads the table behind the name.
        waiting = [table for table in self.tables if table.is_operand and not table.database]
        while waiting:
            for target in sorted(self._renamed.pop(waiting.pop().name, ())):
                self.tables[target] = None
                waiting.append(target)

    def _visit(self, node: Node, scope: _Scope) -> None:
        kind = node["type"]
        if kind not in _NODE_TYPES:
            self.unknown_syntax[kind] = None
        self._alias(node)
        if kind == SELECT:
            self._union(node, scope)
        elif kind == "SelectQuery":
            self._select(node, scope)
        elif kind == "TableIdentifier":
            self._table(node, scope, is_operand=False)
        elif kind == "TableExpression" and "table_function" in node:
            self._table_function(node, scope)
        elif kind == "Function":
            self._function(node, scope)
        else:
            self._leaf(kind, node)
            self._children(node, scope)

    def _children(self, node: Node, scope: _Scope, leave_out: Collection[str] = ()) -> None:
        for key, value in node.items():
            if key not in leave_out:
                for child in _nodes(value):
                    self._visit(child, scope)

    def _alias(self, node: Node) -> None:
        self.aliases.update((alias, None) for alias in _alias_text(node))
        self.has_alias_parameter = self.has_alias_parameter or "parametrised_alias" in node

    def _leaf(self, kind: str, node: Node) -> None:
        if kind == "SetQuery":
            # DEFAULT would take back what we set: limits, and the row filters of a token.
            for key in sorted(node.keys() - {"type", "changes"}):
                self.unknown_syntax[f"SETTINGS with {_SPOKEN.get(key, key)}"] = None
            for change in node.get("changes", ()):
                self.settings[change["name"]] = None
                if change["name"] == "max_threads":
                    self.threads.append(_whole(change["value"].get("value")))
                if change["value"].get("field_type") == _PARAMETER_FIELD:
                    self.unknown_syntax["SETTINGS with a query parameter"] = None
        elif kind == "QueryParameter":
            self.parameters[node["name"]] = None
        elif kind == "Identifier" and node.get("alias") and node["name"]:
            target = TableName(*_split(node), is_operand=True)
            self._renamed.setdefault(node["alias"], set()).add(target)
        elif kind == "ColumnsApplyTransformer" and node.get("func_name"):
            self.functions[node["func_name"]] = None

    def _union(self, node: Node, scope: _Scope) -> None:
        self.has_out_file = self.has_out_file or "out_file" in node
        scope = replace(scope, own=frozenset())
        selects = list(_nodes(node.get("list_of_selects", {}).get("children")))
        for index, select in enumerate(selects):
            self._visit(select, scope)
            if index == 0 and select["type"] == "SelectQuery":
                # The WITH of the first SELECT holds for those that follow it.
                scope = self._within(select, scope, note=False)
        self._children(node, scope, leave_out=("list_of_selects",))

    def _select(self, node: Node, scope: _Scope) -> None:
        inner = self._within(node, scope, note=True)
        self.has_prewhere = self.has_prewhere or "prewhere" in node
        own = frozenset(_aliases(node))
        self._children(node, replace(inner, own=own), leave_out=("with",))

    def _within(self, select: Node, scope: _Scope, *, note: bool) -> _Scope:
        """The scope behind a SELECT's WITH; ``note`` also collects what the WITH itself does."""
        elements = list(_nodes(select.get("with", {}).get("children")))
        names = frozenset(e["name"] for e in elements if e["type"] == "WithElement")
        aliases = scope.aliases | {a for e in elements for a in _alias_of(e)}
        outer_later = scope.later - names
        earlier: frozenset[str] = frozenset()
        for element in elements:
            own_name = frozenset(_cte_name(element))
            if note:
                visible = (scope.ctes - names) | earlier
                if select.get("recursive_with"):
                    visible |= own_name
                later = outer_later | (names - earlier - own_name)
                self.ctes.update((name, None) for name in own_name)
                self._element(element, _Scope(visible, aliases, frozenset(), later))
            earlier |= own_name
        return _Scope(scope.ctes | names, aliases, frozenset(), outer_later)

    def _element(self, element: Node, scope: _Scope) -> None:
        if element["type"] == "WithElement":
            self._children(element, scope)
        else:
            self._visit(element, scope)

    def _table(self, node: Node, scope: _Scope, *, is_operand: bool) -> None:
        self._alias(node)
        if node.get("children"):
            self.has_table_parameter = True
            self._children(node, scope)
            return
        database, name = _split(node)
        if not database:
            if name in scope.later:
                self.forward_ctes[name] = None
            if name in scope.ctes or (is_operand and name in scope.aliases | scope.own):
                return
        self.tables[TableName(database, name, is_operand)] = None

    def _table_function(self, node: Node, scope: _Scope) -> None:
        function = node["table_function"]
        self.table_functions[function["name"]] = None
        self._children(function, scope)
        self._children(node, scope, leave_out=("table_function",))

    def _function(self, node: Node, scope: _Scope) -> None:
        name = node["name"]
        self.functions[name] = None
        if node.get("is_lambda_function"):
            self.lambdas.update(_alias_text(node))
        if name not in _IN_FUNCTIONS:
            self._children(node, scope)
            return
        arguments = list(_nodes(node.get("arguments", {}).get("children")))
        for index, argument in enumerate(arguments):
            if index == 1 and argument["type"] == "Identifier":
                self._table(argument, scope, is_operand=True)
            else:
                self._visit(argument, scope)
        self._children(node, scope, leave_out=("arguments",))


def _nodes(value: object) -> Iterator[Node]:
    """The nodes in a field's value, at whatever depth of lists and plain objects."""
    if isinstance(value, dict):
        if isinstance(value.get("type"), str):
            yield value
        else:
            for inner in value.values():
                yield from _nodes(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _nodes(inner)


def _cte_name(element: Node) -> tuple[str, ...]:
    return (element["name"],) if element["type"] == "WithElement" else ()


def _split(node: Node) -> tuple[str, str]:
    parts = node.get("name_parts")
    if not parts:
        return "", node["name"]
    return ".".join(parts[:-1]), parts[-1]


def _alias_text(node: Node) -> tuple[str, ...]:
    alias = node.get("alias")
    return (alias,) if alias else ()


def _alias_of(node: Node) -> tuple[str, ...]:
    # An alias of a bare name may stand for a table of that name.
    return () if node["type"] == "Identifier" else _alias_text(node)


def _aliases(select: Node) -> Iterator[str]:
    """Aliases of a SELECT's own expressions: not of its tables, sub-selects or lambdas."""
    for key, value in select.items():
        if key not in ("with", "tables"):
            for child in _nodes(value):
                yield from _aliases_below(child)


def _aliases_below(node: Node) -> Iterator[str]:
    yield from _alias_of(node)
    if node["type"] in (SELECT, "Subquery") or node.get("is_lambda_function"):
        return
    for value in node.values():
        for child in _nodes(value):
            yield from _aliases_below(child)


def _whole(value: object) -> int:
    """A setting's value as a number, 0 where it is none."""
    text = str(value)
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else 0
