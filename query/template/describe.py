"""The parameters of a template, collected without rendering it."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from msgspec import Struct, structs

from query.template.compile import Template
from query.template.nodes import (
    Block,
    Expression,
    For,
    If,
    Node,
    Output,
    Set,
    Try,
    While,
    names_in,
)
from query.template.values import SCALARS

_NAMES_BY_DEFAULT = {"column": "String", "columns": "String", "symbol": "String", "table": "String"}
_TYPES = {**{name: name for name in SCALARS}, "Array": "Array", "JSON": "JSON", **_NAMES_BY_DEFAULT}
_TYPES["split_to_array"] = "Array"
_DEFAULT_AT = {"Array": 2}


class Parameter(Struct, frozen=True, kw_only=True):
    """What a template says of one parameter; ``type`` is as it is declared, ``Array(Int32)`` too.

    ``required``: it has no default and is asked for where no ``defined()`` guards it.
    """

    name: str
    type: str = "String"
    default: object = None
    required: bool = False
    description: str | None = None
    enum: tuple[str, ...] = ()
    example: str | None = None
    format: str | None = None


def parameters(template: Template) -> tuple[Parameter, ...]:
    """Every parameter, in order of appearance; several mentions are put together."""
    found: dict[str, Parameter] = {}
    local = {name for node in walk(template.nodes) for name in _assigned(node)}
    guarded = _guarded(template)
    for expression in _expressions(template):
        for mention in _mentions(expression, guarded):
            if mention.name in local:
                continue
            known = found.get(mention.name)
            found[mention.name] = mention if known is None else _merge(known, mention)
    return tuple(found.values())


def _assigned(node: Node) -> tuple[str, ...]:
    return names_in(node.target) if isinstance(node, For | Set) else ()


def _expressions(template: Template) -> Iterator[Expression]:
    for node in walk(template.nodes):
        match node:
            case Output():
                yield node.expression
            case If():
                yield from (condition for condition, _ in node.branches)
            case For():
                yield node.iterable
            case While():
                yield node.condition
            case Set():
                yield node.value
            case _:
                pass


def _guarded(template: Template) -> frozenset[str]:
    """Parameters that some ``defined(p)`` asks for: they may be left out."""
    return frozenset(
        name
        for expression in _expressions(template)
        for call in ast.walk(expression.tree)
        if isinstance(call, ast.Call) and _called(call) == "defined"
        for name in _first_name(call)
    )


def _called(call: ast.Call) -> str:
    return call.func.id if isinstance(call.func, ast.Name) else ""


def _first_name(call: ast.Call) -> tuple[str, ...]:
    first = call.args[0] if call.args else None
    if isinstance(first, ast.Name):
        return (first.id,)
    if isinstance(first, ast.Constant) and isinstance(first.value, str):
        return (first.value,)
    return ()


def _mentions(expression: Expression, guarded: frozenset[str]) -> Iterator[Parameter]:
    functions = {call.func for call in ast.walk(expression.tree) if isinstance(call, ast.Call)}
    typed: set[ast.expr] = set()
    for call in ast.walk(expression.tree):
        if isinstance(call, ast.Call) and _called(call) in _TYPES:
            first = call.args[0] if call.args else None
            if isinstance(first, ast.Name):
                typed.add(first)
                yield _declared(call, first.id, guarded)
    for node in ast.walk(expression.tree):
        if isinstance(node, ast.Name) and node not in functions and node not in typed:
            yield Parameter(name=node.id, required=False)


def _declared(call: ast.Call, name: str, guarded: frozenset[str]) -> Parameter:
    keywords = {k.arg: _constant(k.value) for k in call.keywords if k.arg}
    function = _called(call)
    at = _DEFAULT_AT.get(function, 1)
    default = keywords.get("default")
    if default is None and at < len(call.args):
        default = _constant(call.args[at])
    type_ = _TYPES[function]
    if function == "Array":
        item = _constant(call.args[1]) if len(call.args) > 1 else None
        type_ = f"Array({item if isinstance(item, str) else 'String'})"
    enum = keywords.get("enum")
    optional = function == "Boolean" or keywords.get("defined") in (False, 0)
    return Parameter(
        name=name,
        type=type_,
        default=default,
        required=default is None and name not in guarded and not optional,
        description=_text(keywords.get("description")),
        enum=tuple(str(v) for v in enum) if isinstance(enum, list | tuple) else (),
        example=_text(keywords.get("example")),
        format=_text(keywords.get("format")),
    )


def _constant(node: ast.expr) -> object:
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return None


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _merge(known: Parameter, other: Parameter) -> Parameter:
    """The first declaration counts; later ones fill in what it does not say."""
    untyped = Parameter(name=known.name)
    if known == untyped:
        return other
    if other == untyped:
        return known
    return structs.replace(
        known,
        default=known.default if known.default is not None else other.default,
        required=known.required or other.required,
        description=known.description or other.description,
        enum=known.enum or other.enum,
        example=known.example or other.example,
        format=known.format or other.format,
    )


def walk(block: Block) -> Iterator[Node]:
    """Every node of a block in the order of the text."""
    for node in block:
        yield node
        match node:
            case If():
                for _, body in node.branches:
                    yield from walk(body)
                yield from walk(node.orelse)
            case For() | While():
                yield from walk(node.body)
                yield from walk(node.orelse)
            case Try():
                for inner in (node.body, node.handler or (), node.orelse, node.final):
                    yield from walk(inner)
            case _:
                pass
