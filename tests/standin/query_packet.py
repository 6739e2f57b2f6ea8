"""A query packet of the native protocol, read."""

from __future__ import annotations

from collections.abc import Container
from typing import Any

from msgspec import Struct

from tests.standin.blocks import read_text, read_varint


class Request(Struct, frozen=True, kw_only=True):
    """A query packet; ``compression`` is ``lz4``, ``zstd`` or None."""

    query_id: str
    sql: str
    settings: dict[str, str]
    compression: str | None


def read_query(reader: Any, known: Container[str]) -> Request:
    """The query packet that comes next, behind its number.

    Args:
        reader: Where it comes from.
        known: Names of the engine's settings; others are left out unless the client calls them
            important, and then the engine refuses them.
    """
    query_id = read_text(reader)
    if reader.read(1) != b"\x00":
        _skip_client_info(reader)
    settings = _read_settings(reader, known)
    read_varint(reader)
    compressed = read_varint(reader) == 1
    method = settings.get("network_compression_method", "lz4").lower()
    compression = ("zstd" if method == "zstd" else "lz4") if compressed else None
    sql = read_text(reader)
    return Request(query_id=query_id, sql=sql, settings=settings, compression=compression)


def _skip_client_info(reader: Any) -> None:
    # User, query id and address of who began it; the interface; system user, host, program; its
    # version and revision; the quota key; the patch of the version.
    for _ in range(3):
        read_text(reader)
    reader.read(1)
    for _ in range(3):
        read_text(reader)
    for _ in range(3):
        read_varint(reader)
    read_text(reader)
    read_varint(reader)


def _read_settings(reader: Any, known: Container[str]) -> dict[str, str]:
    settings: dict[str, str] = {}
    while name := read_text(reader):
        important = reader.read(1)[0] & 1
        value = read_text(reader)
        if name in known or important:
            settings[name] = value
    return settings
