"""What a function of the template language gets to see: its call, and how to compile arguments.

Two kinds of function exist. A *plain* one takes the render's state and evaluated arguments. A
*built* one takes the ``CallSite`` when the template is compiled and returns a closure, because it
needs the name of a parameter or evaluates an argument only sometimes.
"""

from __future__ import annotations

import ast
from collections.abc import Callable

from msgspec import Struct

from query.template.state import RenderState
from shared.errors import TemplateError

Evaluate = Callable[[RenderState], object]
Builder = Callable[["CallSite"], Evaluate]

METADATA = ("description", "required", "enum", "example", "format")


class CallSite(Struct, frozen=True, kw_only=True):
    """One call in a template; ``fail`` makes the error for its place."""

    name: str
    args: tuple[ast.expr, ...]
    keywords: dict[str, ast.expr]
    compile: Callable[[ast.expr], Evaluate]
    source: Callable[[ast.expr], str]
    fail: Callable[[str], TemplateError]

    def argument(self, position: int, keyword: str) -> ast.expr | None:
        """The argument at a position or under a keyword, None where there is none."""
        if position < len(self.args):
            return self.args[position]
        return self.keywords.get(keyword)

    def constant(self, position: int, keyword: str) -> object:
        """The argument's constant, None where there is none or it is no constant."""
        found = self.argument(position, keyword)
        return found.value if isinstance(found, ast.Constant) else None


class Argument(Struct, frozen=True, kw_only=True):
    """The value that a function is about: mostly a parameter, else any expression.

    ``name`` is the parameter, or the expression's source; ``is_name`` tells which. ``default`` is
    None where the call has none. ``enum`` and ``example`` are as the template writes them.
    """

    name: str
    is_name: bool
    read: Evaluate
    default: Evaluate | None
    optional: bool
    enum: tuple[str, ...] = ()
    example: str | None = None


def read_argument(site: CallSite, *, default_at: int = 1) -> Argument:
    """The first argument of a call and what to do when it has no value.

    Raises:
        TemplateError: There is no first argument, or too many follow.
    """
    if not site.args:
        raise site.fail(f"{site.name}() needs the name of a parameter")
    if len(site.args) > default_at + 2 + len(METADATA):
        raise site.fail(f"{site.name}() has too many arguments")
    first = site.args[0]
    default = site.argument(default_at, "default")
    if isinstance(default, ast.Constant) and default.value is None:
        default = None
    defined = site.constant(default_at + 1 + len(METADATA), "defined")
    is_name = isinstance(first, ast.Name)
    return Argument(
        name=first.id if isinstance(first, ast.Name) else site.source(first),
        is_name=is_name,
        read=site.compile(first),
        default=site.compile(default) if default is not None else None,
        optional=defined is False or (defined == 0 and defined is not None),
        enum=_enum(site.argument(_position(default_at, "enum"), "enum")),
        example=_example(site.constant(_position(default_at, "example"), "example")),
    )


def _position(default_at: int, name: str) -> int:
    return default_at + 1 + METADATA.index(name)


def _enum(node: ast.expr | None) -> tuple[str, ...]:
    """The values of a list of constants; nothing where they are not known before a request."""
    if not isinstance(node, ast.List | ast.Tuple):
        return ()
    items = node.elts
    if not all(isinstance(item, ast.Constant) for item in items):
        return ()
    return tuple(str(item.value) for item in items if isinstance(item, ast.Constant))


def _example(value: object) -> str | None:
    return None if value is None or value == "" else str(value)
