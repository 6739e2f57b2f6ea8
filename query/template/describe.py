"""The parameters of a template, collected without rendering it; pure.

The tree is walked as it would run. A parameter is required where it has no default and is asked
for on a way on which no condition has made sure of it: ``defined(p)``, ``p``, ``p == 'x'`` or
``p is not None`` guard the branch they open.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping

from msgspec import Struct, structs

from query.template.calls import METADATA
from query.template.compile import Template
from query.template.nodes import (
    Block,
    Expression,
    For,
    If,
    Node,
    Output,
    Set,
    Target,
    Try,
    While,
    names_in,
)
from query.template.registry import PLAIN
from query.template.source import position
from query.template.values import SCALARS

Names = frozenset[str]

_NONE: Names = frozenset()
_TYPES: Mapping[str, str] = {
    **{name: name for name in SCALARS},
    **dict.fromkeys(("column", "columns", "symbol", "table", "TABLE"), "String"),
    "Array": "Array",
    "JSON": "JSON",
    "split_to_array": "Array(String)",
}
_NEVER_MISSING = frozenset({"Boolean", "JSON", "split_to_array"})
_TOLERANT = frozenset({"str", "bool", "error", "custom_error", "sql_unescape", "backend_hint"})


class Parameter(Struct, frozen=True, kw_only=True):
    """What a template says of one parameter; ``type`` is as it is declared, ``Array(Int32)`` too.

    ``default`` is the constant, None where there is none or it is computed. ``required`` is what
    the template says with ``required=``, else whether a request without the parameter can fail.
    ``line`` is that of its first mention, from 1, in the SQL of the node.
    """

    name: str
    type: str = "String"
    default: object = None
    required: bool = False
    description: str | None = None
    enum: tuple[str, ...] = ()
    example: str | None = None
    format: str | None = None
    line: int = 1


class _Mention(Struct, frozen=True, kw_only=True):
    """One place that asks for a parameter; ``stated`` is its ``required=``."""

    parameter: Parameter
    is_typed: bool = False
    stated: bool | None = None


def parameters(*templates: Template) -> tuple[Parameter, ...]:
    """Every parameter, in order of appearance; several mentions are put together.

    Args:
        templates: The templates that one request renders.
    """
    found: dict[str, list[_Mention]] = {}
    for template in templates:
        walk = _Walk(template.sql)
        walk.block(template.nodes, _NONE)
        for name, mentions in walk.found.items():
            found.setdefault(name, []).extend(mentions)
    return tuple(_merged(mentions) for mentions in found.values())


def _merged(mentions: list[_Mention]) -> Parameter:
    """The first typed mention counts; the others fill in what it does not say."""
    merged = next((m for m in mentions if m.is_typed), mentions[0]).parameter
    stated = next((m.stated for m in mentions if m.stated is not None), None)
    for other in (mention.parameter for mention in mentions):
        merged = structs.replace(
            merged,
            default=merged.default if merged.default is not None else other.default,
            required=merged.required or other.required,
            description=merged.description or other.description,
            enum=merged.enum or other.enum,
            example=merged.example or other.example,
            format=merged.format or other.format,
            line=min(merged.line, other.line),
        )
    return merged if stated is None else structs.replace(merged, required=stated)


class _Walk:
    """Goes through a template once; ``sure`` are the names that have a value on this way."""

    def __init__(self, sql: str) -> None:
        self._sql = sql
        self._line = 1
        self._local: set[str] = set()
        self.found: dict[str, list[_Mention]] = {}

    def block(self, block: Block, sure: Names) -> None:
        for node in block:
            self._node(node, sure)

    def _node(self, node: Node, sure: Names) -> None:
        match node:
            case Output():
                self._start(node.expression)
                self._visit(node.expression.tree, sure, needed=True)
            case If():
                self._if(node, sure)
            case For():
                self._start(node.iterable)
                self._visit(node.iterable.tree, sure, needed=True)
                self._assign(node.target)
                self.block(node.body, sure)
                self.block(node.orelse, sure)
            case While():
                self._start(node.condition)
                self._visit(node.condition.tree, sure)
                self.block(node.body, sure | _known(node.condition.tree)[0])
                self.block(node.orelse, sure)
            case Set():
                self._start(node.value)
                self._visit(node.value.tree, sure, needed=bool(node.operator))
                self._assign(node.target)
            case Try():
                # What is missing in the body is what the handler is for.
                body_sure = sure if node.handler is None else sure | _mentioned(node.body)
                self.block(node.body, body_sure)
                for part in (node.handler or (), node.orelse, node.final):
                    self.block(part, sure)
            case _:
                pass

    def _if(self, node: If, sure: Names) -> None:
        for condition, body in node.branches:
            self._start(condition)
            self._visit(condition.tree, sure)
            if_true, if_false = _known(condition.tree)
            self.block(body, sure | if_true)
            sure |= if_false
        self.block(node.orelse, sure)

    def _start(self, expression: Expression) -> None:
        self._line = position(self._sql, expression.offset)[0]

    def _assign(self, target: Target) -> None:
        self._local.update(names_in(target))

    def _mention(self, mention: _Mention) -> None:
        name = mention.parameter.name
        if name not in self._local:
            self.found.setdefault(name, []).append(mention)

    # Expressions

    def _visit(self, node: ast.AST, sure: Names, *, needed: bool = False) -> None:
        """Note what an expression mentions; ``needed``: the template fails without its value."""
        match node:
            case ast.Name():
                required = needed and node.id not in sure
                self._mention(
                    _Mention(parameter=Parameter(name=node.id, required=required, line=self._line))
                )
            case ast.Call():
                self._call(node, sure)
            case ast.IfExp():
                if_true, if_false = _known(node.test)
                self._visit(node.test, sure)
                self._visit(node.body, sure | if_true, needed=needed)
                self._visit(node.orelse, sure | if_false, needed=needed)
            case ast.BoolOp():
                for operand in node.values:
                    self._visit(operand, sure)
                    sure |= _known(operand)[isinstance(node.op, ast.Or)]
            case ast.ListComp() | ast.SetComp() | ast.GeneratorExp() | ast.DictComp():
                self._comprehension(node, sure)
            case ast.BinOp() | ast.Subscript() | ast.UnaryOp(op=ast.USub() | ast.UAdd()):
                self._children(node, sure, needed=True)
            case ast.Compare():
                equality = (ast.Eq, ast.NotEq, ast.Is, ast.IsNot, ast.In, ast.NotIn)
                ordered = not all(isinstance(op, equality) for op in node.ops)
                self._children(node, sure, needed=ordered)
            case _:
                self._children(node, sure)

    def _children(self, node: ast.AST, sure: Names, *, needed: bool = False) -> None:
        for child in ast.iter_child_nodes(node):
            self._visit(child, sure, needed=needed)

    def _comprehension(
        self, node: ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp, sure: Names
    ) -> None:
        before = set(self._local)
        for clause in node.generators:
            self._visit(clause.iter, sure, needed=True)
            self._local.update(n.id for n in ast.walk(clause.target) if isinstance(n, ast.Name))
            for test in clause.ifs:
                self._visit(test, sure)
        for part in (node.key, node.value) if isinstance(node, ast.DictComp) else (node.elt,):
            self._visit(part, sure)
        self._local = before

    def _call(self, call: ast.Call, sure: Names) -> None:
        function = call.func.id if isinstance(call.func, ast.Name) else ""
        arguments = [*call.args, *(keyword.value for keyword in call.keywords)]
        first = call.args[0] if call.args else None
        if isinstance(call.func, ast.Attribute):
            self._visit(call.func.value, sure, needed=True)
        elif function in _TYPES and isinstance(first, ast.Name):
            self._mention(_declared(call, function, first.id, sure, self._line))
            arguments = arguments[1:]
        elif function == "defined" and isinstance(first, ast.Constant):
            parameter = Parameter(name=str(first.value), line=self._line)
            self._mention(_Mention(parameter=parameter))
            return
        needed = function in PLAIN and function not in _TOLERANT
        for argument in arguments:
            self._visit(argument, sure, needed=needed)


def _declared(call: ast.Call, function: str, name: str, sure: Names, line: int) -> _Mention:
    names = [*(["type"] if function == "Array" else []), "default", *METADATA, "defined"]
    given = dict(zip(names, call.args[1:], strict=False))
    given.update((keyword.arg, keyword.value) for keyword in call.keywords if keyword.arg)
    said = {key: _constant(node) for key, node in given.items()}
    type_ = _TYPES[function]
    if function == "Array":
        item = said.get("type")
        type_ = f"Array({item if item in SCALARS else 'String'})"
    has_default = "default" in given and not _is_none(given["default"])
    optional = function in _NEVER_MISSING or said.get("defined") in (False, 0)
    enum, required = said.get("enum"), said.get("required")
    parameter = Parameter(
        name=name,
        type=type_,
        default=said.get("default"),
        required=not has_default and not optional and name not in sure,
        description=_text(said.get("description")),
        enum=tuple(map(str, enum)) if isinstance(enum, list | tuple) else (),
        example=_text(said.get("example")),
        format=_text(said.get("format")),
        line=line,
    )
    stated = required if isinstance(required, bool) else None
    return _Mention(parameter=parameter, is_typed=True, stated=stated)


def _known(test: ast.expr) -> tuple[Names, Names]:
    """The names that have a value where a condition holds, and where it does not."""
    match test:
        case ast.Name():
            return frozenset({test.id}), _NONE
        case ast.Call(func=ast.Name(id="defined"), args=[ast.Name(id=name)]):
            return frozenset({name}), _NONE
        case ast.Call(func=ast.Name(id="defined"), args=[ast.Constant(value=str(name))]):
            return frozenset({name}), _NONE
        case ast.UnaryOp(op=ast.Not()):
            if_true, if_false = _known(test.operand)
            return if_false, if_true
        case ast.BoolOp():
            sides = [_known(value) for value in test.values]
            if isinstance(test.op, ast.And):
                return _NONE.union(*(s[0] for s in sides)), sides[0][1].intersection(
                    *(s[1] for s in sides)
                )
            return sides[0][0].intersection(*(s[0] for s in sides)), _NONE.union(
                *(s[1] for s in sides)
            )
        case ast.Compare(left=ast.Name(id=name), ops=[op], comparators=[other]):
            return _known_by_comparison(name, op, other)
        case _:
            return _NONE, _NONE


def _known_by_comparison(name: str, op: ast.cmpop, other: ast.expr) -> tuple[Names, Names]:
    found = frozenset({name})
    if isinstance(op, ast.Is | ast.Eq) and _is_none(other):
        return _NONE, found
    if isinstance(op, ast.IsNot | ast.NotEq) and _is_none(other):
        return found, _NONE
    if isinstance(op, ast.Eq | ast.In):
        return found, _NONE
    return (_NONE, found) if isinstance(op, ast.NotEq | ast.NotIn) else (_NONE, _NONE)


def _mentioned(block: Block) -> Names:
    """Every name in the outputs and assignments of a block, blocks within it left out."""
    trees = [
        node.expression.tree if isinstance(node, Output) else node.value.tree
        for node in block
        if isinstance(node, Output | Set)
    ]
    return frozenset(n.id for tree in trees for n in ast.walk(tree) if isinstance(n, ast.Name))


def _is_none(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def _constant(node: ast.expr) -> object:
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return None


def _text(value: object) -> str | None:
    return None if value is None else str(value)
