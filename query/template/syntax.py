"""The texts inside tags to syntax trees; pure. Python's own parser reads them, nothing runs.

What a tree may hold is decided in ``expression.py``, by a list of what is allowed.
"""

from __future__ import annotations

import ast
import warnings

from query.template.nodes import Expression, Target
from query.template.source import template_error

MAX_LENGTH = 20_000
MAX_DEPTH = 40

_FOR = "[0 for "
# Upstream refuses these two as names; both mean something in the request itself.
REFUSED_NAMES = frozenset({"format", "q"})


def parse_expression(text: str, sql: str, offset: int) -> Expression:
    """One expression; ``offset`` is where ``text`` stands in ``sql``.

    Raises:
        TemplateError: It is empty, no expression, or too long or deep.
    """
    if not text.strip():
        raise template_error("The expression is empty", sql, offset)
    # The parentheses let an expression span lines; the lexer has balanced its brackets.
    tree = _parse(f"({text}\n)", text, sql, offset)
    return Expression(tree=tree, text=" ".join(text.split()), offset=offset, shift=1)


def parse_for(text: str, sql: str, offset: int) -> tuple[Target, Expression]:
    """``x, y in expression``, the head of a loop.

    Raises:
        TemplateError: It is anything else.
    """
    tree = _parse(f"{_FOR}{text}\n]", text, sql, offset)
    if not isinstance(tree, ast.ListComp) or len(tree.generators) != 1 or tree.generators[0].ifs:
        raise template_error("Write: for name in list", sql, offset)
    clause = tree.generators[0]
    target = _target(clause.target, sql, offset)
    shown = " ".join(text.split())
    return target, Expression(tree=clause.iter, text=shown, offset=offset, shift=len(_FOR))


def parse_assignment(text: str, sql: str, offset: int) -> tuple[Target, str, Expression]:
    """``a = expression``, ``a, b = …`` or ``a += …``: target, operator and value.

    Raises:
        TemplateError: It is anything else.
    """
    head, equals, tail = text.partition("=")
    operator = head.rstrip()[-1:]
    operator = operator if operator in ("+", "-", "*") else ""
    names = head.rstrip().removesuffix(operator)
    if not equals or not names.strip() or tail.startswith("="):
        raise template_error("Write: set name = expression", sql, offset)
    target = _target(_parse(f"({names}\n)", names, sql, offset), sql, offset)
    if operator and not isinstance(target, str):
        raise template_error("Only one name can be changed in place", sql, offset)
    value = parse_expression(tail, sql, offset + len(head) + 1)
    return target, operator, value


def _parse(code: str, text: str, sql: str, offset: int) -> ast.expr:
    if len(text) > MAX_LENGTH:
        raise template_error(f"The tag is longer than {MAX_LENGTH} characters", sql, offset)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(code, mode="eval").body
    except SyntaxError as error:
        shown = " ".join(text.split())
        message = f"`{shown[:80]}` is not an expression: {error.msg}"
        raise template_error(message, sql, offset) from None
    except (ValueError, RecursionError, MemoryError):
        raise template_error("The expression cannot be read", sql, offset) from None
    _check_depth(tree, sql, offset)
    return tree


def _check_depth(tree: ast.expr, sql: str, offset: int) -> None:
    level: list[ast.AST] = [tree]
    for _ in range(MAX_DEPTH):
        level = [child for node in level for child in ast.iter_child_nodes(node)]
        if not level:
            return
    message = f"The expression is nested deeper than {MAX_DEPTH} levels"
    raise template_error(message, sql, offset, limit=True)


def _target(tree: ast.expr, sql: str, offset: int) -> Target:
    if isinstance(tree, ast.Name):
        if tree.id in REFUSED_NAMES:
            message = f"'{tree.id}' cannot be the name of a variable or parameter"
            raise template_error(message, sql, offset)
        return tree.id
    if isinstance(tree, ast.Tuple | ast.List) and tree.elts:
        return tuple(_target(part, sql, offset) for part in tree.elts)
    raise template_error("Only names can be assigned", sql, offset)
