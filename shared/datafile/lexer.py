"""Text to instructions: the rules that all kinds of datafile share.

A line outside a block is a command and its value. ``COMMAND >`` opens a block; it ends before the
first line that stands in column 1 and begins with a command of this kind of file.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import Literal

import msgspec
from msgspec import Struct

from shared.datafile.diagnostics import Diagnostics
from shared.datafile.quoting import without_comment, without_quotes
from shared.datafile.source import MappedText, Piece, SourceFile, mapped_text
from shared.model.resources import Span
from shared.model.workspace import near_miss

Shape = Literal["line", "either", "block"]

_WORD = re.compile(r"\s*(\S+)")
_BLOCK = re.compile(r"\s*>(?=\s|$)")
_SHOUTED = re.compile(r"([A-Z][A-Z_]{2,})(?=\s|$)")
_SHOUTED_BLOCK = re.compile(r"([A-Z][A-Z_]{2,})\s+>\s*$")
# How alike a word must be to a command to end a block that could also contain the word.
_MISSPELT = 0.8
_UNPARSED = frozenset({"SQL", "FORWARD_QUERY"})


class FileKind(Struct, frozen=True, kw_only=True):
    """One kind of datafile.

    ``commands`` says how the value of each may be written, ``refused`` has the hint for commands
    that are known but not allowed. ``flattened`` matches a command at the end of a description:
    group ``text`` is the description, group ``command`` what follows.
    """

    name: str
    commands: Mapping[str, Shape]
    refused: Mapping[str, str | None]
    flattened: re.Pattern[str] | None = None


class Instruction(Struct, frozen=True, kw_only=True):
    """A command with its value.

    ``value`` is cleaned of comments and quotes; for a block it is the text of ``body``, whose
    pieces are whole lines without blank ones and comment lines.
    """

    command: str
    value: str
    span: Span
    body: MappedText
    is_block: bool = False


def read_instructions(
    source: SourceFile, kind: FileKind, diagnostics: Diagnostics
) -> tuple[Instruction, ...]:
    """All valid instructions of a file in order; the others are reported and left out."""
    return tuple(_Lexer(source, kind, diagnostics).read())


class _Lexer:
    def __init__(self, source: SourceFile, kind: FileKind, diagnostics: Diagnostics) -> None:
        self._source = source
        self._kind = kind
        self._diagnostics = diagnostics
        self._row = 0
        # Where reading goes on in the current line; above 0 only after a flattened description.
        self._start = 0
        self._in_unknown_run = False

    def read(self) -> list[Instruction]:
        found: list[Instruction] = []
        while self._row < len(self._source.lines):
            line = self._source.lines[self._row]
            word = _WORD.match(line, self._start)
            if word is None or word[1].startswith("#"):
                self._next_row()
                continue
            instruction = self._known(self._instruction(line, word), word[1])
            if instruction is not None and self._is_allowed(instruction):
                found.append(instruction)
        return found

    def _next_row(self) -> None:
        self._row += 1
        self._start = 0

    def _instruction(self, line: str, word: re.Match[str]) -> Instruction:
        command = word[1].upper()
        span = self._source.span(self._row + 1, word.start(1) + 1)
        block = _BLOCK.match(line, word.end())
        after = block.end() if block is not None else None
        if command.endswith(">") and command[:-1] in self._kind.commands:
            command, after = command[:-1], word.end()
        if after is not None:
            pieces = self._block(command, line, after)
            body = mapped_text(self._source.path, pieces)
            return Instruction(
                command=command, value=body.text, span=span, body=body, is_block=True
            )
        rest = line[word.end() :]
        indent = len(rest) - len(rest.lstrip())
        column = word.end() + indent + 1
        text = without_comment(rest.strip())
        if command == "DESCRIPTION" and (cut := self._flattened(line, column - 1)) is not None:
            text = cut
        else:
            self._next_row()
        value = text if command == "DESCRIPTION" else without_quotes(text)
        column += text.find(value) if value and value in text else 0
        piece = Piece(span.line, column, value)
        return Instruction(
            command=command, value=value, span=span, body=mapped_text(span.path, [piece])
        )

    def _block(self, command: str, line: str, after: int) -> list[Piece]:
        pieces: list[Piece] = []
        trailing = line[after:].strip()
        if command == "DESCRIPTION" and trailing:
            start = line.index(trailing, after)
            cut = self._flattened(line, start)
            pieces.append(Piece(self._row + 1, start + 1, trailing if cut is None else cut))
            if cut is not None:
                return pieces
        elif trailing and not trailing.startswith("#"):
            self._diagnostics.warning(
                "text_after_block",
                f"'{trailing[:40]}' after '>' is ignored.",
                self._source.span(self._row + 1, line.index(trailing, after) + 1),
                "Begin the block on the next line.",
            )
        self._next_row()
        while self._row < len(self._source.lines):
            line = self._source.lines[self._row]
            if self._ends_block(line, command):
                break
            if command == "DESCRIPTION" and (cut := self._flattened(line, 0)) is not None:
                pieces.append(Piece(self._row + 1, 1, cut))
                break
            if line.strip() and not line.lstrip().startswith("#"):
                pieces.append(Piece(self._row + 1, 1, line))
            self._next_row()
        return pieces

    def _ends_block(self, line: str, command: str) -> bool:
        word = _WORD.match(line)
        if word is None or word.start(1) > 0:
            return False
        if word[1].upper() in self._kind.commands or word[1] in self._kind.refused:
            return True
        if command in _UNPARSED:
            return False
        # A misspelt command would otherwise vanish in the block above it.
        shouted = (_SHOUTED_BLOCK if command == "DESCRIPTION" else _SHOUTED).match(line)
        if shouted is None:
            return False
        return bool(difflib.get_close_matches(shouted[1], self._kind.commands, 1, _MISSPELT))

    def _flattened(self, line: str, start: int) -> str | None:
        """The description before a command on the same line; reading goes on at that command."""
        if self._kind.flattened is None:
            return None
        match = self._kind.flattened.match(line, start)
        if match is None:
            return None
        self._start = match.start("command")
        self._diagnostics.warning(
            "flattened_line",
            f"'{match['command']}' at the end of the description is read as a command.",
            self._source.span(self._row + 1, self._start + 1),
            "Put it on a line of its own.",
        )
        return match["text"]

    def _known(self, instruction: Instruction, word: str) -> Instruction | None:
        """The instruction, under the name it was meant to have; None where nobody can tell."""
        was_in_run, self._in_unknown_run = self._in_unknown_run, False
        if instruction.command in (self._kind.commands.keys() | self._kind.refused.keys()):
            if word.endswith(">"):
                hint = f"Write a space before '>': '{instruction.command} >'."
                self._report_unknown(word, instruction.span, hint)
            return instruction
        meant = near_miss(instruction.command, self._kind.commands)
        if meant is None:
            self._in_unknown_run = True
        if meant is not None or not was_in_run:
            self._report_unknown(word, instruction.span, meant and f"Did you mean '{meant}'?")
        # Read on under the likely name, so that the mistakes behind it come out as well.
        return msgspec.structs.replace(instruction, command=meant) if meant else None

    def _report_unknown(self, word: str, span: Span, hint: str | None) -> None:
        message = f"'{word[:40]}' is no command of .{self._kind.name} files."
        self._diagnostics.error("unknown_command", message, span, hint)

    def _is_allowed(self, instruction: Instruction) -> bool:
        command, span = instruction.command, instruction.span
        shape = self._kind.commands.get(command)
        if command in self._kind.refused:
            self._diagnostics.error(
                "command_not_allowed",
                f"{command} is not allowed in .{self._kind.name} files.",
                span,
                self._kind.refused[command],
            )
        elif shape == "line" and instruction.is_block:
            self._diagnostics.error(
                "block_not_allowed", f"{command} takes one line, not a block.", span
            )
        elif shape == "block" and not instruction.is_block:
            self._diagnostics.error(
                "block_required",
                f"{command} takes a block.",
                span,
                f"Write '{command} >' and its text on the following lines.",
            )
        else:
            return True
        return False
