"""The parts of expressions that make lists and texts out of others: comprehensions, f-strings."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Sequence

from query.template import functions_plain as plain
from query.template.calls import Evaluate
from query.template.nodes import Target
from query.template.state import EvaluationError, RenderState
from query.template.syntax import REFUSED_NAMES
from shared.errors import TemplateError

Assign = Callable[[RenderState, object], None]
Compile = Callable[[ast.expr], Evaluate]
Fail = Callable[[ast.expr, str], TemplateError]

_FORMAT_SPEC = re.compile(r"[<>^]?[+ ]?0?[0-9]{0,2},?(?:\.[0-9]{1,2})?[dfeg%s]?")


def compile_target(target: Target) -> Assign:
    """What assigns a value to the names of a loop or ``set``."""
    if isinstance(target, str):
        name = target

        def assign(state: RenderState, value: object) -> None:
            state.variables[name] = value

        return assign
    parts = [compile_target(part) for part in target]

    def unpack(state: RenderState, value: object) -> None:
        items = plain.sequence(state, value)
        if len(items) != len(parts):
            raise EvaluationError(f"{len(items)} values cannot go to {len(parts)} names")
        for part, item in zip(parts, items, strict=True):
            part(state, item)

    return unpack


def target_of(node: ast.expr, fail: Fail) -> Target:
    """The names that a loop, comprehension or ``set`` assigns."""
    if isinstance(node, ast.Name) and node.id not in REFUSED_NAMES:
        return node.id
    if isinstance(node, ast.Tuple | ast.List) and node.elts:
        return tuple(target_of(part, fail) for part in node.elts)
    raise fail(node, "This cannot be assigned")


def build_collect(
    generators: Sequence[ast.comprehension], element: Evaluate, compile_: Compile, fail: Fail
) -> Callable[[RenderState], list[object]]:
    """Every element in a list; the names it assigns are gone afterwards, as in Python."""
    cost = sum(1 for clause in generators for _ in ast.walk(clause)) + 2
    clauses = [
        (
            compile_(clause.iter),
            compile_target(target_of(clause.target, fail)),
            [compile_(test) for test in clause.ifs],
        )
        for clause in generators
    ]

    def fill(state: RenderState, made: list[object], depth: int) -> None:
        if depth == len(clauses):
            made.append(element(state))
            return
        iterable, assign, tests = clauses[depth]
        for item in plain.sequence(state, iterable(state)):
            state.charge(cost)
            assign(state, item)
            if all(test(state) for test in tests):
                fill(state, made, depth + 1)

    def evaluate(state: RenderState) -> list[object]:
        made: list[object] = []
        outer = state.variables
        state.variables = dict(outer)
        try:
            fill(state, made, 0)
        finally:
            state.variables = outer
        state.weigh(made)
        return made

    return evaluate


def build_text(node: ast.JoinedStr, compile_: Compile, fail: Fail) -> Evaluate:
    """An f-string; its formats are those of numbers and short widths."""
    parts = [_text_part(part, compile_, fail) for part in node.values]

    def evaluate(state: RenderState) -> object:
        texts = [part(state) for part in parts]
        plain.check_text_size(sum(map(len, texts)))
        return plain.checked_text(state, "".join(texts))

    return evaluate


def _text_part(node: ast.expr, compile_: Compile, fail: Fail) -> Callable[[RenderState], str]:
    if isinstance(node, ast.Constant):
        text = str(node.value)
        return lambda state: text
    if not isinstance(node, ast.FormattedValue):
        raise fail(node, "This cannot stand in a text")
    read, spec = compile_(node.value), _format_spec(node, fail)
    as_written = node.conversion in (ord("r"), ord("a"))

    def evaluate(state: RenderState) -> str:
        value = read(state)
        state.weigh(value)
        if as_written:
            return format(repr(value), spec)
        return format(value, spec) if spec else str(value)

    return evaluate


def _format_spec(node: ast.FormattedValue, fail: Fail) -> str:
    if node.format_spec is None:
        return ""
    parts = node.format_spec.values if isinstance(node.format_spec, ast.JoinedStr) else []
    spec = "".join(str(part.value) if isinstance(part, ast.Constant) else "?" for part in parts)
    if _FORMAT_SPEC.fullmatch(spec) is None:
        raise fail(node, f"The format '{spec}' is not part of the template language")
    return spec
