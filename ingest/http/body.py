r"""The body of an Events request: bytes in, record values out; no value contains a newline.

A body is read twice at most. First as lines, which costs next to nothing: whether each line is
JSON is left to the decoder, which looks at every value anyway. Only when the decoder refused a
line that is no JSON at all, the body is read again as a whole: as a stream of JSON values, which
may be pretty-printed or follow each other without a newline. Where that fails too, the lines
stand, and broken ones among them go to quarantine as they are.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, Protocol, runtime_checkable

import msgspec
import zstandard
from msgspec import Struct

from ingest.chunk import Rejection
from shared.errors import BadRequestError, TooLargeError

BodyFormat = Literal["ndjson", "json"]

_BOM = b"\xef\xbb\xbf"
# What goes in at a time. One KiB of zstd can become 32 MiB, so the limit is overshot by that much.
_INFLATE_STEP_BYTES = 1 << 10

# Deeper nesting is refused by the decoder, whose limit is the interpreter's for recursion.
_MAX_DEPTH = 1_000
_GZIP_WINDOW = 16 + zlib.MAX_WBITS

_SPACE = re.compile(rb"[ \t\r\n]*+")
# From a bracket, or from the start of an object's text, up to and including the next bracket that
# stands outside of strings. Possessive, so that it takes linear time on every input.
_TO_BRACKET = re.compile(rb'(?:[^"{}\[\]]++|"(?:[^"\\]++|\\.)*+")*+[{}\[\]]', re.DOTALL)
_SCALAR = re.compile(rb'"(?:[^"\\]++|\\.)*+"|[^\s{}\[\]",:]++', re.DOTALL)


class BodyLimits(Struct, frozen=True, kw_only=True):
    """What one request may hold."""

    max_body_bytes: int
    max_decompressed_bytes: int
    max_rows: int
    max_line_bytes: int


class Checked(Struct, frozen=True):
    """The values of a body and what will become of them."""

    values: Sequence[bytes]
    successful_rows: int
    quarantined_rows: int


@runtime_checkable
class Checker(Protocol):
    """The decoder of a data source, as far as the Events API needs it."""

    def check(self, values: Sequence[bytes]) -> tuple[int, tuple[Rejection, ...]]:
        """How many values would become rows, and the rejections of the others."""
        ...


def read_body(
    body: bytes, body_format: BodyFormat, limits: BodyLimits, checker: Checker
) -> Checked:
    """The values of a decompressed body, checked by the decoder of its data source.

    Args:
        body: Lines of JSON, or any JSON values after each other.
        body_format: ``json`` takes one top-level array as well, each element a value.
        limits: What the request may hold.
        checker: Decides which values become rows.

    Raises:
        BadRequestError: The body is empty or has no valid JSON value.
        TooLargeError: Too many values, or one is too large.
    """
    body = body.removeprefix(_BOM)
    if body_format == "json" and (elements := _array_elements(body)) is not None:
        return _check(elements, limits, checker)[0]
    checked, rejections = _check(split_lines(body), limits, checker)
    broken = sum(1 for rejection in rejections if not is_json(rejection.raw))
    if broken and (values := stream_values(body, limits.max_rows)) is not None:
        checked, broken = _check(values, limits, checker)[0], 0
    if broken == len(checked.values):
        raise BadRequestError(
            "The body has no valid JSON value.", hint="Send one JSON object a line."
        )
    if len(checked.values) == checked.quarantined_rows == 1 and _is_array(body):
        raise BadRequestError(
            "The body is a JSON array.", hint="Add format=json, or send one JSON object a line."
        )
    return checked


def split_lines(body: bytes) -> list[bytes]:
    r"""The lines that are not blank, without the newline and a ``\r`` before it."""
    lines = body.split(b"\n")
    if b"\r" in body:
        lines = [line.rstrip(b"\r") for line in lines]
    return [line for line in lines if line and not line.isspace()]


def stream_values(body: bytes, max_values: int) -> list[bytes] | None:
    """The JSON values that follow each other in the body; None where it is no such thing.

    Values that stand on several lines are compacted; number texts, the order of keys and
    duplicate keys stay.

    Raises:
        TooLargeError: There are more than ``max_values``.
    """
    spans: list[slice | None] = []
    for span in _value_spans(body):
        spans.append(span)
        if len(spans) > max_values:
            raise TooLargeError(f"The body has more than {max_values} events.")
    if not spans or spans[-1] is None:
        return None
    pieces = [body[span] for span in spans if span is not None]
    # The scan only balances brackets; one decoder call says whether all of it is JSON.
    if not is_json(b"[" + b",".join(pieces) + b"]"):
        return None
    return [_one_line(piece) for piece in pieces]


def is_json(text: bytes) -> bool:
    """Whether the text is one JSON value in valid UTF-8."""
    try:
        msgspec.json.decode(text, type=msgspec.Raw)
        text.decode()
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return True


def decompress(body: bytes, content_encoding: bytes, max_bytes: int) -> bytes:
    """Undo ``Content-Encoding``: gzip, zstd, or none; several gzip members or frames are joined.

    Args:
        body: As it was sent.
        content_encoding: The header's value, empty where there is none.
        max_bytes: Nothing beyond this is inflated.

    Raises:
        BadRequestError: An encoding we do not know, or the body is corrupt or cut off.
        TooLargeError: More than ``max_bytes`` come out.
    """
    encoding = content_encoding.strip().lower()
    if encoding in (b"", b"identity"):
        return body
    if encoding in (b"gzip", b"x-gzip"):
        return _collect(_inflate(body, lambda: zlib.decompressobj(_GZIP_WINDOW)), max_bytes)
    if encoding == b"zstd":
        return _collect(_inflate(body, zstandard.ZstdDecompressor().decompressobj), max_bytes)
    shown = content_encoding.decode("ascii", "replace")
    raise BadRequestError(
        f"The Content-Encoding '{shown}' is not known.", hint="Use gzip, zstd or none."
    )


def _collect(pieces: Iterator[bytes], max_bytes: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    try:
        for piece in pieces:
            parts.append(piece)
            size += len(piece)
            if size > max_bytes:
                raise TooLargeError(f"The body has more than {max_bytes} bytes when decompressed.")
    except (zlib.error, zstandard.ZstdError, EOFError) as error:
        raise BadRequestError(f"The body cannot be decompressed: {error}.") from error
    return b"".join(parts)


class _Inflater(Protocol):
    """What zlib's and zstandard's inflaters have in common; one takes one member or frame."""

    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: memoryview, /) -> bytes: ...


def _inflate(body: bytes, new_inflater: Callable[[], _Inflater]) -> Iterator[bytes]:
    view = memoryview(body)
    position = 0
    inflater = new_inflater()
    while position < len(view):
        if inflater.eof:
            inflater = new_inflater()
        piece = view[position : position + _INFLATE_STEP_BYTES]
        yield inflater.decompress(piece)
        position += len(piece) - len(inflater.unused_data)
    if body and not inflater.eof:
        raise EOFError("it is cut off")


def _check(
    values: Sequence[bytes], limits: BodyLimits, checker: Checker
) -> tuple[Checked, tuple[Rejection, ...]]:
    if not values:
        raise BadRequestError("The body is empty.", hint="Send one JSON object a line.")
    if len(values) > limits.max_rows:
        raise TooLargeError(f"The body has more than {limits.max_rows} events.")
    longest = max(map(len, values))
    if longest > limits.max_line_bytes:
        raise TooLargeError(
            f"The largest event has {longest} bytes, at most {limits.max_line_bytes}."
        )
    accepted, rejections = checker.check(values)
    return Checked(values, accepted, len(rejections)), rejections


def _is_array(body: bytes) -> bool:
    start = _after_space(body, 0)
    return body[start : start + 1] == b"["


def _array_elements(body: bytes) -> list[bytes] | None:
    if not _is_array(body):
        return None
    try:
        elements = msgspec.json.decode(body, type=list[msgspec.Raw])
    except (msgspec.DecodeError, RecursionError):
        return None
    return [_one_line(bytes(element)) for element in elements]


def _value_spans(body: bytes) -> Iterator[slice | None]:
    """Where each top-level value stands; a last None where the body is malformed."""
    position = _after_space(body, 0)
    while position < len(body):
        if body[position] in b"{[":
            end = _container_end(body, position)
        else:
            scalar = _SCALAR.match(body, position)
            end = scalar.end() if scalar else None
        if end is None:
            yield None
            return
        yield slice(position, end)
        position = _after_space(body, end)


def _container_end(body: bytes, start: int) -> int | None:
    position, depth = start, 0
    while depth <= _MAX_DEPTH and (bracket := _TO_BRACKET.match(body, position)):
        position = bracket.end()
        depth += 1 if body[position - 1] in b"{[" else -1
        if depth == 0:
            return position
    return None


def _after_space(body: bytes, position: int) -> int:
    space = _SPACE.match(body, position)
    return space.end() if space else position


def _one_line(value: bytes) -> bytes:
    return msgspec.json.format(value, indent=-1) if b"\n" in value else value
