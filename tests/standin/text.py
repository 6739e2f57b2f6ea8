"""What a stand-in has to know about a statement before the engine sees it; pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from msgspec import Struct

_TOKEN = re.compile(
    r"(?P<space>\s+|--[^\n]*|/\*.*?\*/)"
    r"|(?P<string>'(?:[^'\\]|\\.|'')*')"
    r"|(?P<quoted>`(?:[^`\\]|\\.|``)*`|\"(?:[^\"\\]|\\.|\"\")*\")"
    r"|(?P<word>[A-Za-z_][A-Za-z0-9_$]*)"
    r"|(?P<number>[0-9][A-Za-z0-9_.]*)"
    r"|(?P<other>.)",
    re.DOTALL,
)
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
_STREAMED = {"SELECT", "WITH", "FROM", "("}
_ANSWERED = _STREAMED | {"SHOW", "DESCRIBE", "DESC", "EXPLAIN", "EXISTS", "CHECK", "KILL", "VALUES"}


class Token(Struct, frozen=True):
    """A piece of a statement that is neither space nor comment."""

    kind: str
    text: str
    start: int
    end: int

    @property
    def upper(self) -> str:
        """A keyword as it is compared; empty for strings and quoted names."""
        return "" if self.kind in ("string", "quoted") else self.text.upper()

    @property
    def name(self) -> str | None:
        """The identifier it is, without quotes."""
        if self.kind == "word":
            return self.text
        if self.kind == "quoted":
            quote = self.text[0]
            return _ESCAPED.sub(r"\1", self.text[1:-1].replace(quote * 2, quote))
        return None

    @property
    def string(self) -> str | None:
        """The value of a string literal."""
        if self.kind != "string":
            return None
        return _ESCAPED.sub(r"\1", self.text[1:-1].replace("''", "'"))


def tokens(sql: str) -> Iterator[Token]:
    """The tokens of a statement, one after the other."""
    for match in _TOKEN.finditer(sql):
        kind = match.lastgroup or "other"
        if kind != "space":
            yield Token(kind, match.group(), match.start(), match.end())


def first_word(sql: str) -> str:
    """The keyword a statement begins with, upper case."""
    return next((token.upper for token in tokens(sql)), "")


def has_answer(sql: str) -> bool:
    """Whether the statement answers with rows."""
    return first_word(sql) in _ANSWERED


def is_streamed(sql: str) -> bool:
    """Whether ``INTO OUTFILE`` can be put behind the statement."""
    return first_word(sql) in _STREAMED


class InsertHead(Struct, frozen=True, kw_only=True):
    """An INSERT up to its data.

    ``format`` is None where the rows come from a query; ``data_start`` is where data in the text
    itself begins. ``settings`` is the text of its SETTINGS clause.
    """

    database: str | None
    table: str
    columns: tuple[str, ...]
    format: str | None
    settings: str
    data_start: int


def parse_insert(sql: str) -> InsertHead | None:
    """The head of an INSERT into a table, None for any other statement."""
    found = _Cursor(sql)
    if not found.take("INSERT") or not found.take("INTO"):
        return None
    found.take("TABLE")
    if found.peek.upper == "FUNCTION":
        return None
    names = found.dotted_name()
    if not names:
        return None
    columns = found.column_list()
    settings = found.settings_clause()
    output_format: str | None = None
    if found.peek.upper == "VALUES":
        output_format = "Values"
        found.advance()
    elif found.peek.upper == "FORMAT":
        found.advance()
        output_format = found.peek.name
        found.advance()
    if output_format is not None and not settings:
        settings = found.settings_clause()
    return InsertHead(
        database=names[0] if len(names) == 2 else None,
        table=names[-1],
        columns=columns,
        format=output_format,
        settings=settings,
        data_start=found.behind,
    )


class InputCall(Struct, frozen=True):
    """The ``input('structure')`` of an INSERT … SELECT; ``format`` is that of its data."""

    before: str
    structure: str
    after: str
    format: str


def input_call(sql: str) -> InputCall | None:
    """The call of ``input`` in an INSERT, None where there is none."""
    found = list(tokens(sql))
    for name, opening, structure, closing in zip(
        found, found[1:], found[2:], found[3:], strict=False
    ):
        if name.upper == "INPUT" and opening.text == "(" and closing.text == ")":
            split = split_format(sql[closing.end :])
            text = structure.string
            if text is not None:
                after = f"{split.body} {split.tail}".rstrip()
                return InputCall(sql[: name.start], text, after, split.format or "Native")
    return None


_END = Token("end", "", 0, 0)


class _Cursor:
    """Reads tokens without looking at more of a long text than is asked for."""

    def __init__(self, sql: str) -> None:
        self._sql = sql
        self._tokens = tokens(sql)
        self.behind = 0
        self.peek = next(self._tokens, _END)
        self._second: Token | None = None

    def advance(self) -> None:
        self.behind = self.peek.end or self.behind
        self.peek = self._second or next(self._tokens, _END)
        self._second = None

    def second(self) -> Token:
        if self._second is None:
            self._second = next(self._tokens, _END)
        return self._second

    def take(self, keyword: str) -> bool:
        if self.peek.upper != keyword:
            return False
        self.advance()
        return True

    def dotted_name(self) -> tuple[str, ...]:
        names: list[str] = []
        while (name := self.peek.name) is not None:
            names.append(name)
            self.advance()
            if self.peek.text != ".":
                break
            self.advance()
        return tuple(names[-2:])

    def column_list(self) -> tuple[str, ...]:
        if self.peek.text != "(" or self.second().upper in ("SELECT", "WITH"):
            return ()
        names: list[str] = []
        while self.peek.text not in (")", ""):
            self.advance()
            name = self.peek.name
            if name is None:
                continue
            names.append(name)
            while self.second().text == ".":
                self.advance()
                self.advance()
                names[-1] += f".{self.peek.name}"
        self.advance()
        return tuple(names)

    def settings_clause(self) -> str:
        if self.peek.upper != "SETTINGS":
            return ""
        start = self.peek.end
        self.advance()
        while self.peek is not _END and self.peek.upper not in (
            "VALUES",
            "FORMAT",
            "SELECT",
            "WITH",
        ):
            if self.second() is _END or self.peek.text in "[{":
                end = self.peek.end
                self.advance()
                return self._sql[start:end]
            self.advance()
        return self._sql[start : self.behind]


class Split(Struct, frozen=True):
    """A query with its FORMAT clause taken out; ``tail`` is what stood behind it."""

    body: str
    format: str | None
    tail: str


def split_format(sql: str) -> Split:
    """Take the FORMAT clause out of a query."""
    found = list(tokens(sql))
    while found and found[-1].text == ";":
        found.pop()
    if not found:
        return Split(sql, None, "")
    end = found[-1].end
    depth = 0
    for position in range(len(found) - 1, 0, -1):
        token = found[position]
        depth += (token.text in ("(", "[", "{")) - (token.text in (")", "]", "}"))
        before = found[position - 1]
        if depth != 0 or before.upper != "FORMAT" or token.kind != "word":
            continue
        behind = found[position + 1] if position + 1 < len(found) else None
        if behind is None or behind.upper == "SETTINGS":
            return Split(sql[: before.start].rstrip(), token.text, sql[token.end : end].strip())
    return Split(sql[:end], None, "")


def replace_tables(sql: str, replacements: Mapping[tuple[str, str], str]) -> str:
    """The statement with some ``database.table`` names replaced by other text."""
    found = list(tokens(sql))
    pieces: list[str] = []
    done = 0
    for first, dot, second in zip(found, found[1:], found[2:], strict=False):
        if dot.text != "." or first.name is None or second.name is None:
            continue
        text = replacements.get((first.name.lower(), second.name.lower()))
        if text is not None and first.start >= done:
            pieces += [sql[done : first.start], text]
            done = second.end
    return "".join([*pieces, sql[done:]])


def replace_calls(sql: str, replacements: Mapping[str, str]) -> str:
    """The statement with calls without arguments, ``name()``, replaced by other text."""
    found = list(tokens(sql))
    pieces: list[str] = []
    done = 0
    for name, opening, closing in zip(found, found[1:], found[2:], strict=False):
        text = replacements.get(name.text) if name.kind == "word" else None
        if text is not None and opening.text == "(" and closing.text == ")":
            pieces += [sql[done : name.start], text]
            done = closing.end
    return "".join([*pieces, sql[done:]])
