"""The secrets that a template cannot do without, collected without rendering it; pure."""

from __future__ import annotations

import ast
from collections.abc import Iterator

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


class NeededSecret(Struct, frozen=True, kw_only=True):
    """A secret that has no default, and where it is named first: from 1, in the SQL of the node."""

    name: str
    line: int
    column: int


def needed_secrets(template: Template) -> tuple[NeededSecret, ...]:
    """Every secret that is named as a constant and has no default, each once.

    What a ``try`` with an ``except`` asks for can be done without.
    """
    found: dict[str, NeededSecret] = {}
    for expression in _expressions(template.nodes):
        for call in _calls(expression.tree):
            name = call.args[0]
            assert isinstance(name, ast.Constant)
            line, column = position(template.sql, offset_of(expression, call, template.sql))
            needed = NeededSecret(name=str(name.value), line=line, column=column)
            found.setdefault(needed.name, needed)
    return tuple(found.values())


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


def _calls(node: ast.AST) -> Iterator[ast.Call]:
    """The calls that need a secret; a default may name another one, which then is a choice."""
    match node:
        case ast.Call(func=ast.Name(id="tb_secret" | "tb_var"), args=[first, *_]):
            if isinstance(first, ast.Constant) and not _has_default(node):
                yield node
        case _:
            for child in ast.iter_child_nodes(node):
                yield from _calls(child)


def _has_default(call: ast.Call) -> bool:
    named = (keyword.value for keyword in call.keywords if keyword.arg == "default")
    default = call.args[1] if len(call.args) > 1 else next(named, None)
    return default is not None and not (isinstance(default, ast.Constant) and default.value is None)
