"""ClickHouse type names: text to a tree and back.

``parse_type`` accepts what ClickHouse accepts in a column definition and ``str()`` of the tree is
the spelling ClickHouse itself prints, so that two spellings of one type compare equal.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable

from shared.model.type_names import KNOWN_TYPES, SIMPLE_TYPES, canonical_name, rejection
from shared.model.type_rules import complete
from shared.model.type_tree import (
    AggregateCall,
    ColumnType,
    Constant,
    EnumMember,
    NamedType,
    SkippedPath,
    TypeArgument,
    TypeSetting,
    TypeSyntaxError,
)
from shared.model.workspace import did_you_mean

__all__ = [
    "AggregateCall",
    "ColumnType",
    "Constant",
    "EnumMember",
    "NamedType",
    "SkippedPath",
    "TypeArgument",
    "TypeSetting",
    "TypeSyntaxError",
    "parse_type",
    "parse_type_prefix",
]

MAX_DEPTH = 64

_SPACE = re.compile(r"\s*")
_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PATH = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*")
_INTEGER = re.compile(r"-?[0-9]{1,18}(?![0-9.eE])")
_FLOAT = re.compile(r"-?[0-9]{1,18}\.[0-9]{1,18}([eE][-+]?[0-9]{1,3})?")
_STRING = re.compile(r"'((?:[^'\\]|\\.|'')*)'", re.DOTALL)
_BACKTICKED = re.compile(r"`((?:[^`\\]|\\.|``)*)`", re.DOTALL)
# A quote is doubled only inside quotes of its own kind.
_ESCAPE_IN = {
    _STRING: re.compile(r"\\(.)|''", re.DOTALL),
    _BACKTICKED: re.compile(r"\\(.)|``", re.DOTALL),
}
_ESCAPED = {"t": "\t", "n": "\n", "r": "\r", "0": "\0", "b": "\b", "f": "\f", "a": "\a", "v": "\v"}


def parse_type(text: str) -> ColumnType:
    """Parse a whole text as one type.

    Raises:
        TypeSyntaxError: It is not a type; the position is an offset in ``text``.
    """
    parser = _Parser(text)
    parsed = parser.type()
    if parser.rest():
        raise TypeSyntaxError(f"Unexpected '{parser.rest()[:20]}' after the type.", parser.position)
    return parsed


def parse_type_prefix(text: str, position: int = 0) -> tuple[ColumnType, int]:
    """Parse a type at ``position`` and return it with the position right after it.

    Raises:
        TypeSyntaxError: No type stands there; its position is an offset in ``text``.
    """
    parser = _Parser(text, position)
    parsed = parser.type()
    return parsed, parser.position


class _Parser:
    """Recursive descent over one text; ``position`` is right after what was read."""

    def __init__(self, text: str, position: int = 0) -> None:
        self._text = text
        self._depth = 0
        self.position = position

    def rest(self) -> str:
        return self._text[self._skip_space() :]

    def type(self) -> ColumnType:
        start = self._skip_space()
        word = self._match(_WORD)
        if word is None:
            raise TypeSyntaxError("A type is expected here.", start)
        name = canonical_name(word[0])
        if name not in KNOWN_TYPES:
            message, hint = rejection(word[0]) or (
                f"Unknown type '{word[0]}'.",
                did_you_mean(word[0], KNOWN_TYPES),
            )
            raise TypeSyntaxError(message, start, hint)
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise TypeSyntaxError(f"Types are nested more than {MAX_DEPTH} deep.", start)
        args = self._arguments(name)
        self._depth -= 1
        return complete(name, args, start)

    def _arguments(self, name: str) -> tuple[TypeArgument, ...]:
        after_name = self.position
        opening = self._skip_space()
        if not self._accept("("):
            self.position = after_name
            return ()
        if name in SIMPLE_TYPES:
            raise TypeSyntaxError(f"{name} takes no arguments.", opening)
        if self._accept(")"):
            if name != "Tuple":
                raise TypeSyntaxError(f"{name} has empty brackets.", opening)
            return ()
        read = _READERS.get(name, _Parser.constant)
        args: list[TypeArgument] = [read(self)]
        while self._accept(","):
            later = _Parser.type if name.endswith("AggregateFunction") else read
            args.append(later(self))
        if not self._accept(")"):
            raise TypeSyntaxError(f"A comma or ')' is expected in {name}(…).", self.position)
        return tuple(args)

    def constant(self) -> Constant:
        start = self._skip_space()
        if (text := self._quoted(_STRING)) is not None:
            return Constant(text)
        if (number := self._match(_INTEGER)) is not None:
            return Constant(int(number[0]))
        if (number := self._match(_FLOAT)) is not None and math.isfinite(float(number[0])):
            return Constant(float(number[0]))
        raise TypeSyntaxError("A number or a quoted string is expected here.", start)

    def enum_member(self) -> EnumMember | Constant:
        start = self._skip_space()
        name = self._quoted(_STRING)
        if name is None:
            raise TypeSyntaxError("A quoted name is expected in an Enum.", start)
        if not self._accept("="):
            return Constant(name)
        start = self._skip_space()
        number = self._match(_INTEGER)
        if number is None:
            raise TypeSyntaxError("A whole number is expected after '='.", start)
        return EnumMember(name, int(number[0]))

    def element(self) -> NamedType | ColumnType:
        start = self._skip_space()
        quoted = self._quoted(_BACKTICKED)
        if quoted is not None:
            return NamedType(quoted, self.type())
        word = self._match(_WORD)
        if word is not None and (following := self.rest()) and following[0] not in "(),":
            return NamedType(word[0], self.type())
        self.position = start
        return self.type()

    def json_argument(self) -> TypeArgument:
        start = self._skip_space()
        path = self._quoted(_BACKTICKED)
        if path is None:
            word = self._match(_PATH)
            if word is None:
                raise TypeSyntaxError("A path, a setting or SKIP is expected in JSON(…).", start)
            path = word[0]
            if path.upper() == "SKIP":
                return self.skipped_path()
            if self._accept("="):
                return self.setting_value(path)
        return NamedType(path, self.type())

    def skipped_path(self) -> SkippedPath:
        start = self._skip_space()
        path = self._quoted(_BACKTICKED)
        if path is not None:
            return SkippedPath(path)
        word = self._match(_PATH)
        if word is not None and word[0].upper() == "REGEXP":
            start = self._skip_space()
            pattern = self._quoted(_STRING)
            if pattern is not None:
                return SkippedPath(pattern, is_pattern=True)
        elif word is not None:
            return SkippedPath(word[0])
        raise TypeSyntaxError("A path is expected after SKIP.", start)

    def dynamic_argument(self) -> TypeSetting:
        start = self._skip_space()
        word = self._match(_WORD)
        if word is None or not self._accept("="):
            raise TypeSyntaxError("max_types=N is expected in Dynamic(…).", start)
        return self.setting_value(word[0])

    def setting_value(self, name: str) -> TypeSetting:
        start = self._skip_space()
        number = self._match(_INTEGER)
        if number is None:
            raise TypeSyntaxError(f"A whole number is expected after {name}=.", start)
        return TypeSetting(name, int(number[0]))

    def aggregate_call(self) -> AggregateCall:
        start = self._skip_space()
        word = self._match(_WORD)
        if word is None:
            raise TypeSyntaxError("The name of an aggregate function is expected here.", start)
        if not self._accept("("):
            return AggregateCall(word[0])
        parameters: list[Constant] = []
        while not self._accept(")"):
            if parameters and not self._accept(","):
                raise TypeSyntaxError("A comma or ')' is expected here.", self.position)
            parameters.append(self.constant())
        return AggregateCall(word[0], tuple(parameters))

    def _skip_space(self) -> int:
        match = _SPACE.match(self._text, self.position)
        self.position = match.end() if match else self.position
        return self.position

    def _match(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        match = pattern.match(self._text, self._skip_space())
        if match is not None:
            self.position = match.end()
        return match

    def _quoted(self, pattern: re.Pattern[str]) -> str | None:
        match = self._match(pattern)
        if match is None:
            return None
        return _ESCAPE_IN[pattern].sub(_unescape, match[1])

    def _accept(self, symbol: str) -> bool:
        if not self._text.startswith(symbol, self._skip_space()):
            return False
        self.position += len(symbol)
        return True


_READERS: dict[str, Callable[[_Parser], TypeArgument]] = {
    **dict.fromkeys(("Enum", "Enum8", "Enum16"), _Parser.enum_member),
    **dict.fromkeys(("Array", "Nullable", "LowCardinality", "Map", "Variant"), _Parser.type),
    **dict.fromkeys(("Tuple", "Nested"), _Parser.element),
    **dict.fromkeys(("AggregateFunction", "SimpleAggregateFunction"), _Parser.aggregate_call),
    "JSON": _Parser.json_argument,
    "Dynamic": _Parser.dynamic_argument,
}


def _unescape(match: re.Match[str]) -> str:
    escaped = match[1]
    if escaped is None:
        return match[0][0]
    # ClickHouse keeps the backslash of an escape it does not know.
    return _ESCAPED.get(escaped, escaped if escaped in "\\'`\"" else match[0])
