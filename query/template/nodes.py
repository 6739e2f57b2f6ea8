"""The tree of a template: values only. Offsets are places in the SQL of the node."""

from __future__ import annotations

import ast
from typing import TypeAlias

from msgspec import Struct

Target: TypeAlias = "str | tuple[Target, ...]"
"""A name, or names in parentheses, that a loop or ``set`` assigns."""


class Expression(Struct, frozen=True, kw_only=True):
    """A parsed expression; ``offset`` is the place of ``text``'s first character.

    ``shift`` is how many characters were put before the text when it was parsed.
    """

    tree: ast.expr
    text: str
    offset: int
    shift: int


def offset_of(expression: Expression, node: ast.expr, sql: str) -> int:
    """The place in the SQL of a part of an expression."""
    start = expression.offset
    for _ in range(node.lineno - 1):
        start = sql.index("\n", start) + 1
    shift = expression.shift if node.lineno == 1 else 0
    # The parser counts bytes.
    line = sql[start : start + node.col_offset].encode()
    return start + len(line[: max(node.col_offset - shift, 0)].decode(errors="ignore"))


class Text(Struct, frozen=True):
    """SQL as it stands."""

    text: str


class Output(Struct, frozen=True):
    """``{{ expression }}``."""

    expression: Expression
    offset: int


class If(Struct, frozen=True):
    """``if`` and every ``elif`` with its condition, in order, and the ``else``."""

    branches: tuple[tuple[Expression, Block], ...]
    orelse: Block


class For(Struct, frozen=True, kw_only=True):
    """``for``; ``orelse`` runs when no ``break`` ended the loop, as in Python."""

    target: Target
    iterable: Expression
    body: Block
    orelse: Block
    offset: int


class While(Struct, frozen=True, kw_only=True):
    """``while``; ``orelse`` as in ``For``."""

    condition: Expression
    body: Block
    orelse: Block
    offset: int


class Set(Struct, frozen=True, kw_only=True):
    """``set a, b = …``; ``operator`` is ``+``, ``-`` or ``*`` for ``set a += …``, else empty."""

    target: Target
    operator: str
    value: Expression
    offset: int


class Try(Struct, frozen=True, kw_only=True):
    """``try``; every ``except`` catches whatever a template can be refused for.

    ``handler`` is None without an ``except``; ``bound`` is the name after ``as``.
    """

    body: Block
    handler: Block | None
    bound: str | None
    orelse: Block
    final: Block


class Break(Struct, frozen=True):
    """``break``."""


class Continue(Struct, frozen=True):
    """``continue``."""


Node: TypeAlias = "Text | Output | If | For | While | Set | Try | Break | Continue"
Block: TypeAlias = "tuple[Node, ...]"


def names_in(target: Target) -> tuple[str, ...]:
    """Every name that a target assigns, in order."""
    if isinstance(target, str):
        return (target,)
    return tuple(name for part in target for name in names_in(part))
