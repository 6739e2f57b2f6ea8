"""Every function and method that a template may call, by name. Nothing else can be called."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping

from query.template import functions_plain as plain
from query.template import functions_sql as sql
from query.template import functions_typed as typed
from query.template.calls import Builder
from query.template.state import EvaluationError, RenderState
from query.template.values import SCALARS

Plain = Callable[..., object]

BUILT: Mapping[str, Builder] = {
    **dict.fromkeys(SCALARS, typed.build_scalar),
    "Array": typed.build_array,
    "JSON": typed.build_json,
    "defined": sql.build_defined,
    "symbol": sql.build_symbol,
    "column": sql.build_column,
    "columns": sql.build_columns,
    "table": sql.build_table,
    "TABLE": sql.build_table,
    "sql_and": sql.build_sql_and,
    "split_to_array": sql.build_split_to_array,
    "tb_secret": sql.build_secret,
    "tb_var": sql.build_secret,
}

PLAIN: Mapping[str, Plain] = {
    "error": sql.error,
    "custom_error": sql.custom_error,
    "max_threads": sql.max_threads,
    "cache_ttl": sql.cache_ttl,
    "activate": sql.activate,
    "disable": sql.disable,
    "backend_hint": sql.backend_hint,
    "sql_unescape": sql.sql_unescape,
    "enumerate_with_last": plain.enumerate_with_last,
    "day_diff": plain.day_diff,
    **plain.DATE_DIFFERENCES,
    "len": plain.length,
    "list": plain.to_list,
    "tuple": plain.to_tuple,
    "set": plain.to_set,
    "dict": plain.to_dict,
    "str": plain.to_text,
    "int": plain.to_int,
    "float": plain.to_float,
    "bool": plain.to_bool,
    "min": plain.minimum,
    "max": plain.maximum,
    "sum": plain.total,
    "abs": plain.absolute,
    "round": plain.rounded,
    "range": plain.numbers,
    "enumerate": plain.enumerated,
    "zip": plain.zipped,
    "reversed": plain.reverse,
    "sorted": plain.sort,
    "any": plain.any_of,
    "all": plain.all_of,
}

SIGNATURES = {name: inspect.signature(function) for name, function in PLAIN.items()}


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise EvaluationError("Text is needed here")
    return value


def _split(
    state: RenderState, text: str, separator: object = None, limit: object = -1
) -> list[str]:
    if not isinstance(limit, int):
        raise EvaluationError("split() takes a number of pieces")
    pieces = text.split(None if separator is None else _text(separator), limit)
    state.weigh(pieces)
    return pieces


def _join(state: RenderState, text: str, values: object) -> str:
    items = [_text(item) for item in plain.sequence(state, values)]
    plain.check_text_size(sum(map(len, items)) + len(text) * len(items))
    return plain.checked_text(state, text.join(items))


def _replace(state: RenderState, text: str, old: object, new: object, count: object = -1) -> str:
    if not isinstance(count, int):
        raise EvaluationError("replace() takes a number of replacements")
    before, after = _text(old), _text(new)
    plain.check_text_size((len(text) + 1) * (len(after) + 1) if not before else len(text))
    if before and len(after) > len(before):
        plain.check_text_size(len(text) + text.count(before) * (len(after) - len(before)))
    return plain.checked_text(state, text.replace(before, after, count))


def _affixes(value: object) -> str | tuple[str, ...]:
    return tuple(map(_text, value)) if isinstance(value, tuple) else _text(value)


def _strip(value: object) -> str | None:
    text = None if value is None else _text(value)
    if text is not None and len(text) > 100:
        raise EvaluationError("strip() takes at most 100 characters to strip")
    return text


def _get(state: RenderState, mapping: dict[object, object], *args: object) -> object:
    return mapping.get(*args)


METHODS: Mapping[type, Mapping[str, Plain]] = {
    str: {
        "split": _split,
        "join": _join,
        "replace": _replace,
        "startswith": lambda state, text, affix: text.startswith(_affixes(affix)),
        "endswith": lambda state, text, affix: text.endswith(_affixes(affix)),
        "upper": lambda state, text: plain.checked_text(state, text.upper()),
        "lower": lambda state, text: plain.checked_text(state, text.lower()),
        "strip": lambda state, text, what=None: text.strip(_strip(what)),
        "lstrip": lambda state, text, what=None: text.lstrip(_strip(what)),
        "rstrip": lambda state, text, what=None: text.rstrip(_strip(what)),
        "isdigit": lambda state, text: text.isdigit(),
    },
    dict: {
        "get": _get,
        "keys": lambda state, mapping: list(mapping),
        "values": lambda state, mapping: list(mapping.values()),
        "items": lambda state, mapping: list(mapping.items()),
    },
}
METHOD_NAMES = frozenset(name for methods in METHODS.values() for name in methods)


def method_of(receiver: object, name: str) -> Plain | None:
    """The method that a value has under a name, None where it has none."""
    for kind, methods in METHODS.items():
        if isinstance(receiver, kind):
            return methods.get(name)
    return None
