"""NDJSON of a block for a server: flags for missing values and, where needed, offsets put in.

A server cannot be told to take a stated default where a key is missing, so each row says it itself.
Only lines that need it are taken apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import msgspec
from msgspec import Raw

from shared.clickhouse.contract import Insert
from shared.clickhouse.insert import OFFSET_COLUMN, missing_column
from shared.model.types import parse_type

_NULL = b"null"


def server_lines(insert: Insert, *, has_offsets: bool) -> Iterable[bytes]:
    """The rows as ``input_sql`` expects them, in pieces that end with a newline."""
    if not insert.defaults and not has_offsets:
        return insert.block.json_lines()
    return _rewritten(insert, has_offsets)


def _rewritten(insert: Insert, has_offsets: bool) -> Iterator[bytes]:
    flags = {
        name: (missing_column(position), parse_type(column_type).is_nullable)
        for position, (name, column_type) in enumerate(insert.columns)
        if name in insert.defaults
    }
    offsets = _offsets(insert) if has_offsets else None
    for piece in insert.block.json_lines():
        lines = []
        for line in piece.split(b"\n"):
            if not line:
                continue
            members = [b'"%s":1' % flag.encode() for flag in _missing(line, flags)]
            if offsets is not None:
                members.append(b'"%s":%d' % (OFFSET_COLUMN.encode(), next(offsets)))
            lines.append(_with_members(line, members))
        yield b"\n".join(lines) + b"\n" if lines else b""


def _offsets(insert: Insert) -> Iterator[int]:
    for run in insert.identity.runs if insert.identity is not None else ():
        yield from range(run.first, run.first + run.count)


_members = msgspec.json.Decoder(dict[str, Raw]).decode


def _missing(line: bytes, flags: Mapping[str, tuple[str, bool]]) -> list[str]:
    if not flags:
        return []
    try:
        found = _members(line)
    except (msgspec.DecodeError, UnicodeDecodeError):
        # The engine refuses it, and says why.
        return []
    return [
        flag
        for name, (flag, is_nullable) in flags.items()
        if name not in found or (not is_nullable and bytes(found[name]) == _NULL)
    ]


def _with_members(line: bytes, members: list[bytes]) -> bytes:
    start = line.find(b"{") + 1
    if not members or not start:
        return line
    rest = line[start:]
    if not rest.lstrip().startswith(b"}"):
        members.append(b"")
    return line[:start] + b",".join(members) + rest
