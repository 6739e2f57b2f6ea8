"""Quotes and commas: how the text after a command is cleaned and cut."""

from __future__ import annotations

from collections.abc import Iterator

_CLOSING = {'"': '"', "'": "'", "`": "`", "“": "”", "”": "”", "„": "“", "‘": "’"}
_STRIPPED = frozenset(_CLOSING) - {"`"}
_OPEN, _CLOSE = "([{", ")]}"


def quoted_end(text: str, start: int, unclosed: set[str]) -> int | None:
    """Where the quoted run that opens at ``start`` ends (exclusive), None if it stays open.

    Args:
        text: The whole text.
        start: Where a quote stands.
        unclosed: The quotes found open so far in this text, so that a text full of them is not
            searched to its end for each; this function adds to it.
    """
    quote = text[start]
    if quote in unclosed:
        return None
    closing = _CLOSING[quote]
    position = start + 1
    while position < len(text):
        if text[position] == "\\":
            position += 2
            continue
        if text[position] == closing or (closing == "”" and text[position] == '"'):
            return position + 1
        position += 1
    unclosed.add(quote)
    return None


def without_comment(text: str) -> str:
    """The text up to a ``#`` that stands at a word's start outside quotes, right-stripped."""
    position = 0
    unclosed: set[str] = set()
    while position < len(text):
        character = text[position]
        at_word_start = position == 0 or not text[position - 1].isalnum()
        if character in _CLOSING and at_word_start:
            position = quoted_end(text, position, unclosed) or position + 1
            continue
        if character == "#" and (position == 0 or text[position - 1].isspace()):
            return text[:position].rstrip()
        position += 1
    return text.rstrip()


def without_quotes(text: str) -> str:
    r"""The text without one pair of quotes around all of it; ``\"`` inside becomes ``"``."""
    if not text or text[0] not in _STRIPPED or quoted_end(text, 0, set()) != len(text):
        return text
    inner = text[1:-1]
    return inner.replace(f"\\{text[0]}", text[0]) if text[0] in "\"'" else inner


def words(text: str) -> tuple[str, ...]:
    """The words of a text, a quoted run counting as one and losing its quotes."""
    found: list[str] = []
    unclosed: set[str] = set()
    position = 0
    while position < len(text):
        if text[position].isspace():
            position += 1
            continue
        end = quoted_end(text, position, unclosed) if text[position] in _STRIPPED else None
        if end is None:
            end = position
            while end < len(text) and not text[end].isspace():
                end += 1
        found.append(without_quotes(text[position:end]))
        position = end
    return tuple(found)


def top_level(text: str, start: int = 0) -> Iterator[tuple[int, str]]:
    """The characters outside quotes and brackets with their offsets.

    Brackets that enclose nothing at this level are not yielded themselves; a closing bracket
    without its opening one is.
    """
    depth = 0
    for position, character in _outside_quotes(text, start):
        if character in _OPEN:
            depth += 1
        elif character in _CLOSE and depth > 0:
            depth -= 1
        elif depth == 0:
            yield position, character


def _outside_quotes(text: str, start: int = 0) -> Iterator[tuple[int, str]]:
    position = start
    unclosed: set[str] = set()
    while position < len(text):
        character = text[position]
        if character in "'\"`" and (end := quoted_end(text, position, unclosed)) is not None:
            position = end
            continue
        yield position, character
        position += 1


def split_commas(text: str) -> tuple[str, ...]:
    """The parts between commas outside quotes and brackets, stripped; empty ones dropped."""
    parts: list[str] = []
    start = 0
    for position, character in top_level(text):
        if character == ",":
            parts.append(text[start:position].strip())
            start = position + 1
    parts.append(text[start:].strip())
    return tuple(part for part in parts if part)


def unclosed_bracket(text: str) -> int | None:
    """Where the last bracket stands that opens and is never closed, outside quotes."""
    opened: list[int] = []
    for position, character in _outside_quotes(text):
        if character in _OPEN:
            opened.append(position)
        elif character in _CLOSE and opened:
            opened.pop()
    return opened[-1] if opened else None
