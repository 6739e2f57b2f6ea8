"""Template text to pieces: text, ``{{ }}`` and ``{% %}``; pure.

The end of a tag is found with Python's strings and brackets in mind, so that
``{{ custom_error({'a': {'b': 1}}) }}`` is one tag. Brackets of every tag are balanced when they
leave here: the parser of expressions may put them in parentheses safely.
"""

from __future__ import annotations

import re
from typing import Literal

from msgspec import Struct

from query.template.source import template_error

PieceKind = Literal["text", "output", "block"]

_OPEN = re.compile(r"\{\{(?!\{)|\{%|\{#")
_CLOSE = {"{{": "}}", "{%": "%}", "{#": "#}"}
_PAIRS = {")": "(", "]": "[", "}": "{"}
_TOKEN = re.compile(r"""'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*"|%\}|[()\[\]{}'"]""", re.DOTALL)
_COMMENT = re.compile(r"\s*comment\b")


class Piece(Struct, frozen=True):
    """Text as it stands, or what stands between the marks of a tag.

    ``offset`` is the place of the text's, or of the opening mark's, first character;
    ``start`` that of ``text`` itself.
    """

    kind: PieceKind
    text: str
    offset: int
    start: int


def split(sql: str) -> tuple[Piece, ...]:
    """The pieces of a template, comments left out.

    Raises:
        TemplateError: A tag that does not end.
    """
    pieces: list[Piece] = []
    at = 0
    while (found := _OPEN.search(sql, at)) is not None:
        if found.start() > at:
            pieces.append(Piece("text", sql[at : found.start()], at, at))
        mark, start = found.group(), found.end()
        if sql.startswith("!", start):
            pieces.append(Piece("text", mark, found.start(), found.start()))
            at = start + 1
            continue
        plain = mark == "{#" or (mark == "{%" and _COMMENT.match(sql, start) is not None)
        end = sql.find(_CLOSE[mark], start) if plain else _end_of_tag(sql, found.start(), mark)
        if end < 0:
            raise template_error(f"'{mark}' is never closed", sql, found.start())
        if not plain:
            kind: PieceKind = "output" if mark == "{{" else "block"
            pieces.append(Piece(kind, sql[start:end], found.start(), start))
        at = end + 2
    if at < len(sql):
        pieces.append(Piece("text", sql[at:], at, at))
    return tuple(pieces)


def _end_of_tag(sql: str, offset: int, mark: str) -> int:
    """Where the closing mark stands, -1 where there is none."""
    brackets: list[str] = []
    for token in _TOKEN.finditer(sql, offset + 2):
        text, at = token.group(), token.start()
        if text in ("'", '"'):
            raise template_error("A quote in a tag is never closed", sql, at)
        if text == "%}" and mark == "{%":
            if brackets:
                raise template_error(f"'{brackets[-1]}' is not closed in this tag", sql, offset)
            return at
        if text in ("(", "[", "{"):
            brackets.append(text)
        elif text in _PAIRS or text == "%}":
            if not brackets:
                if mark == "{{" and sql.startswith("}}", at):
                    return at
                raise template_error(f"'{text}' closes nothing", sql, at)
            if brackets.pop() != _PAIRS[text[-1]]:
                raise template_error(f"'{text}' closes another bracket", sql, at)
    return -1
