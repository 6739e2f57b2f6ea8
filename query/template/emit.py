"""Values to SQL: a placeholder in the text, the value beside it.

This is the only place where a render writes anything but the template's own text. Three kinds of
value become text: an ``Identifier``, which was checked when it was made, the parts of a
``Fragment`` that are one, and beside SAMPLE, where ClickHouse takes no parameter, a number.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from decimal import Decimal
from math import isfinite

from query.template.state import EvaluationError, OverLimitError, RenderState
from query.template.values import (
    BINDING_TYPES,
    INTEGER_RANGES,
    Fragment,
    Identifier,
    Pattern,
    Secret,
    SqlArray,
)
from shared.clickhouse.sql import ParameterValue

Emit = Callable[[RenderState, object], None]

_INT64_LOW, _INT64_HIGH = INTEGER_RANGES["Int64"]
_LONG = 256
# A plain int is written in the type that holds it, all others in their own.
_STATED_WIDTHS = frozenset(INTEGER_RANGES) - {"Int64"}
_LIKE_ESCAPES = str.maketrans({"\\": "\\\\", "%": "\\%"})


def emit(state: RenderState, value: object) -> None:
    """Write one value.

    Raises:
        EvaluationError: It is of no kind that SQL has.
    """
    kind = BINDING_TYPES.get(type(value))
    if kind is not None:
        # Short plain text and whole numbers of a stated width are written without more ado.
        if type(value) is str and len(value) <= _LONG and value.isascii():
            _write(state, value, kind)
        elif kind in _STATED_WIDTHS:
            _write(state, int(value), kind)  # type: ignore[call-overload]
        else:
            _bind(state, value, kind)
    elif type(value) is SqlArray and len(value) <= _LONG:
        _write(state, _short_items(state, value), f"Array({value.item_type})")
    elif isinstance(value, Identifier):
        state.grow(len(value))
        state.out.append(value)
    elif isinstance(value, Fragment):
        for part in value.parts:
            emit(state, part)
    elif isinstance(value, list | tuple | range):
        state.weigh(value)
        kind, items = _array(value)
        _write(state, items, kind)
        state.grow(len(items) * 8)
    elif isinstance(value, dict):
        state.weigh(value)
        _bind(state, _json(value), "String")
    elif value is None:
        raise EvaluationError("The expression has no value")
    else:
        raise EvaluationError(f"A {type(value).__name__} cannot be written into SQL")


def _short_items(state: RenderState, values: SqlArray) -> list[ParameterValue]:
    """The plain items of a short list of one known type."""
    items = [_plain(value) for value in values]
    state.grow(len(items) * 8 + sum(len(item) for item in items if isinstance(item, str)))
    return items


def _bind(state: RenderState, value: object, kind: str) -> None:
    if kind == "String":
        value = _checked_text(state, value)
    else:
        kind = _width(value) if kind == "Int64" else kind
        value = _plain(value)
    _write(state, value, kind)


def _write(state: RenderState, value: object, kind: str) -> None:
    number = state.next_binding
    state.next_binding = number + 1
    name = f"p{number}"
    state.bindings[name] = value  # type: ignore[assignment]
    state.out.append(f"{{{name}:{kind}}}")


def _checked_text(state: RenderState, value: object) -> str:
    text = str(value)
    if len(text) > _LONG:
        state.grow(len(text))
    _check_unicode(text)
    if isinstance(value, Secret):
        state.secret_bindings += (f"p{state.next_binding}",)
    return text


def _check_unicode(text: str) -> None:
    """Half a character (a lone surrogate) has no bytes that could be sent."""
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise EvaluationError("A value is not valid Unicode text") from None


def _width(value: object) -> str:
    """The type of a plain whole number: Int64, or the next that holds it."""
    assert isinstance(value, int)
    if _INT64_LOW <= value <= _INT64_HIGH:
        return "Int64"
    for kind in ("UInt64", "Int256", "UInt256"):
        low, high = INTEGER_RANGES[kind]
        if low <= value <= high:
            return kind
    raise EvaluationError("A whole number has more than 256 bits")


def _array(values: Sequence[object]) -> tuple[str, list[ParameterValue]]:
    """The Array type of a list and its plain items.

    Raises:
        EvaluationError: Its items have no type in common.
    """
    kinds: dict[str, None] = {}
    items: list[ParameterValue] = []
    has_null = False
    for value in values:
        if value is None:
            has_null = True
            items.append(None)
        elif isinstance(value, list | tuple | range):
            kind, inner = _array(value)
            kinds[kind] = None
            items.append(inner)
        else:
            kinds[_item_kind(value)] = None
            items.append(_plain(value))
    item_type = values.item_type if isinstance(values, SqlArray) else _common(kinds)
    if has_null:
        item_type = f"Nullable({item_type})"
    return f"Array({item_type})", items


def _item_kind(value: object) -> str:
    kind = BINDING_TYPES.get(type(value))
    if kind is None:
        raise EvaluationError(f"A list with a {type(value).__name__} cannot be written into SQL")
    return _width(value) if kind == "Int64" else kind


def _plain(value: object) -> ParameterValue:
    if isinstance(value, str):
        if not value.isascii():
            _check_unicode(value)
        return str(value)
    if isinstance(value, bool):
        return value
    return int(value) if isinstance(value, int) else float(value)  # type: ignore[arg-type]


def _common(kinds: dict[str, None]) -> str:
    if len(kinds) <= 1:
        return next(iter(kinds), "String")
    if all(kind in INTEGER_RANGES for kind in kinds):
        return "Int64" if "UInt64" not in kinds and "Int256" not in kinds else "Int256"
    if all(kind in INTEGER_RANGES or kind.startswith("Float") for kind in kinds):
        return "Float64"
    raise EvaluationError(f"A list mixes {' and '.join(sorted(kinds))}")


def _json(value: dict[object, object]) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    except (TypeError, ValueError):
        raise EvaluationError("The object cannot be written as JSON") from None


def emit_like(state: RenderState, value: object) -> None:
    """Write the operand right of LIKE: ``%`` stands for itself, unless ``sql_unescape`` freed it.

    ``_`` remains a wildcard, as in the service the files were written for.
    """
    if isinstance(value, str) and not isinstance(value, Pattern | Identifier):
        escaped = value.translate(_LIKE_ESCAPES)
        value = Secret(escaped) if isinstance(value, Secret) else escaped
    emit(state, value)


def emit_sample(state: RenderState, value: object) -> None:
    """Write the number after SAMPLE, as text."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise EvaluationError("SAMPLE takes a number: write Float64(...) or Int32(...)")
    if not isfinite(value) or not 0 <= value < 10**18:
        raise EvaluationError("SAMPLE takes a number that is not negative")
    text = str(int(value)) if isinstance(value, int) else format(Decimal(repr(float(value))), "f")
    state.out.append(text)


def emit_nothing(state: RenderState, value: object) -> None:
    """Write nothing: inside a comment a value has no meaning."""


def check_output(state: RenderState) -> str:
    """The SQL of a finished render.

    Raises:
        OverLimitError: It is too long.
    """
    sql = "".join(state.out)
    if len(sql) > state.limits.output_bytes:
        limit = state.limits.output_bytes
        raise OverLimitError(f"The rendered SQL is longer than {limit} bytes")
    return sql
