"""``String(p)``, ``Int32(p, 10)``, ``Array(p, 'Int32')``, ``JSON(p)``: a parameter and its type.

A value that is given is read as the type; a missing or bad one is reported and a stand-in goes
on, so that one render finds every mistake of a request. ``description``, ``required``, ``example``
and ``format`` only describe; ``enum`` does so too, unless the render is strict.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from contextlib import suppress

import msgspec

from query.template.calls import METADATA, Argument, CallSite, Evaluate, read_argument
from query.template.state import EvaluationError, RenderState, shorten
from query.template.values import SCALARS, BadValueError, ScalarType, SqlArray, UInt8

_KEYWORDS = frozenset({"default", "defined", *METADATA})
MAX_ITEMS = 100_000


def build_scalar(site: CallSite) -> Evaluate:
    """``T(p, default, …)`` for every type of ``SCALARS``."""
    scalar = SCALARS[site.name]
    _check_keywords(site)
    argument = read_argument(site)
    if scalar.name == "Boolean":
        return _boolean(argument)
    typed = _typed(argument, scalar, _read_default(site, scalar, argument))
    return _strict(argument, typed) if argument.enum else typed


def _strict(argument: Argument, typed: Evaluate) -> Evaluate:
    """Refuse, in a strict render, a value sent that the template does not list."""
    name, source, allowed = argument.name, argument.read, frozenset(argument.enum)
    expected, example = f"one of {', '.join(argument.enum)}", argument.example or argument.enum[0]

    def evaluate(state: RenderState) -> object:
        if not state.strict_enums:
            return typed(state)
        known = len(state.problems)
        read = typed(state)
        sent = source(state)
        # What is no value of its type has been reported already.
        if sent is None or len(state.problems) > known:
            return read
        items = read if isinstance(read, SqlArray) else (read,)
        if not all(str(item) in allowed for item in items) and str(sent) not in allowed:
            state.bad(name, sent, expected, example)
        return read

    return evaluate


def _check_keywords(site: CallSite, extra: frozenset[str] = frozenset()) -> None:
    unknown = [name for name in site.keywords if name not in _KEYWORDS | extra]
    if unknown:
        raise site.fail(f"{site.name}() has no argument '{unknown[0]}'")


def _read_default(site: CallSite, scalar: ScalarType, argument: Argument) -> Evaluate | None:
    """The default as a closure that reads it; a constant is read once, when compiled."""
    if argument.default is None:
        return None
    default, parameter = argument.default, argument.name

    def evaluate(state: RenderState) -> object:
        value = default(state)
        if value is None:
            return None
        try:
            return scalar.read(value)
        except BadValueError:
            message = f"The default of parameter '{parameter}' must be {scalar.expected}"
            raise EvaluationError(f"{message}, not '{shorten(value)}'") from None

    node = site.argument(1, "default")
    if isinstance(node, ast.Constant):
        try:
            fixed = scalar.read(node.value)
        except BadValueError:
            return evaluate  # Wrong only when it is used: a caller may always give a value.
        return lambda state: fixed
    return evaluate


def _typed(argument: Argument, scalar: ScalarType, default: Evaluate | None) -> Evaluate:
    name, read = argument.name, scalar.read
    example = argument.example or scalar.example
    missing = _missing(argument, default, scalar.expected, example, scalar.stand_in)

    def given(state: RenderState, value: object) -> object:
        if not isinstance(value, str | int | float):
            state.weigh(value)
        try:
            return read(value)
        except BadValueError:
            state.bad(name, value, scalar.expected, example)
            return scalar.stand_in

    if argument.is_name:
        is_text = scalar.name == "String"

        def evaluate_name(state: RenderState) -> object:
            value = state.variables.get(name)
            if type(value) is str:
                if is_text:
                    return value
                try:
                    return read(value)
                except BadValueError:
                    return given(state, value)
            return missing(state) if value is None else given(state, value)

        return evaluate_name

    source = argument.read

    def evaluate(state: RenderState) -> object:
        value = source(state)
        return missing(state) if value is None else given(state, value)

    return evaluate


def _missing(
    argument: Argument, default: Evaluate | None, expected: str, example: str, stand_in: object
) -> Evaluate:
    """What goes on where no value is given: the default, nothing if that is allowed, a stand-in."""
    name, optional = argument.name, argument.optional

    def evaluate(state: RenderState) -> object:
        value = default(state) if default is not None else None
        if value is not None or optional:
            return value
        if not state.test_mode:
            state.missing(name, expected, example)
        return stand_in

    return evaluate


def _boolean(argument: Argument) -> Evaluate:
    """Never an error: what is missing is 0."""
    read, default, optional = argument.read, argument.default, argument.optional
    scalar = SCALARS["Boolean"]

    def evaluate(state: RenderState) -> object:
        value = read(state)
        if value is None and default is not None:
            value = default(state)
        if value is None:
            return None if optional else UInt8(0)
        return scalar.read(value)

    return evaluate


def build_array(site: CallSite) -> Evaluate:
    """``Array(p, 'T', default)``: one binding, so that the text does not show how many items."""
    _check_keywords(site, frozenset({"type"}))
    argument = read_argument(site, default_at=2)
    type_name = site.constant(1, "type")
    scalar = SCALARS.get(type_name if isinstance(type_name, str) else "", SCALARS["String"])
    name, source, stand_in = argument.name, argument.read, _array_stand_in(scalar)
    expected = f"a list of {scalar.name} separated by commas"
    example = argument.example or f"{scalar.example},{scalar.example}"

    def read_default(state: RenderState) -> object:
        value = argument.default(state) if argument.default is not None else None
        try:
            return None if value is None else _items(state, value, scalar)
        except _BadItemError as error:
            message = f"The default of parameter '{name}': item {error.position}"
            raise EvaluationError(f"{message} must be {scalar.expected}") from None

    missing = _missing(argument, read_default, expected, example, stand_in)

    def evaluate(state: RenderState) -> object:
        value = source(state)
        if value is None:
            return missing(state)
        try:
            return _items(state, value, scalar)
        except _BadItemError as error:
            wanted = f"{expected}; item {error.position} is not {scalar.expected}"
            state.bad(name, value, wanted, example)
            return stand_in

    return _strict(argument, evaluate) if argument.enum else evaluate


def _array_stand_in(scalar: ScalarType) -> SqlArray:
    if scalar.item_type == "String":
        return SqlArray([""], "String")
    is_whole = isinstance(scalar.stand_in, int) and scalar.name != "Boolean"
    return SqlArray([scalar.stand_in] * 2 if is_whole else [], scalar.item_type)


class _BadItemError(Exception):
    def __init__(self, position: int) -> None:
        super().__init__(position)
        self.position = position


def _items(state: RenderState, value: object, scalar: ScalarType) -> SqlArray:
    """The items of a list, or of text at its commas; nothing is trimmed, as upstream."""
    parts: Sequence[object]
    if isinstance(value, str):
        parts = value.split(",")
    elif isinstance(value, list | tuple):
        parts = value
    else:
        parts = (value,)
    if len(parts) > MAX_ITEMS:
        raise EvaluationError(f"A list has more than {MAX_ITEMS} items")
    state.charge(len(parts) >> 4)
    if isinstance(value, str):
        if scalar.name == "String":
            return SqlArray(parts, "String")
        with suppress(BadValueError):
            return SqlArray(list(map(scalar.read, parts)), scalar.item_type)
    items = []
    for position, part in enumerate(parts, start=1):
        try:
            if part is None or isinstance(part, list | tuple | dict):
                raise BadValueError
            items.append(scalar.read(part))
        except BadValueError:
            raise _BadItemError(position) from None
    return SqlArray(items, scalar.item_type)


def build_json(site: CallSite) -> Evaluate:
    """``JSON(p, default)``: the parsed value, for ``get``, subscripts and loops."""
    _check_keywords(site)
    argument = read_argument(site)
    read, default, name = argument.read, argument.default, argument.name

    def evaluate(state: RenderState) -> object:
        value = read(state)
        given = value is not None
        if value is None and default is not None:
            value = default(state)
        if value is None:
            return None if argument.optional else {}
        if not isinstance(value, str):
            return value
        try:
            parsed: object = msgspec.json.decode(value.encode())
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            if not given:
                raise EvaluationError(f"The default of parameter '{name}' is not JSON") from None
            state.bad(name, value, "JSON", argument.example or '{"a":1}')
            return {}
        state.weigh(parsed)
        return parsed

    return evaluate
