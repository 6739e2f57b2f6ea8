"""Text that knows where it stands in its file."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from pathlib import PurePosixPath

from msgspec import Struct

from shared.model.resources import Span


class SourceFile(Struct, frozen=True):
    """One file: its path relative to the project, and its lines without line ends."""

    path: str
    lines: tuple[str, ...]

    @property
    def stem(self) -> str:
        """The file name without its extension: the name of the resource."""
        return PurePosixPath(self.path).stem

    @property
    def kind(self) -> str:
        """The extension without its dot."""
        return PurePosixPath(self.path).suffix.removeprefix(".").lower()

    def span(self, line: int = 1, column: int = 1) -> Span:
        """A place in this file; line and column start at 1."""
        return Span(self.path, line, column)


def source_file(path: str, text: str) -> SourceFile:
    """Cut a text into lines; a byte order mark and the carriage returns of CRLF go."""
    text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    return SourceFile(path, tuple(text.split("\n")))


class Piece(Struct, frozen=True):
    """A run of characters of one line: where it begins (from 1) and what it says."""

    line: int
    column: int
    text: str


class MappedText(Struct, frozen=True):
    """Pieces joined by newlines, so that an offset in ``text`` leads back to the file."""

    path: str
    pieces: tuple[Piece, ...]
    text: str
    starts: tuple[int, ...]

    @property
    def start(self) -> Span:
        """The place of the first character that is not blank."""
        return self.span(len(self.text) - len(self.text.lstrip()))

    def span(self, offset: int) -> Span:
        """The place in the file of the character at ``offset``, or right after the last one."""
        if not self.pieces:
            return Span(self.path, 1, 1)
        index = max(0, bisect.bisect_right(self.starts, offset) - 1)
        piece = self.pieces[index]
        within = min(max(0, offset - self.starts[index]), len(piece.text))
        return Span(self.path, piece.line, piece.column + within)


def mapped_text(path: str, pieces: Sequence[Piece]) -> MappedText:
    """Join pieces of one file, in the given order."""
    starts: list[int] = []
    length = 0
    for piece in pieces:
        starts.append(length)
        length += len(piece.text) + 1
    return MappedText(path, tuple(pieces), "\n".join(p.text for p in pieces), tuple(starts))
