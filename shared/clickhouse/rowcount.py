"""How many rows an answer had, seen from its bytes; pure.

A server sends its totals before the rows, so for a streamed answer they are not final. What
formats say themselves, or what can be counted at the speed of memory, is counted here.
"""

from __future__ import annotations

import re

_HEADER_LINES = {"WithNames": 1, "WithNamesAndTypes": 2}
_LINES = ("TabSeparated", "TSV", "JSONEachRow", "NDJSON", "JSONLines", "JSONCompactEachRow")
_DOCUMENTS = ("JSON", "JSONCompact", "JSONStrings", "JSONColumnsWithMetadata")
_FORM = re.compile(r"(.*?)(WithNamesAndTypes|WithNames)?\Z")
_TAIL_BYTES = 2048
_ROWS = re.compile(rb'"rows": ?(\d+)')
_READ = re.compile(rb'"rows_read": ?(\d+),\s*"bytes_read": ?(\d+)')


class RowCounter:
    """Counts the rows of one answer as its chunks pass."""

    def __init__(self, output_format: str) -> None:
        match = _FORM.match(output_format)
        assert match is not None
        form, header = match.group(1), match.group(2)
        self._headers = _HEADER_LINES.get(header or "", 0)
        self._is_lines = form.removesuffix("Raw") in _LINES and not form.endswith("Raw")
        self._is_csv = form == "CSV"
        self._is_document = form in _DOCUMENTS
        self._lines = 0
        self._in_quotes = False
        self._tail = b""

    def add(self, chunk: bytes) -> None:
        """One chunk of the answer."""
        if self._is_document:
            self._tail = (self._tail + chunk[-_TAIL_BYTES:])[-_TAIL_BYTES:]
        elif self._is_lines:
            self._lines += chunk.count(b"\n")
        elif self._is_csv:
            self._add_csv(chunk)

    def _add_csv(self, chunk: bytes) -> None:
        if b'"' not in chunk:
            self._lines += 0 if self._in_quotes else chunk.count(b"\n")
            return
        for part in chunk.split(b'"'):
            if not self._in_quotes:
                self._lines += part.count(b"\n")
            self._in_quotes = not self._in_quotes
        # One quote fewer than parts.
        self._in_quotes = not self._in_quotes

    def rows(self) -> int | None:
        """The rows so far; None where the bytes do not tell."""
        if self._is_document:
            found = _ROWS.findall(self._tail)
            return int(found[-1]) if found else None
        if self._is_lines or self._is_csv:
            return max(0, self._lines - self._headers)
        return None

    def read(self) -> tuple[int, int] | None:
        """Rows and bytes read, where the format says them."""
        found = _READ.findall(self._tail)
        return (int(found[-1][0]), int(found[-1][1])) if found else None
