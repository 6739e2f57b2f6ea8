"""Template text to closures, once; a render only calls them.

Every statement knows its place, so that whatever goes wrong inside becomes a ``TemplateError``
with line and column. A loop is charged for every turn by what stands in it; straight code cannot
run longer than it is.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Sequence
from typing import cast

from msgspec import Struct

from query.template import functions_plain as plain
from query.template.calls import Evaluate
from query.template.comprehension import Assign, compile_target
from query.template.emit import Emit, emit, emit_like, emit_nothing, emit_sample
from query.template.expression import compile_expression
from query.template.nodes import (
    Block,
    Break,
    Continue,
    Expression,
    For,
    If,
    Node,
    Output,
    Set,
    Text,
    Try,
    While,
)
from query.template.operators import BY_SYMBOL
from query.template.parser import parse
from query.template.source import LimitError, template_error
from query.template.sql_context import START, Context, context_of, contexts, scan
from query.template.state import EvaluationError, OverLimitError, RenderState
from shared.errors import ParameterError, TemplateCustomError, TemplateError

NEXT, BREAK, CONTINUE = 0, 1, 2
Step = Callable[[RenderState], int]

# With what Python raises when values do not fit an operation: all of it the template's mistake.
_FAILURES = (
    EvaluationError,
    TypeError,
    ValueError,
    LookupError,
    ArithmeticError,
    AttributeError,
    RecursionError,
    MemoryError,
)
_UNWRITTEN = "__no_value__"


class Template(Struct, frozen=True, eq=False, kw_only=True):
    """A compiled template, to be kept and rendered often, by any thread.

    ``is_static`` says that it has no tags: its text is its rendering.
    """

    sql: str
    nodes: Block
    run: Step
    is_static: bool


def compile_template(sql: str) -> Template:
    """Compile the SQL of a node.

    Raises:
        TemplateError: It is no template; ``errors`` has line and column in ``sql``.
    """
    nodes = parse(sql)
    is_static = all(isinstance(node, Text) for node in nodes)
    run = _Statements(sql, contexts(nodes, sql)).block(nodes)
    return Template(sql=sql, nodes=nodes, run=run, is_static=is_static)


def _error_at(error: Exception, sql: str, offset: int, shown: str) -> TemplateError:
    if isinstance(error, OverLimitError):
        return template_error(str(error), sql, offset, limit=True)
    if isinstance(error, EvaluationError):
        return template_error(f"`{shown}`: {error}", sql, offset)
    if isinstance(error, RecursionError | MemoryError):
        return template_error(f"`{shown}` needs too much memory", sql, offset, limit=True)
    return template_error(f"`{shown}` cannot be evaluated: {error}", sql, offset)


class _Statements:
    """Compiles the nodes of one template."""

    def __init__(self, sql: str, contexts_: dict[int, Context]) -> None:
        self._sql = sql
        self._contexts = contexts_
        self._in_loop = 0

    def block(self, block: Block) -> Step:
        if len(block) == 1:
            return self._node(block[0])
        if self._in_loop:
            return self._sequence([self._node(node) for node in block])
        # Text goes with the step behind it, which saves a call for each.
        pairs: list[tuple[str, Step]] = []
        text = ""
        for node in block:
            if isinstance(node, Text):
                text += node.text
            else:
                pairs.append((text, self._node(node)))
                text = ""
        tail = text

        def run(state: RenderState) -> int:
            write = state.out.append
            for text, step in pairs:
                if text:
                    write(text)
                signal = step(state)
                if signal:
                    return signal
            write(tail)
            return NEXT

        return run

    def _sequence(self, steps: Sequence[Step]) -> Step:
        def run(state: RenderState) -> int:
            for step in steps:
                signal = step(state)
                if signal:
                    return signal
            return NEXT

        return run

    def _node(self, node: Node) -> Step:
        if isinstance(node, Text):
            return self._text(node)
        if isinstance(node, Output):
            return self._output(node)
        if isinstance(node, If):
            return self._if(node)
        if isinstance(node, For):
            return self._for(node)
        if isinstance(node, While):
            return self._while(node)
        if isinstance(node, Set):
            return self._set(node)
        if isinstance(node, Try):
            return self._try(node)
        signal = BREAK if isinstance(node, Break) else CONTINUE
        assert isinstance(node, Break | Continue)
        return lambda state: signal

    def _text(self, node: Text) -> Step:
        text, size = node.text, len(node.text)
        if not self._in_loop:

            def write(state: RenderState) -> int:
                state.out.append(text)
                return NEXT

            return write

        def write_counted(state: RenderState) -> int:
            state.size += size
            state.out.append(text)
            return NEXT

        return write_counted

    def _output(self, node: Output) -> Step:
        expression = node.expression
        evaluate = self._evaluate(expression, in_output=True)
        context = self._contexts[node.offset]
        write = _emitter(context, expression)
        located = self._located(node.offset, expression)

        plain = emit if context == "code" else None

        def output(state: RenderState) -> int:
            try:
                value = evaluate(state)
                if plain is not None and value is not None:
                    plain(state, value)
                else:
                    write(state, value)
            except _FAILURES as error:
                raise located(error) from None
            return NEXT

        return output

    def _located(self, offset: int, expression: Expression) -> Callable[[Exception], TemplateError]:
        """What turns a failure of an expression into the error for its place."""
        sql, shown = self._sql, _shown(expression)
        return lambda error: _error_at(error, sql, offset, shown)

    def _evaluate(self, expression: Expression, *, in_output: bool = False) -> Evaluate:
        return compile_expression(expression, self._sql, in_output=in_output)

    def _condition(self, expression: Expression) -> Callable[[RenderState], bool]:
        evaluate = self._evaluate(expression)
        if is_defined_name(expression.tree):
            # It cannot fail and is a truth value by itself.
            return cast(Callable[[RenderState], bool], evaluate)
        located = self._located(expression.offset, expression)

        def test(state: RenderState) -> bool:
            try:
                return bool(evaluate(state))
            except _FAILURES as error:
                raise located(error) from None

        return test

    def _if(self, node: If) -> Step:
        branches = [(self._condition(test), self.block(body)) for test, body in node.branches]
        orelse = self.block(node.orelse)
        if len(branches) == 1:
            test_only, body_only = branches[0]
            return lambda state: body_only(state) if test_only(state) else orelse(state)

        def choose(state: RenderState) -> int:
            for test, body in branches:
                if test(state):
                    return body(state)
            return orelse(state)

        return choose

    def _body(self, block: Block) -> tuple[Step, int]:
        """A loop's body, and what one turn costs."""
        self._in_loop += 1
        body = self.block(block)
        self._in_loop -= 1
        return body, 1 + _count(block)

    def _for(self, node: For) -> Step:
        evaluate, assign = self._evaluate(node.iterable), compile_target(node.target)
        (body, cost), orelse = self._body(node.body), self.block(node.orelse)
        located = self._located(node.offset, node.iterable)

        def items(state: RenderState) -> Sequence[object]:
            try:
                return plain.sequence(state, evaluate(state))
            except _FAILURES as error:
                raise located(error) from None

        def begin_turn(state: RenderState, item: object) -> None:
            try:
                state.charge(cost)
                state.grow(0)
                assign(state, item)
            except _FAILURES as error:
                raise located(error) from None

        def loop(state: RenderState) -> int:
            for item in items(state):
                begin_turn(state, item)
                if body(state) == BREAK:
                    return NEXT
            return orelse(state)

        return loop

    def _while(self, node: While) -> Step:
        test = self._condition(node.condition)
        (body, cost), orelse = self._body(node.body), self.block(node.orelse)
        located = self._located(node.offset, node.condition)

        def begin_turn(state: RenderState) -> None:
            try:
                state.charge(cost)
                state.grow(0)
            except OverLimitError as error:
                raise located(error) from None

        def loop(state: RenderState) -> int:
            while test(state):
                begin_turn(state)
                if body(state) == BREAK:
                    return NEXT
            return orelse(state)

        return loop

    def _set(self, node: Set) -> Step:
        evaluate = self._evaluate(node.value)
        assign = compile_target(node.target)
        if node.operator:
            evaluate = _in_place(evaluate, node)
        located = self._located(node.offset, node.value)

        def set_(state: RenderState) -> int:
            try:
                assign(state, evaluate(state))
            except _FAILURES as error:
                raise located(error) from None
            return NEXT

        return set_

    def _try(self, node: Try) -> Step:
        body, orelse, final = map(self.block, (node.body, node.orelse, node.final))
        handler = self.block(node.handler) if node.handler is not None else None
        bind: Assign | None = compile_target(node.bound) if node.bound else None

        def guarded(state: RenderState) -> int:
            if handler is None:
                return body(state)
            state.catching += 1
            try:
                signal = body(state)
            except LimitError:
                raise
            except (TemplateError, ParameterError, TemplateCustomError) as error:
                state.catching -= 1
                if bind is not None:
                    bind(state, error.message)
                return handler(state)
            state.catching -= 1
            return signal or orelse(state)

        def attempt(state: RenderState) -> int:
            before = state.catching
            try:
                signal = guarded(state)
            finally:
                # Python's finally: it runs whatever happened, and its own break wins.
                state.catching = before
                last = final(state)
            return last or signal

        return attempt


def _in_place(evaluate: Evaluate, node: Set) -> Evaluate:
    apply, name = BY_SYMBOL[node.operator], str(node.target)
    return lambda state: apply(state, state.variables.get(name), evaluate(state))


def _shown(expression: Expression) -> str:
    return expression.text if len(expression.text) <= 60 else expression.text[:59] + "…"


def _count(block: Block) -> int:
    """The nodes of a block with all blocks in it."""
    total = len(block)
    for node in block:
        if isinstance(node, If):
            total += sum(_count(body) for _, body in node.branches) + _count(node.orelse)
        elif isinstance(node, Try):
            total += sum(map(_count, (node.body, node.handler or (), node.orelse, node.final)))
        elif isinstance(node, For | While):
            total += _count(node.body) + _count(node.orelse)
    return total


def is_defined_name(tree: ast.expr) -> bool:
    """Whether it is ``defined(name)``, which most conditions are."""
    return (
        isinstance(tree, ast.Call)
        and isinstance(tree.func, ast.Name)
        and tree.func.id == "defined"
        and isinstance(tree.args[0], ast.Name)
    )


_EMITTERS: dict[str, Emit] = {
    "code": emit,
    "comment": emit_nothing,
    "like": emit_like,
    "sample": emit_sample,
}


def _reached(state: RenderState) -> Context | None:
    """The context after what was really written, read on from where it was last asked for."""
    at, before = state.scanned or (0, START)
    text = "".join(state.out[at:])
    state.charge(len(text) >> 4)
    after = scan(before, text)
    state.scanned = (len(state.out), after)
    return context_of((after,))


def _emitter(context: Context, expression: Expression) -> Emit:
    """What writes the value of one output, a missing parameter included."""
    name = expression.tree.id if isinstance(expression.tree, ast.Name) else None
    fixed = _EMITTERS.get(context)

    def write(state: RenderState, value: object) -> None:
        if value is None:
            if name is not None and not state.test_mode:
                state.missing(name, "a value", "abc")
            if name is not None or state.test_mode:
                value = _UNWRITTEN
        if fixed is not None:
            fixed(state, value)
            return
        reached = _reached(state)
        if reached is None:
            raise EvaluationError("A placeholder cannot stand inside quotes")
        _EMITTERS[reached](state, value)

    return write
