"""What a template cannot do without, collected without rendering it; pure."""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterator

from msgspec import Struct

from query.template.compile import Template
from query.template.nodes import (
    Block,
    Expression,
    For,
    If,
    Node,
    Output,
    Set,
    Try,
    While,
    offset_of,
)
from query.template.source import position

_SECRETS = ("tb_secret", "tb_var")
_NAMES = ("table", "TABLE", "column", "columns", "symbol")


class Need(Struct, frozen=True, kw_only=True):
    """A call without a default, and where it stands: from 1, in the SQL of the node.

    ``name`` is the secret or parameter that the call is about.
    """

    function: str
    name: str
    line: int
    column: int


def needed_secrets(template: Template) -> tuple[Need, ...]:
    """Every secret that is named as a constant and has no default, each once.

    What a ``try`` with an ``except`` asks for can be done without.
    """
    found: dict[str, Need] = {}
    for call, need in _needs(template, _SECRETS):
        if isinstance(call.args[0], ast.Constant):
            found.setdefault(need.name, need)
    return tuple(found.values())


def needed_names(template: Template) -> tuple[Need, ...]:
    """The names in the SQL that only a request can give: ``{{table(t)}}``."""
    return tuple(
        need
        for call, need in _needs(template, _NAMES)
        if not isinstance(call.args[0], ast.Constant)
    )


def _needs(template: Template, functions: Collection[str]) -> Iterator[tuple[ast.Call, Need]]:
    for expression in _expressions(template.nodes):
        for function, call in _calls(expression.tree, functions):
            first = call.args[0]
            name = first.value if isinstance(first, ast.Constant) else ast.unparse(first)
            line, column = position(template.sql, offset_of(expression, call, template.sql))
            yield call, Need(function=function, name=str(name), line=line, column=column)


def _expressions(block: Block) -> Iterator[Expression]:
    for node in block:
        yield from _of_node(node)


def _of_node(node: Node) -> Iterator[Expression]:
    match node:
        case Output():
            yield node.expression
        case Set():
            yield node.value
        case If():
            for condition, body in node.branches:
                yield condition
                yield from _expressions(body)
            yield from _expressions(node.orelse)
        case For() | While():
            yield node.iterable if isinstance(node, For) else node.condition
            yield from _expressions(node.body)
            yield from _expressions(node.orelse)
        case Try():
            body = node.body if node.handler is None else node.handler
            for part in (body, node.orelse, node.final):
                yield from _expressions(part)
        case _:
            pass


def _calls(node: ast.AST, functions: Collection[str]) -> Iterator[tuple[str, ast.Call]]:
    """The calls without a default; a default may be such a call, which then is a choice."""
    match node:
        case ast.Call(func=ast.Name(id=function), args=[_, *_]) if function in functions:
            if not _has_default(node):
                yield function, node
        case _:
            for child in ast.iter_child_nodes(node):
                yield from _calls(child, functions)


def _has_default(call: ast.Call) -> bool:
    named = (keyword.value for keyword in call.keywords if keyword.arg == "default")
    default = call.args[1] if len(call.args) > 1 else next(named, None)
    return default is not None and not (isinstance(default, ast.Constant) and default.value is None)
