"""Where in SQL a tag stands: in code, in a comment, in quotes, right of LIKE or SAMPLE; pure.

The text around tags is read as ClickHouse's lexer reads it, and followed through the blocks of
the template: both ways of an ``if``, a loop as often as something changes. So a tag may be reached
in several states. One in which it would stand inside quotes is an error, because a placeholder
there is not one; where the others differ, the text that was really written decides in the end.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal, NamedTuple

from query.template.nodes import (
    Block,
    Break,
    Continue,
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

Context = Literal["code", "comment", "like", "sample", "mixed"]

MAX_STATES = 64


class SqlState(NamedTuple):
    """How far the lexer has come.

    ``mode`` is empty in code, else what opened the quotes or comment. ``depth`` counts comments
    within comments. ``tail`` sums up the last words of code: see ``_after_word``.
    """

    mode: str = ""
    depth: int = 0
    tail: str = ""


START = SqlState()

_CODE = re.compile(
    r"""(?P<line>--|\#[ !]|//)
    |(?P<block>/\*)
    |(?P<heredoc>\$[A-Za-z0-9_]*\$)
    |(?P<quote>['"`‘“])
    |(?P<word>[^\W\d][\w$]*)
    |(?P<number>\d[\w.]*)
    |(?P<other>\S)""",
    re.VERBOSE | re.DOTALL,
)
_CLOSING = {
    **{q: re.compile(rf"[^\\{q}]*(?:\\.[^\\{q}]*)*{q}", re.DOTALL) for q in "'\"`"},
    "‘": re.compile("[^’]*’"),
    "“": re.compile("[^”]*”"),
}
_COMMENT_MARK = re.compile(r"/\*|\*/")
# Words after which a value begins; after any other word an operator may follow.
_BEFORE_VALUE = frozenset(
    [
        "all",
        "and",
        "between",
        "by",
        "case",
        "distinct",
        "else",
        "from",
        "global",
        "having",
        "ilike",
        "in",
        "interval",
        "is",
        "join",
        "like",
        "limit",
        "not",
        "offset",
        "on",
        "or",
        "prewhere",
        "qualify",
        "select",
        "settings",
        "then",
        "union",
        "using",
        "values",
        "when",
        "where",
        "with",
    ]
)


def scan(state: SqlState, text: str) -> SqlState:
    """The state after ``text``."""
    at = 0
    while at < len(text):
        if state.mode == "--":
            end = text.find("\n", at)
            state, at = (state._replace(mode=""), end + 1) if end >= 0 else (state, len(text))
        elif state.mode == "/*":
            state, at = _in_comment(state, text, at)
        elif state.mode:
            state, at = _in_quotes(state, text, at)
        else:
            state, at = _in_code(state, text, at)
    return state


def _in_comment(state: SqlState, text: str, at: int) -> tuple[SqlState, int]:
    mark = _COMMENT_MARK.search(text, at)
    if mark is None:
        return state, len(text)
    depth = state.depth + (1 if mark.group() == "/*" else -1)
    return state._replace(mode="/*" if depth else "", depth=depth), mark.end()


def _in_quotes(state: SqlState, text: str, at: int) -> tuple[SqlState, int]:
    closed = SqlState(tail="operand")
    if state.mode.startswith("$"):
        end = text.find(state.mode, at)
        return (closed, end + len(state.mode)) if end >= 0 else (state, len(text))
    found = _CLOSING[state.mode].match(text, at)
    return (closed, found.end()) if found is not None else (state, len(text))


def _in_code(state: SqlState, text: str, at: int) -> tuple[SqlState, int]:
    """Up to the next quotes or comment."""
    tail = state.tail
    for found in _CODE.finditer(text, at):
        kind, token = found.lastgroup, found.group()
        if kind == "word":
            tail = _after_word(tail, token.lower())
        elif kind == "other":
            tail = _after_sign(tail, token)
        elif kind == "number":
            tail = "sampled" if tail == "sample" else "operand"
        elif kind == "line":
            return SqlState("--", 0, tail), found.end()
        elif kind == "block":
            return SqlState("/*", 1, tail), found.end()
        else:
            return SqlState(token, 0, tail), found.end()
    return SqlState("", 0, tail), len(text)


def _after_word(tail: str, word: str) -> str:
    """The tail after a word.

    ``operand``: a value has ended, an operator may follow; ``not``: NOT after one; ``like``,
    ``sample``: the next value is the operand of that keyword; ``sampled``: the number after SAMPLE
    has begun; empty: a value is expected.
    """
    if word in ("like", "ilike") and tail in ("operand", "not"):
        return "like"
    if word == "not" and tail == "operand":
        return "not"
    if word == "sample" and tail == "operand":
        return "sample"
    if word == "offset" and tail == "sampled":
        return "sample"
    return "" if word in _BEFORE_VALUE else "operand"


def _after_sign(tail: str, sign: str) -> str:
    if sign == "(" and tail == "like":
        return "like"
    if sign == "/" and tail == "sampled":
        return "sample"
    return "operand" if sign in ")]}" else ""


def after_value(state: SqlState) -> SqlState:
    """The state after a value that a tag wrote."""
    if state.mode:
        return state
    return SqlState(tail="sampled" if state.tail == "sample" else "operand")


def context_of(states: Iterable[SqlState]) -> Context | None:
    """What a tag must write that may be reached in these states; None: it may be in quotes."""
    found: set[Context] = set()
    for state in states:
        if state.mode in ("--", "/*"):
            found.add("comment")
        elif state.mode:
            return None
        else:
            found.add(_KEYWORDS.get(state.tail, "code"))
    return "mixed" if len(found) > 1 else next(iter(found), "code")


_KEYWORDS: dict[str, Context] = {"like": "like", "sample": "sample"}


def contexts(block: Block, sql: str) -> dict[int, Context]:
    """For every ``{{ }}``, by its offset, what it must write.

    Raises:
        TemplateError: One may stand inside quotes.
    """
    walk = _Walk(sql)
    walk.block(block, frozenset({START}))
    found: dict[int, Context] = {}
    for offset, states in walk.reached.items():
        context = context_of(states)
        if context is None:
            raise template_error(
                "A placeholder cannot stand inside quotes",
                sql,
                offset,
                hint="Leave the quotes out: the value is bound as text by itself.",
            )
        found[offset] = context
    return found


States = frozenset[SqlState]


class _Walk:
    """Follows the states through the tree, and notes those in which each output is reached."""

    def __init__(self, sql: str) -> None:
        self._sql = sql
        self._loops: list[set[SqlState]] = []
        self._entries: dict[int, States] = {}
        self.reached: dict[int, set[SqlState]] = {}

    def block(self, block: Block, states: States) -> States:
        for node in block:
            states = self._bounded(self._node(node, states))
        return states

    def _node(self, node: Node, states: States) -> States:
        if isinstance(node, Text):
            return frozenset(scan(state, node.text) for state in states)
        if isinstance(node, Output):
            self.reached.setdefault(node.offset, set()).update(states)
            return frozenset(map(after_value, states))
        if isinstance(node, If):
            ways = [self.block(body, states) for _, body in node.branches]
            return frozenset().union(self.block(node.orelse, states), *ways)
        if isinstance(node, For | While):
            return self._loop(node, states)
        if isinstance(node, Try):
            return self._try(node, states)
        if isinstance(node, Break | Continue):
            self._loops[-1].update(states)
            return frozenset()
        assert isinstance(node, Set)
        return states

    def _loop(self, node: For | While, states: States) -> States:
        """Until nothing new reaches the loop; what reached it before counts again.

        Keeping that makes nested loops cheap: a pass is repeated only when a loop has gained a
        state, never because a loop around it is.
        """
        while True:
            states |= self._entries.get(node.offset, frozenset())
            self._entries[node.offset] = states
            self._loops.append(set())
            after = self.block(node.body, states)
            seen = states | after | self._loops.pop()
            if seen == states:
                return self.block(node.orelse, states) | states
            states = self._bounded(seen)

    def _bounded(self, states: States) -> States:
        if len(states) > MAX_STATES:
            raise template_error("The SQL around tags is too tangled", self._sql, 0, limit=True)
        return states

    def _try(self, node: Try, states: States) -> States:
        """A handler may begin after any part of the body."""
        partly: set[SqlState] = set(states)
        after = states
        for part in node.body:
            after = self.block((part,), after)
            partly |= after
        done = self.block(node.orelse, after)
        if node.handler is not None:
            done |= self.block(node.handler, frozenset(partly))
        return self.block(node.final, done)
