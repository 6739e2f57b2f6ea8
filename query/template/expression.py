"""Expressions to closures: the allowed part of Python's syntax, by a list of what is allowed.

Nothing is handed to Python's own ``eval``: every kind of node has a method here, and a node
without one is refused when the template is compiled. Attributes exist only as calls of the listed
methods. Names are variables of the template or parameters; a name that is neither is None.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from typing import Any, cast

from query.template.calls import CallSite, Evaluate
from query.template.comprehension import build_collect, build_text
from query.template.nodes import Expression, offset_of
from query.template.operators import ARITHMETIC, COMPARISONS, OUTPUT_ARITHMETIC, Binary
from query.template.registry import BUILT, METHOD_NAMES, PLAIN, SIGNATURES, method_of
from query.template.source import template_error
from query.template.state import EvaluationError, RenderState, shorten
from query.template.syntax import REFUSED_NAMES
from shared.errors import TemplateError
from shared.model.workspace import did_you_mean

_MAX_CONSTANT_BITS = 512
_SCALAR_KEYS = (str, int, float, bool, type(None))


def compile_expression(expression: Expression, sql: str, *, in_output: bool) -> Evaluate:
    """An expression as a closure; ``in_output`` is stricter, as ``{{ }}`` is.

    Raises:
        TemplateError: It holds something that the language does not have.
    """
    return _Compiler(expression, sql, in_output).compile(expression.tree)


class _Compiler:
    def __init__(self, expression: Expression, sql: str, in_output: bool) -> None:
        self._expression = expression
        self._sql = sql
        self._in_output = in_output

    def compile(self, node: ast.expr) -> Evaluate:
        method = _NODES.get(type(node))
        if method is None:
            raise self._fail(node, f"{_spoken(node)} is not part of the template language")
        return method(self, node)

    def _fail(self, node: ast.expr, message: str, hint: str | None = None) -> TemplateError:
        offset = offset_of(self._expression, node, self._sql)
        return template_error(message, self._sql, offset, hint=hint)

    # Values

    def constant(self, node: ast.Constant) -> Evaluate:
        value = node.value
        if not isinstance(value, _SCALAR_KEYS):
            raise self._fail(node, f"{_spoken(node)} is not part of the template language")
        if isinstance(value, int) and value.bit_length() > _MAX_CONSTANT_BITS:
            raise self._fail(node, "The number is too large")
        return lambda state: value

    def name(self, node: ast.Name) -> Evaluate:
        name = node.id
        if name in REFUSED_NAMES:
            raise self._fail(node, f"'{name}' cannot be the name of a variable or parameter")
        return lambda state: state.variables.get(name)

    def sequence(self, node: ast.List | ast.Tuple | ast.Set) -> Evaluate:
        items = [self.compile(item) for item in node.elts]
        make: Callable[[list[object]], object] = {ast.Tuple: tuple, ast.Set: set}.get(
            type(node), list
        )

        def evaluate(state: RenderState) -> object:
            made = make([item(state) for item in items])
            state.weigh(made)
            return made

        return evaluate

    def mapping(self, node: ast.Dict) -> Evaluate:
        pairs = []
        for key, value in zip(node.keys, node.values, strict=True):
            if key is None:
                raise self._fail(node, "'**' is not part of the template language")
            pairs.append((self.compile(key), self.compile(value)))

        def evaluate(state: RenderState) -> object:
            made = {key(state): value(state) for key, value in pairs}
            state.weigh(made)
            return made

        return evaluate

    def joined_text(self, node: ast.JoinedStr) -> Evaluate:
        return build_text(node, self.compile, self._fail)

    # Operators

    def binary(self, node: ast.BinOp) -> Evaluate:
        found = ARITHMETIC.get(type(node.op))
        if found is None or (self._in_output and not isinstance(node.op, OUTPUT_ARITHMETIC)):
            raise self._fail(
                node,
                f"The operator {type(node.op).__name__} cannot be used here",
                "Inside {{ }} only + - * are known; {% set %} knows the rest."
                if found is not None
                else None,
            )
        return self._applied(found[1], node.left, node.right)

    def _applied(self, apply: Binary, left: ast.expr, right: ast.expr) -> Evaluate:
        """An operator on two operands; an operand that is a parameter without value is missing."""
        read_left, read_right = self.compile(left), self.compile(right)
        names = [node.id if isinstance(node, ast.Name) else None for node in (left, right)]

        def evaluate(state: RenderState) -> object:
            operands = (read_left(state), read_right(state))
            try:
                return apply(state, *operands)
            except EvaluationError:
                if not _report_missing(state, names, operands):
                    raise
                return None

        return evaluate

    def compare(self, node: ast.Compare) -> Evaluate:
        if self._in_output:
            raise self._fail(
                node,
                "A comparison cannot stand in {{ }}",
                "Use {% if %}, or keep the result with {% set %}.",
            )
        operands = [node.left, *node.comparators]
        steps = [
            self._applied(COMPARISONS[type(op)][1], operands[at], operands[at + 1])
            for at, op in enumerate(node.ops)
        ]
        if len(steps) == 1:
            return steps[0]

        def evaluate(state: RenderState) -> object:
            result: object = True
            for step in steps:
                result = step(state)
                if not result:
                    break
            return result

        return evaluate

    def boolean(self, node: ast.BoolOp) -> Evaluate:
        operands = [self.compile(value) for value in node.values]
        stop_at = isinstance(node.op, ast.Or)

        def evaluate(state: RenderState) -> object:
            value: object = None
            for operand in operands:
                value = operand(state)
                if bool(value) is stop_at:
                    break
            return value

        return evaluate

    def unary(self, node: ast.UnaryOp) -> Evaluate:
        read = self.compile(node.operand)
        if isinstance(node.op, ast.Not):
            return lambda state: not read(state)
        if isinstance(node.op, ast.Invert):
            raise self._fail(node, "'~' is not part of the template language")
        negative = isinstance(node.op, ast.USub)

        def evaluate(state: RenderState) -> object:
            value = read(state)
            if not isinstance(value, int | float):
                raise EvaluationError("A sign stands before numbers only")
            return -value if negative else +value

        return evaluate

    def conditional(self, node: ast.IfExp) -> Evaluate:
        test, yes, no = map(self.compile, (node.test, node.body, node.orelse))
        return lambda state: yes(state) if test(state) else no(state)

    # Items, comprehensions, calls

    def subscript(self, node: ast.Subscript) -> Evaluate:
        read, names = self.compile(node.value), _name_of(node.value)
        if isinstance(node.slice, ast.Slice):
            return self._slice(read, names, node.slice)
        index = self.compile(node.slice)

        def evaluate(state: RenderState) -> object:
            value, key = read(state), cast(Any, index(state))
            if value is None:
                return _without_value(state, names)
            if not isinstance(value, dict | list | tuple | str | range):
                raise EvaluationError("Only texts, lists and objects have items")
            try:
                return value[key]
            except LookupError:
                if state.test_mode:
                    return ""
                where = "The text is too short" if isinstance(value, str) else "There is no item"
                raise EvaluationError(
                    f"{where} for [{shorten(key)}]; check with len() or 'in' first"
                ) from None

        return evaluate

    def _slice(self, read: Evaluate, names: list[str | None], node: ast.Slice) -> Evaluate:
        bounds = [
            self.compile(bound) if bound is not None else None
            for bound in (node.lower, node.upper, node.step)
        ]

        def evaluate(state: RenderState) -> object:
            value = read(state)
            if value is None:
                return _without_value(state, names)
            if not isinstance(value, list | tuple | str):
                raise EvaluationError("Only texts and lists can be cut")
            cut: list[Any] = [bound(state) if bound is not None else None for bound in bounds]
            part = value[slice(*cut)]
            state.weigh(part)
            return part

        return evaluate

    def comprehension(self, node: ast.ListComp | ast.SetComp | ast.GeneratorExp) -> Evaluate:
        collect = build_collect(node.generators, self.compile(node.elt), self.compile, self._fail)
        if isinstance(node, ast.SetComp):
            return lambda state: set(collect(state))
        return collect

    def dict_comprehension(self, node: ast.DictComp) -> Evaluate:
        key, value = self.compile(node.key), self.compile(node.value)
        collect = build_collect(
            node.generators,
            lambda state: (key(state), value(state)),
            self.compile,
            self._fail,
        )
        return lambda state: dict(collect(state))  # type: ignore[arg-type]

    def call(self, node: ast.Call) -> Evaluate:
        keywords: dict[str, ast.expr] = {}
        for keyword in node.keywords:
            if keyword.arg is None:
                raise self._fail(node, "'**' is not part of the template language")
            keywords[keyword.arg] = keyword.value
        if isinstance(node.func, ast.Attribute):
            return self._method(node, node.func, keywords)
        if not isinstance(node.func, ast.Name):
            raise self._fail(node, "Only functions and methods can be called")
        name = node.func.id
        if name in BUILT:
            return BUILT[name](self._site(node, name, keywords))
        if name not in PLAIN:
            known = [*BUILT, *PLAIN]
            message = f"There is no function '{name}'"
            raise self._fail(node, message, did_you_mean(name, known))
        try:
            SIGNATURES[name].bind(None, *node.args, **keywords)
        except TypeError as error:
            raise self._fail(node, f"{name}() cannot be called like this: {error}") from None
        function = PLAIN[name]
        args = [self.compile(arg) for arg in node.args]
        if not keywords:
            return lambda state: function(state, *[arg(state) for arg in args])
        named = {key: self.compile(value) for key, value in keywords.items()}
        return lambda state: function(
            state,
            *[arg(state) for arg in args],
            **{key: value(state) for key, value in named.items()},
        )

    def _site(self, node: ast.Call, name: str, keywords: dict[str, ast.expr]) -> CallSite:
        return CallSite(
            name=name,
            args=tuple(node.args),
            keywords=keywords,
            compile=self.compile,
            source=lambda part: ast.unparse(part)[:80],
            fail=lambda message: self._fail(node, message),
        )

    def _method(
        self, node: ast.Call, function: ast.Attribute, keywords: dict[str, ast.expr]
    ) -> Evaluate:
        name = function.attr
        if name not in METHOD_NAMES:
            hint = did_you_mean(name, METHOD_NAMES)
            raise self._fail(node, f"There is no method '{name}'", hint)
        if keywords:
            raise self._fail(node, f"{name}() takes no named arguments")
        read, names = self.compile(function.value), _name_of(function.value)
        args = [self.compile(arg) for arg in node.args]

        def evaluate(state: RenderState) -> object:
            receiver = read(state)
            if receiver is None:
                receiver = _without_value(state, names)
            if isinstance(receiver, str) and len(receiver) > 1024:
                state.charge(len(receiver) >> 8)
            method = method_of(receiver, name)
            if method is None:
                if state.test_mode:
                    return None
                raise EvaluationError(f"A {type(receiver).__name__} has no method '{name}'")
            return method(state, receiver, *[arg(state) for arg in args])

        return evaluate


def _name_of(node: ast.expr) -> list[str | None]:
    return [node.id if isinstance(node, ast.Name) else None]


def _report_missing(
    state: RenderState, names: list[str | None], values: tuple[object, ...]
) -> bool:
    """Report the names without a value; whether there was one."""
    missing = [name for name, value in zip(names, values, strict=True) if name and value is None]
    for name in missing:
        if not state.test_mode:
            state.missing(name, "a value", "1")
    return bool(missing)


def _without_value(state: RenderState, names: list[str | None]) -> object:
    """What goes on in place of nothing, once that is reported."""
    if not _report_missing(state, names, (None,)) and not state.test_mode:
        raise EvaluationError("The expression has no value")
    return ""


def _spoken(node: ast.expr) -> str:
    text = ast.unparse(node)
    return f"`{text if len(text) <= 60 else text[:59] + '…'}`"


# Each method takes its own kind of node, which the key of the table ensures.
_NODES: Mapping[type[ast.expr], Callable[[_Compiler, Any], Evaluate]] = {
    ast.Constant: _Compiler.constant,
    ast.Name: _Compiler.name,
    ast.List: _Compiler.sequence,
    ast.Tuple: _Compiler.sequence,
    ast.Set: _Compiler.sequence,
    ast.Dict: _Compiler.mapping,
    ast.JoinedStr: _Compiler.joined_text,
    ast.BinOp: _Compiler.binary,
    ast.Compare: _Compiler.compare,
    ast.BoolOp: _Compiler.boolean,
    ast.UnaryOp: _Compiler.unary,
    ast.IfExp: _Compiler.conditional,
    ast.Subscript: _Compiler.subscript,
    ast.ListComp: _Compiler.comprehension,
    ast.SetComp: _Compiler.comprehension,
    ast.GeneratorExp: _Compiler.comprehension,
    ast.DictComp: _Compiler.dict_comprehension,
    ast.Call: _Compiler.call,
}
