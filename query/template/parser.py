"""Pieces to the tree of a template; pure."""

from __future__ import annotations

import re

from query.template.lexer import Piece, split
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
from query.template.source import template_error
from query.template.syntax import parse_assignment, parse_expression, parse_for
from shared.errors import TemplateError

MAX_BLOCKS = 30
"""Blocks within blocks."""

MAX_SQL_BYTES = 1_000_000
MAX_TAGS = 20_000

_HEAD = re.compile(r"\s*([A-Za-z_]\w*)\s*")
_CAUGHT = re.compile(r"[\w\s,.()]*")
_FORBIDDEN = frozenset(
    ["import", "from", "include", "extends", "autoescape", "raw", "module", "apply", "block"]
)
_BRANCHES = {
    "elif": ("if",),
    "else": ("if", "for", "while", "try"),
    "except": ("try",),
    "finally": ("try",),
}
_BODY = "body"


class _Open:
    """A block whose end has not been read: its sections, each with the tag that began it."""

    def __init__(self, kind: str, tag: _Tag) -> None:
        self.kind = kind
        self.tag = tag
        self.sections: list[tuple[str, _Tag, list[Node]]] = [(_BODY, tag, [])]

    def section(self, kind: str) -> Block:
        return next((tuple(nodes) for name, _, nodes in self.sections if name == kind), ())


class _Tag:
    """The word of a block tag and the text after it."""

    def __init__(self, piece: Piece, sql: str) -> None:
        self.offset = piece.offset
        found = _HEAD.match(piece.text)
        if found is None:
            raise template_error("The tag has no keyword", sql, piece.offset)
        self.word = found.group(1)
        self.rest = piece.text[found.end() :]
        self.start = piece.start + found.end()


def parse(sql: str) -> Block:
    """The tree of a template.

    Raises:
        TemplateError: It cannot be read; ``errors`` has line and column.
    """
    if len(sql) > MAX_SQL_BYTES:
        raise template_error(f"The SQL is longer than {MAX_SQL_BYTES} bytes", sql, 0, limit=True)
    pieces = split(sql)
    if len(pieces) > MAX_TAGS:
        raise template_error(f"The SQL has more than {MAX_TAGS} pieces", sql, 0, limit=True)
    return _Parser(sql).parse(pieces)


class _Parser:
    def __init__(self, sql: str) -> None:
        self._sql = sql
        self._open: list[_Open] = []
        self._nodes: list[Node] = []
        self._top = self._nodes

    def parse(self, pieces: tuple[Piece, ...]) -> Block:
        for piece in pieces:
            if piece.kind == "text":
                self._nodes.append(Text(piece.text))
            elif piece.kind == "output":
                expression = parse_expression(piece.text, self._sql, piece.start)
                self._nodes.append(Output(expression, piece.offset))
            else:
                self._block(_Tag(piece, self._sql))
        if self._open:
            last = self._open[-1]
            raise self._error(f"The block '{last.kind}' has no {{% end %}}", last.tag)
        return tuple(self._top)

    def _error(self, message: str, tag: _Tag) -> TemplateError:
        return template_error(message, self._sql, tag.offset)

    def _block(self, tag: _Tag) -> None:
        word = tag.word
        if word in ("if", "for", "while", "try"):
            self._begin(tag)
        elif word in _BRANCHES:
            self._branch(tag)
        elif word == "end":
            self._end(tag)
        elif word == "set":
            target, operator, value = parse_assignment(tag.rest, self._sql, tag.start)
            self._nodes.append(
                Set(target=target, operator=operator, value=value, offset=tag.offset)
            )
        elif word in ("break", "continue"):
            if not any(block.kind in ("for", "while") for block in self._open):
                raise self._error(f"'{word}' stands outside a loop", tag)
            self._nodes.append(Break() if word == "break" else Continue())
        elif word in _FORBIDDEN:
            raise self._error(f"'{word}' is not part of the template language", tag)
        elif word != "whitespace":
            hint = " Blocks end with {% end %}." if word.startswith("end") else ""
            raise self._error(f"'{word}' is not a known tag.{hint}", tag)

    def _begin(self, tag: _Tag) -> None:
        if len(self._open) >= MAX_BLOCKS:
            message = f"Blocks are nested deeper than {MAX_BLOCKS} levels"
            raise template_error(message, self._sql, tag.offset, limit=True)
        self._open.append(_Open(tag.word, tag))
        self._nodes = self._open[-1].sections[0][2]

    def _branch(self, tag: _Tag) -> None:
        block = self._open[-1] if self._open else None
        if block is None or block.kind not in _BRANCHES[tag.word]:
            owners = " or ".join(f"'{kind}'" for kind in _BRANCHES[tag.word])
            raise self._error(f"'{tag.word}' stands outside a block of {owners}", tag)
        seen = {kind for kind, _, _ in block.sections}
        closed = {"else", "finally"} if tag.word != "finally" else {"finally"}
        if seen & closed or (tag.word == "except" and "except" in seen):
            raise self._error(f"'{tag.word}' cannot follow here", tag)
        block.sections.append((tag.word, tag, []))
        self._nodes = block.sections[-1][2]

    def _end(self, tag: _Tag) -> None:
        if not self._open:
            raise self._error("{% end %} closes nothing", tag)
        block = self._open.pop()
        node = self._closed(block)
        self._nodes = self._open[-1].sections[-1][2] if self._open else self._top
        self._nodes.append(node)

    def _closed(self, block: _Open) -> Node:
        if block.kind == "if":
            branches = tuple(
                (self._expression(tag), tuple(nodes))
                for kind, tag, nodes in block.sections
                if kind != "else"
            )
            return If(branches, block.section("else"))
        if block.kind == "try":
            return self._try(block)
        body, orelse, offset = block.section(_BODY), block.section("else"), block.tag.offset
        if block.kind == "for":
            target, iterable = parse_for(block.tag.rest, self._sql, block.tag.start)
            return For(target=target, iterable=iterable, body=body, orelse=orelse, offset=offset)
        condition = self._expression(block.tag)
        return While(condition=condition, body=body, orelse=orelse, offset=offset)

    def _try(self, block: _Open) -> Try:
        handlers = [tag for kind, tag, _ in block.sections if kind == "except"]
        bound = None
        if handlers:
            caught, _, name = handlers[0].rest.partition(" as ")
            bound = name.strip() or None
            if _CAUGHT.fullmatch(caught) is None or not (bound or "e").isidentifier():
                raise self._error("Write: except Exception as name", handlers[0])
        elif not any(kind == "finally" for kind, _, _ in block.sections):
            raise self._error("'try' has neither 'except' nor 'finally'", block.tag)
        return Try(
            body=block.section(_BODY),
            handler=block.section("except") if handlers else None,
            bound=bound,
            orelse=block.section("else"),
            final=block.section("finally"),
        )

    def _expression(self, tag: _Tag) -> Expression:
        return parse_expression(tag.rest, self._sql, tag.start)
