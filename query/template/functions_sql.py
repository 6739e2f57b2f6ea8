"""Functions that yield names, conditions and effects: ``column``, ``table``, ``sql_and``."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable
from functools import lru_cache

from query.template.calls import CallSite, Evaluate, read_argument
from query.template.state import EvaluationError, RenderState, shorten
from query.template.values import (
    NOTHING,
    BadValueError,
    Fragment,
    Identifier,
    Pattern,
    Secret,
    read_integer,
)
from shared.clickhouse.sql import is_identifier, quote_identifier
from shared.errors import TemplateCustomError

CACHE_TTLS_S = {"5s": 5, "1m": 60, "5m": 300, "30m": 1800, "1h": 3600}
ACTIVATIONS = ("analyzer", "parallel_replicas", "optimize_aggregation_in_order")
DEACTIVATIONS = ("analyzer",)
MAX_THREADS = 1024
MAX_NAMES = 1000
MAX_NAME_LENGTH = 1000

_OPERATORS = {
    "in": "in",
    "not_in": "not in",
    "gt": ">",
    "lt": "<",
    "gte": ">=",
    "lte": "<=",
}
# What stands for a name that is not given, where it is only seen whether the SQL holds.
STAND_IN = "placeholder"
_STAND_IN = Identifier(f"`{STAND_IN}`")
_NAME = "a name of letters, digits and underscores"
Quote = Callable[[RenderState, object], Identifier | None]


def build_defined(site: CallSite) -> Evaluate:
    """``defined(p)``: whether a value was given, the empty text included."""
    if len(site.args) != 1 or site.keywords:
        raise site.fail("defined() takes one parameter")
    node = site.args[0]
    name = node.id if isinstance(node, ast.Name) else None
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        name = node.value
    if name is not None:
        known = name
        return lambda state: state.variables.get(known) is not None
    read = site.compile(node)
    return lambda state: read(state) is not None


def _name_parts(value: object) -> list[str]:
    """The parts of a dotted name, empty where one is no identifier."""
    if not isinstance(value, str) or len(value) > MAX_NAME_LENGTH:
        return []
    parts = value.split(".")
    return parts if all(map(is_identifier, parts)) else []


def _quote_symbol(state: RenderState, value: object) -> Identifier | None:
    return Identifier(quote_identifier(str(value))) if _name_parts(value) else None


def _quote_path(state: RenderState, value: object) -> Identifier | None:
    return _quoted(value) if isinstance(value, str) else None


@lru_cache(maxsize=1024)
def _quoted(name: str) -> Identifier | None:
    """A dotted name with its parts quoted; the same few come again and again."""
    parts = _name_parts(name)
    return Identifier(".".join(map(quote_identifier, parts))) if parts else None


def _quote_table(state: RenderState, value: object) -> Identifier | None:
    return _quote_path(state, value) if _name_parts(value) and value in state.resources else None


def _quote_readable(state: RenderState, value: object) -> Identifier | None:
    return _quote_path(state, value) if _name_parts(value) and value in state.readable else None


def _build_name(
    site: CallSite,
    quote: Quote,
    expected: str,
    stand_in: Identifier,
    quote_own: Quote | None = None,
) -> Evaluate:
    """A function that yields a name; ``quote_own`` is for what the template itself says."""
    argument = read_argument(site)
    quote_default = quote_own or quote
    quote_value = quote_default if isinstance(site.args[0], ast.Constant) else quote
    read, default, name = argument.read, argument.default, argument.name

    def evaluate(state: RenderState) -> object:
        value = read(state)
        given = value is not None
        if value is None and default is not None:
            value = default(state)
        if value is None:
            if not state.test_mode:
                state.missing(name, expected, "name")
            return stand_in
        quoted = quote_value(state, value) if given else quote_default(state, value)
        if quoted is None:
            if not given:
                message = f"The default of parameter '{name}' must be {expected}"
                raise EvaluationError(f"{message}, not '{shorten(value)}'")
            state.bad(name, value, expected, "name")
            return stand_in
        return quoted

    return evaluate


def build_symbol(site: CallSite) -> Evaluate:
    """``symbol(p)``: one name in backticks."""
    return _build_name(site, _quote_symbol, _NAME, _STAND_IN)


def build_column(site: CallSite) -> Evaluate:
    """``column(p, 'default')``: a column, its dots separating quoted names."""
    return _build_name(site, _quote_path, _NAME, _STAND_IN)


def build_table(site: CallSite) -> Evaluate:
    """``table(p)``: a resource; one that the caller names is one that the token may read."""
    expected = "the name of a data source or pipe"
    return _build_name(site, _quote_readable, expected, _STAND_IN, _quote_table)


def build_columns(site: CallSite) -> Evaluate:
    """``columns(p, 'a,b', 'sum')``: columns in a row, each in a call of the function if given."""
    function = site.constant(2, "fn")
    if function is not None and not (isinstance(function, str) and is_identifier(function)):
        raise site.fail("The function of columns() must be the name of a function")

    def quote(state: RenderState, value: object) -> Identifier | None:
        if isinstance(value, str) and len(value) > MAX_NAMES * 100:
            return None
        names = value.split(",") if isinstance(value, str) else value
        if not isinstance(names, list | tuple) or not 0 < len(names) <= MAX_NAMES:
            return None
        state.charge(len(names))
        shown = []
        for each in names:
            name = each.strip() if isinstance(each, str) else each
            quoted = _quote_path(state, name)
            if quoted is None:
                return None
            alias = quote_identifier(str(name))
            shown.append(f"{function}({quoted}) as {alias}" if function else quoted)
        return Identifier(",".join(shown))

    return _build_name(site, quote, "names of columns separated by commas", _STAND_IN)


def build_sql_and(site: CallSite) -> Evaluate:
    """``sql_and(a=…, b__in=…)``: conditions joined by and; what has no value is left out."""
    if site.args:
        raise site.fail("sql_and() takes conditions: sql_and(column=value, other__gt=value)")
    conditions = []
    for keyword, node in site.keywords.items():
        column, found, suffix = keyword.rpartition("__")
        if not found or suffix not in _OPERATORS:
            column, suffix = keyword, ""
        if suffix == "in" and column.endswith("__not"):
            column, suffix = column.removesuffix("__not"), "not_in"
        operator = _OPERATORS.get(suffix, "=")
        conditions.append((quote_identifier(column), operator, site.compile(node)))

    def evaluate(state: RenderState) -> object:
        parts: list[object] = []
        for column, operator, read in conditions:
            value = read(state)
            if value is None or value is NOTHING:
                continue
            head = f"{' and ' if parts else ''}{column} {operator} "
            if operator.endswith("in") and not isinstance(value, list | tuple | range):
                parts += [Identifier(head + "("), value, Identifier(")")]
            else:
                parts += [Identifier(head), value]
        return Fragment(tuple(parts))

    return evaluate


def build_split_to_array(site: CallSite) -> Evaluate:
    """``split_to_array(p, default='', separator=',')``: trimmed pieces of a text."""
    argument = read_argument(site)
    separator_node = site.argument(2, "separator")
    separator = site.compile(separator_node) if separator_node is not None else lambda state: ","
    read, default = argument.read, argument.default

    def evaluate(state: RenderState) -> object:
        value = read(state)
        if value is None:
            value = default(state) if default is not None else ""
        if isinstance(value, list | tuple):
            return [each.strip() if isinstance(each, str) else each for each in value]
        between = separator(state)
        if not isinstance(value, str) or not isinstance(between, str) or not between:
            raise EvaluationError("split_to_array() splits text at a separator")
        pieces = value.split(between)
        state.weigh(pieces)
        return [piece.strip() for piece in pieces]

    return evaluate


def build_secret(site: CallSite) -> Evaluate:
    """``tb_secret('name', 'default')``: bound like any value, and never shown."""
    argument = read_argument(site)
    read, default = argument.read, argument.default

    def evaluate(state: RenderState) -> object:
        name = read(state)
        value = state.secrets.get(f"{name}", state.secrets.get(f"tb_secret_{name}"))
        if value is not None:
            return Secret(value)
        if default is not None:
            return default(state)
        if state.test_mode:
            return Secret("")
        raise EvaluationError(f"There is no secret '{name}', or this token may not read it")

    return evaluate


def error(state: RenderState, message: object = "", code: object = 400) -> object:
    """Refuse the request with the template's own words."""
    return custom_error(state, message, code)


def custom_error(state: RenderState, message: object = "", code: object = 400) -> object:
    """Refuse the request with a body and a status from 400 to 599."""
    if state.test_mode:
        return NOTHING
    state.weigh(message)
    # Through JSON once: the body then holds plain values only, whatever the template put in.
    if isinstance(message, dict):
        body = json.loads(json.dumps(message, default=str, skipkeys=True))
    else:
        body = {"error": str(message)}
    status = code if isinstance(code, int) and 400 <= code <= 599 else 400
    raise TemplateCustomError(body, http_status=int(status))


def max_threads(state: RenderState, threads: object) -> object:
    """Bound the threads of the query."""
    try:
        number = read_integer(threads)
    except BadValueError:
        number = -1
    if 0 <= number <= MAX_THREADS:
        state.max_threads = number
        return NOTHING
    raise EvaluationError(f"max_threads() takes a whole number up to {MAX_THREADS}")


def cache_ttl(state: RenderState, ttl: object) -> object:
    """Keep the answer for a while."""
    seconds = CACHE_TTLS_S.get(ttl) if isinstance(ttl, str) else None
    if seconds is None:
        raise EvaluationError(f"cache_ttl() takes one of {', '.join(CACHE_TTLS_S)}")
    state.cache_ttl_s = seconds
    return NOTHING


def activate(state: RenderState, feature: object) -> object:
    """Switch a feature of the engine on for this query."""
    if feature not in ACTIVATIONS:
        raise EvaluationError(f"activate() takes one of {', '.join(ACTIVATIONS)}")
    state.activate += (str(feature),)
    return NOTHING


def disable(state: RenderState, feature: object) -> object:
    """Switch a feature of the engine off for this query."""
    if feature not in DEACTIVATIONS:
        raise EvaluationError(f"disable() takes {', '.join(DEACTIVATIONS)}")
    state.disable += (str(feature),)
    return NOTHING


def backend_hint(state: RenderState, hint: object) -> object:
    """Accepted and ignored: there is one backend."""
    return NOTHING


def sql_unescape(state: RenderState, value: object, characters: object = "") -> object:
    """Let ``%`` of a value be a wildcard beside LIKE, where ``characters`` names it."""
    if not isinstance(value, str):
        return value
    return Pattern(value) if isinstance(characters, str) and "%" in characters else value
