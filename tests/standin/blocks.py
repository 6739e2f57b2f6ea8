"""Blocks on the wire of the native protocol, at the revision the stand-in speaks.

At this revision a block is a few bytes of block information and then exactly what the engine's own
``Native`` format is. So blocks pass through as bytes; they are read only to find where they end.
"""

from __future__ import annotations

import importlib
import re
import struct
from collections.abc import Callable, Iterator
from io import BytesIO
from types import SimpleNamespace
from typing import Any

from msgspec import Struct

# clickhouse-driver has no types.
_readers: Any = importlib.import_module("clickhouse_driver.bufferedreader")
_service: Any = importlib.import_module("clickhouse_driver.columns.service")
_compression: Any = importlib.import_module("clickhouse_driver.compression")
_varint: Any = importlib.import_module("clickhouse_driver.varint")
_cityhash: Any = importlib.import_module("clickhouse_cityhash.cityhash")

REVISION = 54440

_FRAME_BYTES = 1024 * 1024
_BLOCK_INFO = b"\x01\x00\x02\xff\xff\xff\xff\x00"
_WIDTHS = {
    **dict.fromkeys(("Int8", "UInt8", "Bool"), 1),
    **dict.fromkeys(("Int16", "UInt16", "Date", "BFloat16"), 2),
    **dict.fromkeys(("Int32", "UInt32", "Float32", "Date32", "IPv4", "DateTime"), 4),
    **dict.fromkeys(("Int64", "UInt64", "Float64"), 8),
    **dict.fromkeys(("Int128", "UInt128", "UUID", "IPv6"), 16),
    **dict.fromkeys(("Int256", "UInt256"), 32),
}
_PREFIXED = re.compile(r"LowCardinality|JSON|Object|Dynamic|Variant|Tuple|Nested|Map|Aggregate")

_CONTEXT = SimpleNamespace(
    server_info=SimpleNamespace(used_revision=REVISION, get_timezone=lambda: "UTC"),
    settings={},
    client_settings={
        "use_numpy": False,
        "strings_as_bytes": True,
        "strings_encoding": "utf-8",
        "namedtuple_as_json": False,
        "input_format_null_as_default": False,
        "use_arrow": False,
    },
)


class Tap(_readers.BufferedReader):  # type: ignore[misc]
    """A buffered reader over anything, which can keep the bytes that are read from it.

    Args:
        fill: Gives the next bytes, none at the end.
    """

    buffer: bytearray
    current_buffer_size: int
    position: int

    def __new__(cls, fill: Callable[[], bytes]) -> Tap:
        return super().__new__(cls, 0)  # type: ignore[no-any-return]

    def __init__(self, fill: Callable[[], bytes]) -> None:
        super().__init__(0)
        self._fill = fill
        self._kept: list[bytes] | None = None
        self._mark = 0

    def read_into_buffer(self) -> None:
        """Get more; called by the reader when it has used up what it had.

        Raises:
            EOFError: There is no more.
        """
        if self._kept is not None:
            self._kept.append(bytes(self.buffer[self._mark : self.current_buffer_size]))
            self._mark = 0
        chunk = self._fill()
        if not chunk:
            raise EOFError("Unexpected end of the connection.")
        self.buffer = bytearray(chunk)
        self.current_buffer_size = len(chunk)

    def at_end(self) -> bool:
        """Whether nothing is left; waits for more bytes to find out."""
        if self.position < self.current_buffer_size:
            return False
        try:
            self.read_into_buffer()
        except EOFError:
            return True
        self.position = 0
        return False

    def keep(self) -> None:
        """Keep what is read from here on."""
        self._kept, self._mark = [], self.position

    def kept(self) -> bytes:
        """What was read since ``keep``."""
        pieces = self._kept or []
        pieces.append(bytes(self.buffer[self._mark : self.position]))
        self._kept = None
        return b"".join(pieces)


class Block(Struct, frozen=True):
    """A block as the ``Native`` format writes it."""

    columns: tuple[tuple[str, str], ...]
    rows: int
    body: bytes


def read_varint(reader: Any) -> int:
    """An unsigned number of one to ten bytes."""
    return int(_varint.read_varint(reader))


def read_text(reader: Any) -> str:
    """A string with its length before it."""
    return bytes(reader.read(read_varint(reader))).decode("utf-8", "surrogateescape")


def varint(number: int) -> bytes:
    """See ``read_varint``."""
    out = bytearray()
    while number > 0x7F:
        out.append(0x80 | (number & 0x7F))
        number >>= 7
    out.append(number)
    return bytes(out)


def text(value: str) -> bytes:
    """See ``read_text``."""
    encoded = value.encode("utf-8", "surrogateescape")
    return varint(len(encoded)) + encoded


def read_block(reader: Tap, *, with_info: bool) -> Block:
    """The next block.

    Args:
        reader: Where it comes from.
        with_info: Whether block information comes first, as on the wire.

    Raises:
        EOFError: The connection ended in it.
    """
    if with_info:
        while field := read_varint(reader):
            reader.read(1 if field == 1 else 4)
    reader.keep()
    count, rows = read_varint(reader), read_varint(reader)
    columns = []
    for _ in range(count):
        name, column_type = read_text(reader), read_text(reader)
        columns.append((name, column_type))
        if rows:
            _skip_column(reader, column_type, rows)
    return Block(tuple(columns), rows, reader.kept())


def header_block(columns: tuple[tuple[str, str], ...]) -> bytes:
    """A block of names and types without rows."""
    names = b"".join(text(name) + text(column_type) for name, column_type in columns)
    return varint(len(columns)) + b"\x00" + names


def _skip_column(reader: Any, column_type: str, rows: int) -> None:
    if _PREFIXED.search(column_type) is not None:
        _service.read_column(_CONTEXT, column_type, rows, reader)
    else:
        _skip(reader, column_type, rows)


def _skip(reader: Any, column_type: str, rows: int) -> None:
    head, _, rest = column_type.partition("(")
    arguments = rest[:-1]
    if head == "Nullable":
        reader.read(rows)
        _skip(reader, arguments, rows)
    elif head == "Array":
        offsets = reader.read(8 * rows)
        inner = struct.unpack("<Q", offsets[-8:])[0] if rows else 0
        if inner:
            _skip(reader, arguments, inner)
    elif head == "String":
        reader.read_strings(rows)
    elif (width := _width(head, arguments)) is not None:
        reader.read(width * rows)
    else:
        _service.read_column(_CONTEXT, column_type, rows, reader)


def _width(head: str, arguments: str) -> int | None:
    if head == "FixedString":
        return int(arguments)
    if head == "DateTime64":
        return 8
    if head in ("Enum8", "Enum16"):
        return 1 if head == "Enum8" else 2
    if head == "Decimal":
        precision = int(arguments.split(",")[0])
        return 4 if precision <= 9 else 8 if precision <= 18 else 16 if precision <= 38 else 32
    return _WIDTHS.get(head)


def frames(data: bytes, method: str) -> Iterator[bytes]:
    """Bytes as compressed frames.

    Args:
        data: What to compress.
        method: ``lz4`` or ``zstd``.
    """
    compressor_class = _compression.get_compressor_cls(method)
    for start in range(0, len(data), _FRAME_BYTES):
        compressor = compressor_class()
        compressor.write(data[start : start + _FRAME_BYTES])
        frame = bytes([compressor.method_byte]) + compressor.get_compressed_data(1)
        low = _cityhash.CityHash128(frame)
        yield struct.pack("<QQ", low >> 64, low & 0xFFFFFFFFFFFFFFFF) + frame


def read_frame(reader: Any) -> bytes:
    """The bytes of the next compressed frame."""
    high, low = struct.unpack("<QQ", reader.read(16))
    method = reader.read(1)[0]
    # Taken whole: the checksum is of the frame as it was sent.
    header = reader.read(4)
    body = reader.read(struct.unpack("<I", header)[0] - 5)
    decompressor = _compression.get_decompressor_cls(method)(BytesIO(header + body))
    return bytes(decompressor.get_decompressed_data(method, (high << 64) + low, 1))


def data_packet(kind: int, block: bytes, compression: str | None) -> bytes:
    """A packet that carries a block.

    Args:
        kind: The number of the packet.
        block: As the ``Native`` format writes it.
        compression: ``lz4``, ``zstd`` or None.
    """
    body = _BLOCK_INFO + block
    head = varint(kind) + text("")
    return head + (b"".join(frames(body, compression)) if compression else body)
