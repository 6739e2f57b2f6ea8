"""Records whose headers have names that are no UTF-8, which the client library refuses.

Kafka says that a name is text and checks nothing. One such record would stop a partition for good,
so its batch is read once more, from the same bytes, by the library's slower reader.
"""

from __future__ import annotations

import struct
from typing import Any

from aiokafka.record.default_records import _DefaultRecordBatchPy
from aiokafka.record.memory_records import MemoryRecords

_OFFSET_AND_LENGTH = struct.Struct(">qi")


class KeptRecords(MemoryRecords):  # type: ignore[misc]
    """A fetched piece of the log that knows the bytes it was made of."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self._data = data

    def lenient(self, base_offset: int) -> Any:
        """The batch with this offset, in a form that takes any name of a header."""
        position = 0
        while True:
            first, length = _OFFSET_AND_LENGTH.unpack_from(self._data, position)
            end = position + _OFFSET_AND_LENGTH.size + length
            if first == base_offset:
                return _LenientBatch(self._data[position:end])
            position = end


class _LenientBatch(_DefaultRecordBatchPy):  # type: ignore[misc]
    _buffer: Any

    def __iter__(self) -> _LenientBatch:
        self._maybe_uncompress()
        self._buffer = _LenientBytes(self._buffer)
        return self


class _LenientBytes(bytearray):
    def __getitem__(self, place: Any) -> Any:
        found = super().__getitem__(place)
        return found if isinstance(found, int) else _LenientText(found)


class _LenientText(bytes):
    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        return super().decode(encoding, "replace")
