"""The JSON paths of a schema: where in a record the value of a column stands.

A path is a sequence of object keys; ``[:]`` stands for every element of an array. Only what the
datafiles know is understood: ``$``, ``$.a``, ``$.a.b``, ``$.a[:]`` and ``$.a[:].b``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import msgspec
from msgspec import UNSET, Raw, UnsetType

from shared.errors import DatafileError

EACH = "[:]"

DECODE_ERRORS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What the JSON reader raises for text that it refuses."""

Path = tuple[str, ...]
"""Keys from the outside in; the element ``EACH`` enters an array."""

_ELEMENTS = msgspec.json.Decoder(list[Raw])


def parse_path(text: str) -> Path:
    """The path behind ``json:``; ``$`` and ``$.`` are the whole document, the empty path.

    Raises:
        DatafileError: It is not a path.
    """
    if text in ("$", "$."):
        return ()
    if not text.startswith("$."):
        raise DatafileError(f"'{text}' is not a JSON path.", hint="Write $.key or $.outer.inner.")
    path: list[str] = []
    for part in text[2:].split("."):
        key = part.removesuffix(EACH)
        if not key or "[" in key or "]" in key:
            raise DatafileError(
                f"'{text}' is not a JSON path.", hint="Only keys and [:] are understood."
            )
        path.append(key)
        if key != part:
            path.append(EACH)
    return tuple(path)


def raw_object(keys: tuple[str, ...]) -> type[msgspec.Struct]:
    """A Struct whose fields ``f0``, ``f1`` … are the raw texts of these keys, UNSET if missing."""
    names = {f"f{index}": key for index, key in enumerate(keys)}
    fields: list[tuple[str, Any, Any]] = [(name, Raw | UnsetType, UNSET) for name in names]
    return msgspec.defstruct("RawObject", fields, rename=names, gc=False)


@functools.lru_cache(maxsize=4096)
def _member(key: str) -> Callable[[bytes], Any]:
    return msgspec.json.Decoder(raw_object((key,))).decode


def extract(text: bytes, path: Path) -> bytes | None:
    """The JSON text at a path, None where it leads nowhere.

    Behind ``[:]`` the result is an array with one element for each of the source's, null where
    the rest of the path leads nowhere. What should be an array and is not comes back as it is.
    """
    for depth, key in enumerate(path):
        if key == EACH:
            return _extract_each(text, path[depth + 1 :])
        try:
            found = _member(key)(text).f0
        except DECODE_ERRORS:
            return None
        if found is UNSET:
            return None
        text = bytes(found)
    return text


def _extract_each(text: bytes, rest: Path) -> bytes:
    if not rest:
        return text
    try:
        elements = _ELEMENTS.decode(text)
    except DECODE_ERRORS:
        return text
    return b"[" + b",".join(extract(bytes(e), rest) or b"null" for e in elements) + b"]"
