"""SCHEMA and INDEXES: columns, their JSON paths, defaults and codecs; data-skipping indexes."""

from __future__ import annotations

import re

from shared.datafile.diagnostics import Diagnostics
from shared.datafile.quoting import quoted_end, top_level, unclosed_bracket
from shared.datafile.source import MappedText
from shared.model.resources import Column, Index, Span
from shared.model.types import ColumnType, TypeSyntaxError, parse_type, parse_type_prefix
from shared.model.workspace import did_you_mean

MAX_COLUMNS = 1_000
"""ClickHouse would take more; each one costs every insert and every merge."""

_BARE_NAME = re.compile(r"[\w.\\*<>+\-']+")
_WORD = re.compile(r"[A-Za-z_]\w*")
_MODIFIER = re.compile(r"(DEFAULT|CODEC)\b", re.IGNORECASE)
_UNSUPPORTED = re.compile(
    r"(NOT\s+NULL|NULL|MATERIALIZED|ALIAS|EPHEMERAL|TTL|COMMENT|PRIMARY\s+KEY|AUTO_INCREMENT)\b",
    re.IGNORECASE,
)
_UNSUPPORTED_HINTS = {
    "NULL": "Write Nullable(Type).",
    "NOT NULL": "Types are not nullable unless they are written Nullable(Type).",
    "TTL": "Use ENGINE_TTL.",
    "MATERIALIZED": "Use DEFAULT, or compute the column in a pipe.",
    "ALIAS": "Compute the column in a pipe.",
    "PRIMARY KEY": "Use ENGINE_PRIMARY_KEY.",
}
_JSON_PATH = re.compile(r"\$\.?|\$(\.[^\s.\[\]`$]+(\[:\])?)+")
_JSON_PREFIX = "json:"
_INTEGER = re.compile(r"-?[0-9]+")
_DEFAULT_TYPES = {
    "now()": "DateTime",
    "today()": "Date",
    "yesterday()": "Date",
    "now64()": "DateTime64(3)",
    "generateuuidv4()": "UUID",
    "true": "Bool",
    "false": "Bool",
}
_INDEX = re.compile(
    r"(?:INDEX\s+)?(?P<name>[A-Za-z_]\w*|`[^`\s]+`)\s+(?P<expression>\S.*?)\s+"
    r"TYPE\s+(?P<type>[A-Za-z_]\w*\s*(?:\(.*\))?)(?:\s+GRANULARITY\s+(?P<granularity>\d{1,9}))?\s*",
    re.IGNORECASE | re.DOTALL,
)
_INDEX_TYPES = (
    *("minmax", "set", "bloom_filter", "ngrambf_v1", "tokenbf_v1", "sparse_grams", "text"),
    *("full_text", "inverted", "hypothesis", "vector_similarity"),
)


class _Refused(Exception):
    """One column cannot be read; reading goes on behind the next comma."""

    def __init__(self, code: str, message: str, offset: int, hint: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.offset = offset
        self.hint = hint


def parse_schema(body: MappedText, diagnostics: Diagnostics) -> tuple[Column, ...]:
    """The columns in order; those that cannot be read are reported and left out."""
    text = _without_sql_comments(body.text)
    columns: dict[str, Column] = {}
    offset = 0
    while offset < len(text):
        end = next((at for at, c in top_level(text, offset) if c == ","), len(text))
        if text[offset:end].strip():
            try:
                column = _ColumnReader(text, offset, body).read()
            except _Refused as refused:
                span = body.span(refused.offset)
                diagnostics.error(refused.code, refused.message, span, refused.hint)
            else:
                _add(columns, column, diagnostics)
        offset = end + 1
    if len(columns) > MAX_COLUMNS:
        message = f"The schema has {len(columns)} columns, at most {MAX_COLUMNS} are allowed."
        hint = "Keep what is rarely read as JSON in one column."
        diagnostics.error("too_many_columns", message, body.span(0), hint)
    return tuple(columns.values())


def _add(columns: dict[str, Column], column: Column, diagnostics: Diagnostics) -> None:
    if column.name in columns and column.span is not None:
        diagnostics.error(
            "duplicate_column", f"Column '{column.name}' is already in the schema.", column.span
        )
    columns.setdefault(column.name, column)


def _without_sql_comments(text: str) -> str:
    """The text with ``-- …`` blanked, every other character at its place."""
    kept = list(text)
    unclosed: set[str] = set()
    position = 0
    while position < len(text):
        if text[position] in "'\"`" and (end := quoted_end(text, position, unclosed)) is not None:
            position = end
        elif text.startswith("--", position):
            end = text.find("\n", position)
            end = len(text) if end < 0 else end
            kept[position:end] = " " * (end - position)
            position = end
        else:
            position += 1
    return "".join(kept)


class _ColumnReader:
    """Reads one column that begins at ``start``; it ends at a comma outside brackets."""

    def __init__(self, text: str, start: int, body: MappedText) -> None:
        self._text = text
        self._at = start
        self._body = body

    def read(self) -> Column:
        start = self._skip_space()
        name = self._name()
        self._skip_space()
        type_at = self._at
        type_ = None if self._at_modifier() else self._type(name, start)
        path: str | None = None
        default: str | None = None
        default_at = 0
        codec: str | None = None
        while not self._at_end():
            at = self._at
            if self._text[at] == "`":
                path = self._json_path(type_)
            elif (word := _MODIFIER.match(self._text, at)) is None:
                raise self._unexpected(at)
            elif word[1].upper() == "DEFAULT":
                self._at = word.end()
                default = self._default(at)
                default_at = self._text.index(default, word.end())
            else:
                self._at = word.end()
                codec = self._codec(at)
        if type_ is None:
            type_ = self._inferred(default, type_at)
        if default is not None and default.upper() == "NULL" and type_.is_nullable:
            default = None
        return Column(
            name=name,
            type=str(type_),
            jsonpath=path,
            default=default,
            codec=codec,
            span=self._span(start),
            default_span=self._span(default_at) if default is not None else None,
        )

    def _name(self) -> str:
        at = self._at
        if self._text[at] == "`":
            end = quoted_end(self._text, at, set())
            name = self._text[at + 1 : end - 1] if end else ""
            if end is None or not name or re.search(r"\s", name):
                message = "A closing backtick is expected after the column's name."
                raise _Refused("bad_column", message, at, "Names have no spaces.")
            self._at = end
            return name
        match = _BARE_NAME.match(self._text, at)
        if match is None:
            raise _Refused("bad_column", "A column name is expected here.", at)
        self._at = match.end()
        return match[0]

    def _type(self, name: str, start: int) -> ColumnType:
        if self._at_end() or self._text[self._at] == "`":
            raise _Refused("bad_type", f"Column '{name}' has no type.", start)
        try:
            parsed, self._at = parse_type_prefix(self._text, self._at)
        except TypeSyntaxError as error:
            raise _Refused("bad_type", error.message, error.position, error.hint) from None
        self._skip_space()
        return parsed

    def _json_path(self, type_: ColumnType | None) -> str:
        at = self._at
        end = quoted_end(self._text, at, set())
        if end is None:
            raise _Refused("bad_json_path", "A closing backtick is expected.", at)
        inner = self._text[at + 1 : end - 1]
        path = inner.removeprefix(_JSON_PREFIX)
        if path == inner and not inner.startswith("$"):
            hint = "Columns are separated by commas."
            raise _Refused("bad_column", f"Unexpected name '{inner[:40]}'.", at, hint)
        if path == inner:
            hint = "Write `json:$.name`."
            raise _Refused("bad_json_path", f"'{inner[:60]}' is no JSON path.", at, hint)
        if _JSON_PATH.fullmatch(path) is None:
            hint = "Write $.key, $.outer.inner, $.list[:] or $.list[:].key."
            raise _Refused("bad_json_path", f"'{path[:60]}' is no JSON path.", at, hint)
        if "[:]" in path and type_ is not None and type_.unwrapped.name != "Array":
            hint = f"Write Array({type_}), or read the whole list without [:]."
            raise _Refused("bad_json_path", f"'{path}' is a list, {type_} is not.", at, hint)
        self._at = end
        self._skip_space()
        return path

    def _default(self, at: int) -> str:
        begin = self._skip_space()
        end = len(self._text)
        for position, character in top_level(self._text, begin):
            previous = self._text[position - 1]
            is_word_start = not (previous.isalnum() or previous == "_")
            if character == "," or (
                is_word_start and re.match(r"CODEC\s*\(", self._text[position:], re.IGNORECASE)
            ):
                end = position
                break
        # A JSON path may stand behind the default too; the backticks of names are no such path.
        path_at = self._text.find(f"`{_JSON_PREFIX}", begin, end)
        end = path_at if path_at >= 0 else end
        expression = self._text[begin:end].strip()
        if not expression:
            raise _Refused("bad_column", "DEFAULT is not followed by an expression.", at)
        if (bracket := unclosed_bracket(expression)) is not None:
            message = "This bracket of a DEFAULT is not closed."
            raise _Refused("bad_column", message, self._text.index(expression, begin) + bracket)
        self._at = end
        self._skip_space()
        return expression

    def _codec(self, at: int) -> str:
        begin = self._skip_space()
        if not self._text.startswith("(", begin):
            raise _Refused("bad_codec", "CODEC is not followed by brackets.", at, "CODEC(ZSTD(1))")
        depth = 0
        for position in range(begin, len(self._text)):
            depth += {"(": 1, ")": -1}.get(self._text[position], 0)
            if depth == 0:
                self._at = position + 1
                self._skip_space()
                if codec := self._text[begin + 1 : position].strip():
                    return codec
                break
        raise _Refused("bad_codec", "The brackets of CODEC are empty or not closed.", at)

    def _inferred(self, default: str | None, at: int) -> ColumnType:
        hint = "Write it between the name and DEFAULT."
        if default is None:
            raise _Refused("bad_type", "A type is expected here.", at, hint)
        text = default.replace(" ", "").lower()
        if default.startswith("'") and quoted_end(default, 0, set()) == len(default):
            return parse_type("String")
        if _INTEGER.fullmatch(text):
            return parse_type("Int64")
        if text in _DEFAULT_TYPES:
            return parse_type(_DEFAULT_TYPES[text])
        message = f"The type of '{default[:40]}' must be written."
        raise _Refused("bad_type", message, at, hint)

    def _unexpected(self, at: int) -> _Refused:
        unsupported = _UNSUPPORTED.match(self._text, at)
        if unsupported is not None:
            word = re.sub(r"\s+", " ", unsupported[1].upper())
            message = f"{word} is not supported in a schema."
            return _Refused("bad_column", message, at, _UNSUPPORTED_HINTS.get(word))
        if self._text[at] == "$":
            message = "A JSON path stands in backticks."
            return _Refused("bad_json_path", message, at, "Write `json:$.name`.")
        word_match = _WORD.match(self._text, at)
        found = word_match[0] if word_match else self._text[at]
        near = did_you_mean(found.upper(), ("DEFAULT", "CODEC"))
        hint = near or ("Columns are separated by commas." if word_match else None)
        return _Refused("bad_column", f"Unexpected '{found[:40]}' in a column.", at, hint)

    def _at_modifier(self) -> bool:
        return _MODIFIER.match(self._text, self._at) is not None

    def _at_end(self) -> bool:
        return self._at >= len(self._text) or self._text[self._at] == ","

    def _skip_space(self) -> int:
        while self._at < len(self._text) and self._text[self._at].isspace():
            self._at += 1
        return self._at

    def _span(self, offset: int) -> Span:
        return self._body.span(offset)


def parse_indexes(body: MappedText, diagnostics: Diagnostics) -> tuple[Index, ...]:
    """One index a line; those that cannot be read are reported and left out."""
    found: list[Index] = []
    offset = 0
    for line in body.text.split("\n"):
        text = _without_sql_comments(line).strip().rstrip(",").rstrip()
        match = _INDEX.fullmatch(text)
        if match is None and text:
            diagnostics.error(
                "bad_index",
                "This line is not an index.",
                body.span(offset + len(line) - len(line.lstrip())),
                "Write: name expression TYPE minmax GRANULARITY 1",
            )
        elif match is not None:
            type_name = match["type"].partition("(")[0].strip()
            if type_name.lower() not in _INDEX_TYPES:
                diagnostics.error(
                    "bad_index",
                    f"Unknown index type '{type_name}'.",
                    body.span(offset + line.index(match["type"])),
                    did_you_mean(type_name.lower(), _INDEX_TYPES),
                )
            found.append(
                Index(
                    name=match["name"].strip("`"),
                    expression=match["expression"],
                    type=match["type"].strip(),
                    granularity=max(1, int(match["granularity"] or 1)),
                    span=body.span(offset + line.index(text) + match.start("expression")),
                )
            )
        offset += len(line) + 1
    return tuple(found)
