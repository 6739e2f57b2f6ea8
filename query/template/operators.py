"""Comparing and reckoning with values whose size is bounded and whose mistakes are explained."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable

from query.template.functions_plain import check_text_size
from query.template.state import EvaluationError, OverLimitError, RenderState

MAX_BITS = 1024

Binary = Callable[[RenderState, object, object], object]

_SHORT = 4096
_SIZED = (list, tuple, dict, set, range)


def describe(value: object) -> str:
    """The kind of a value in a message."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "a truth value"
    if isinstance(value, str):
        return "text"
    if isinstance(value, int | float):
        return "a number"
    return "a list" if isinstance(value, list | tuple | range) else f"a {type(value).__name__}"


def _mismatch(symbol: str, left: object, right: object) -> EvaluationError:
    kinds = f"{describe(left)} and {describe(right)}"
    hint = ""
    if {type(left), type(right)} & {str} and {type(left), type(right)} & {int, float}:
        hint = "; values from a URL are text, write Int32(name) to read one as a number"
    return EvaluationError(f"'{symbol}' cannot be applied to {kinds}{hint}")


def _charged(state: RenderState, left: object, right: object) -> None:
    for value in (left, right):
        if isinstance(value, _SIZED):
            state.weigh(value)
        elif isinstance(value, str) and len(value) > _SHORT:
            state.charge(len(value) >> 12)


def _comparison(symbol: str, compare: Callable[..., object]) -> Binary:
    def apply(state: RenderState, left: object, right: object) -> object:
        if not (type(left) is type(right) is str and len(left) + len(right) <= _SHORT):
            _charged(state, left, right)
        try:
            return compare(left, right)
        except TypeError:
            if state.test_mode and (left is None or right is None):
                return False
            raise _mismatch(symbol, left, right) from None

    return apply


def _contains(right: object, left: object) -> bool:
    if not isinstance(right, str | list | tuple | dict | set | range):
        raise TypeError
    return left in right


COMPARISONS: dict[type[ast.cmpop], tuple[str, Binary]] = {
    ast.Eq: ("==", _comparison("==", operator.eq)),
    ast.NotEq: ("!=", _comparison("!=", operator.ne)),
    ast.Lt: ("<", _comparison("<", operator.lt)),
    ast.LtE: ("<=", _comparison("<=", operator.le)),
    ast.Gt: (">", _comparison(">", operator.gt)),
    ast.GtE: (">=", _comparison(">=", operator.ge)),
    ast.Is: ("is", _comparison("is", operator.is_)),
    ast.IsNot: ("is not", _comparison("is not", operator.is_not)),
    ast.In: ("in", _comparison("in", lambda left, right: _contains(right, left))),
    ast.NotIn: ("not in", _comparison("not in", lambda left, right: not _contains(right, left))),
}


def _is_number(value: object) -> bool:
    return isinstance(value, int | float)


def _bits(value: object) -> int:
    return value.bit_length() if isinstance(value, int) else 0


def add(state: RenderState, left: object, right: object) -> object:
    """Sum of numbers, or two texts or lists joined."""
    if isinstance(left, str) and isinstance(right, str):
        check_text_size(len(left) + len(right))
        joined = left + right
        state.charge(len(joined) >> 10)
        return joined
    for kind in (list, tuple):
        if isinstance(left, kind) and isinstance(right, kind):
            both = [*left, *right]
            state.weigh(both)
            return both if kind is list else tuple(both)
    if not (_is_number(left) and _is_number(right)):
        raise _mismatch("+", left, right)
    if max(_bits(left), _bits(right)) > MAX_BITS:
        raise OverLimitError(f"A whole number has more than {MAX_BITS} bits")
    return left + right  # type: ignore[operator]


def multiply(state: RenderState, left: object, right: object) -> object:
    """Product of numbers, or a text or list repeated."""
    if isinstance(right, str | list | tuple):
        left, right = right, left
    if isinstance(left, str | list | tuple) and isinstance(right, int):
        times = max(right, 0)
        if isinstance(left, str):
            check_text_size(len(left) * times)
        elif len(left) * times > state.limits.value_items:
            raise OverLimitError(f"A list has more than {state.limits.value_items} items")
        repeated = left * times
        state.weigh(repeated)
        return repeated
    if not (_is_number(left) and _is_number(right)):
        raise _mismatch("*", left, right)
    if _bits(left) + _bits(right) > MAX_BITS:
        raise OverLimitError(f"A whole number has more than {MAX_BITS} bits")
    return left * right  # type: ignore[operator]


def power(state: RenderState, left: object, right: object) -> object:
    """One number to the power of another."""
    if not (_is_number(left) and _is_number(right)):
        raise _mismatch("**", left, right)
    if isinstance(left, int) and isinstance(right, int) and _bits(left) * abs(right) > MAX_BITS:
        raise OverLimitError(f"A whole number has more than {MAX_BITS} bits")
    result: object = left**right  # type: ignore[operator]
    if isinstance(result, complex):
        raise EvaluationError("A negative number has no such power")
    return result


def _reckoning(symbol: str, apply: Callable[..., object]) -> Binary:
    def reckon(state: RenderState, left: object, right: object) -> object:
        if not (_is_number(left) and _is_number(right)):
            raise _mismatch(symbol, left, right)
        try:
            return apply(left, right)
        except ZeroDivisionError:
            raise EvaluationError("Division by zero") from None

    return reckon


ARITHMETIC: dict[type[ast.operator], tuple[str, Binary]] = {
    ast.Add: ("+", add),
    ast.Sub: ("-", _reckoning("-", operator.sub)),
    ast.Mult: ("*", multiply),
    ast.Div: ("/", _reckoning("/", operator.truediv)),
    ast.FloorDiv: ("//", _reckoning("//", operator.floordiv)),
    ast.Mod: ("%", _reckoning("%", operator.mod)),
    ast.Pow: ("**", power),
}
OUTPUT_ARITHMETIC = (ast.Add, ast.Sub, ast.Mult)
"""What ``{{ }}`` allows, as upstream; ``{% set %}`` allows the rest."""

BY_SYMBOL: dict[str, Binary] = dict(ARITHMETIC.values())
