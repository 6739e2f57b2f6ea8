import gzip
import json
import zlib
from collections.abc import Callable, Sequence

import msgspec
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from ingest.chunk import CellError, Rejection
from ingest.http.body import (
    BodyFormat,
    BodyLimits,
    Checked,
    decompress,
    is_json,
    read_body,
    split_lines,
    stream_values,
)
from shared.errors import BadRequestError, TooLargeError

LIMITS = BodyLimits(
    max_body_bytes=1 << 20, max_decompressed_bytes=1 << 20, max_rows=10, max_line_bytes=100
)


class NumberChecker:
    """Takes objects whose ``n`` is a number; counts how often it was asked."""

    def __init__(self) -> None:
        self.calls = 0

    def check(self, values: Sequence[bytes]) -> tuple[int, tuple[Rejection, ...]]:
        self.calls += 1
        rejections = tuple(
            Rejection(offset=i, timestamp_ms=0, raw=value, errors=(CellError("", "no"),))
            for i, value in enumerate(values)
            if not self._is_row(value)
        )
        return len(values) - len(rejections), rejections

    def _is_row(self, value: bytes) -> bool:
        try:
            row = json.loads(value)
        except (ValueError, RecursionError):
            return False
        return isinstance(row, dict) and isinstance(row.get("n"), int | float)


def read(body: bytes, body_format: BodyFormat = "ndjson") -> Checked:
    return read_body(body, body_format, LIMITS, NumberChecker())


@pytest.mark.parametrize(
    ("body", "values", "quarantined"),
    [
        (b'{"n":1}', [b'{"n":1}'], 0),
        (b'{"n":1}\n{"n":2}', [b'{"n":1}', b'{"n":2}'], 0),
        (b'{"n":1}\r\n{"n":2}\r\n', [b'{"n":1}', b'{"n":2}'], 0),
        (b'\n\n {"n":1} \n \t\n', [b' {"n":1} '], 0),
        (b'\xef\xbb\xbf{"n":1}', [b'{"n":1}'], 0),
        (b'{"n":1}\n{"n":"x"}', [b'{"n":1}', b'{"n":"x"}'], 1),
        (b'{"n":1}\n{"n":', [b'{"n":1}', b'{"n":'], 1),
        (b'{"n":1}\n{"n":2\xff}', [b'{"n":1}', b'{"n":2\xff}'], 1),
        (b'{"n":1}\nnot json', [b'{"n":1}', b"not json"], 1),
        (b'{"n":1}\n[1]\n3', [b'{"n":1}', b"[1]", b"3"], 2),
        (b'{"x":1}', [b'{"x":1}'], 1),
        (b'{\n  "n": 1\n}\n', [b'{"n":1}'], 0),
        (b'{\n  "n": 1\n}\n{\n  "n": 2\n}', [b'{"n":1}', b'{"n":2}'], 0),
        (b'{"n":1}{"n":2}', [b'{"n":1}', b'{"n":2}'], 0),
        (b'{"n":1} {"n":"x"}\n{"n":3}', [b'{"n":1}', b'{"n":"x"}', b'{"n":3}'], 1),
        (b'{"n":1,"s":"}{\\"]"}{"n":2}', [b'{"n":1,"s":"}{\\"]"}', b'{"n":2}'], 0),
        (b'{"n":1}\n{"n":2}{"n":3}\nbad', [b'{"n":1}', b'{"n":2}{"n":3}', b"bad"], 2),
        (b'{"n":1}\n{"n":2},{"n":3}', [b'{"n":1}', b'{"n":2},{"n":3}'], 1),
    ],
)
def test_a_body_is_lines_or_else_a_stream_of_values(
    body: bytes, values: list[bytes], quarantined: int
) -> None:
    checked = read(body)
    assert list(checked.values) == values
    assert checked.quarantined_rows == quarantined
    assert checked.successful_rows == len(values) - quarantined


@pytest.mark.parametrize(
    ("body", "values"),
    [
        (b'[{"n":1},{"n":2}]', [b'{"n":1}', b'{"n":2}']),
        (b' [\n{"n":1},\n{\n"n":2}\n] ', [b'{"n":1}', b'{"n":2}']),
        (b'{"n":1}', [b'{"n":1}']),
        (b'{"n":1}\n{"n":2}', [b'{"n":1}', b'{"n":2}']),
    ],
)
def test_json_takes_one_array_and_everything_else_too(body: bytes, values: list[bytes]) -> None:
    assert list(read(body, "json").values) == values


@pytest.mark.parametrize("body", [b'[{"n":1}]', b'[\n{"n":1}\n]'])
def test_an_array_without_format_json_is_refused_with_the_way_out(body: bytes) -> None:
    with pytest.raises(BadRequestError, match="format=json"):
        read(body)


@pytest.mark.parametrize("body", [b"", b"\n \r\n", b"\xef\xbb\xbf", b"[]"])
@pytest.mark.parametrize("body_format", ["ndjson", "json"])
def test_a_body_without_events_is_refused(body: bytes, body_format: BodyFormat) -> None:
    with pytest.raises(BadRequestError):
        read(body, body_format)


@pytest.mark.parametrize(
    "body",
    [b"not json", b'{"n":', b'{"n":1}}', b"\xff\xfe", b"a=1&b=2", b"[" * 5000, b'{\n"n":\n}'],
)
@pytest.mark.parametrize("body_format", ["ndjson", "json"])
def test_a_body_without_one_valid_value_is_refused(body: bytes, body_format: BodyFormat) -> None:
    limits = msgspec.structs.replace(LIMITS, max_line_bytes=10_000)
    with pytest.raises(BadRequestError, match="no valid JSON value"):
        read_body(body, body_format, limits, NumberChecker())


def test_good_lines_are_looked_at_once_and_only_by_the_decoder() -> None:
    checker = NumberChecker()
    read_body(b'{"n":1}\n{"n":2}\n{"n":"x"}', "ndjson", LIMITS, checker)
    assert checker.calls == 1


@pytest.mark.parametrize("separator", [b"\n", b" "])
def test_too_many_events_are_refused(separator: bytes) -> None:
    read(separator.join([b'{"n":1}'] * 10))
    with pytest.raises(TooLargeError, match="10"):
        read(separator.join([b'{"n":1}'] * 11))


def test_too_large_an_event_is_refused() -> None:
    read(b'{"n":1,"s":"%s"}' % (b"x" * 86))
    with pytest.raises(TooLargeError, match="100"):
        read(b'{"n":1,"s":"%s"}' % (b"x" * 87))


def test_number_texts_key_order_and_duplicate_keys_survive_compaction() -> None:
    body = b'{\n "n": 1.00,\n "b": 12345678901234567890123,\n "n": 2e0, "a": "\\u00e9 x"\n}'
    expected = b'{"n":1.00,"b":12345678901234567890123,"n":2e0,"a":"\\u00e9 x"}'
    assert stream_values(body, 10) == [expected]


@pytest.mark.parametrize(
    "body",
    [b'{"a":"' + b"\\" * 99_999, b'"' * 100_001, b"[" * 100_000, b"{]" * 10_000, b'{"a":' * 50_000],
)
def test_hostile_streams_are_refused_in_linear_time(body: bytes) -> None:
    assert stream_values(body, 1_000_000) is None


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(
    st.lists(json_values, min_size=1, max_size=6),
    st.sampled_from([None, 2]),
    st.sampled_from(["\n", " ", "\n\n", "\t"]),
)
def test_any_stream_of_json_is_cut_into_its_values(
    values: list[object], indent: int | None, separator: str
) -> None:
    body = separator.join(json.dumps(value, indent=indent) for value in values).encode()
    found = stream_values(body, 10)
    assert found is not None
    assert [json.loads(value) for value in found] == values
    assert not any(b"\n" in value for value in found)


@given(st.binary(max_size=60) | st.text(alphabet='{}[]",:\\ \n1an', max_size=60).map(str.encode))
def test_any_bytes_give_values_or_a_refusal_and_values_never_hold_newlines(body: bytes) -> None:
    try:
        checked = read_body(body, "ndjson", LIMITS, NumberChecker())
    except (BadRequestError, TooLargeError):
        return
    assert checked.values
    assert not any(b"\n" in value for value in checked.values)
    assert any(is_json(value) for value in checked.values)


@given(st.lists(st.binary(min_size=1).filter(lambda b: b"\n" not in b and b.strip()), min_size=1))
def test_lines_are_kept_byte_by_byte(lines: list[bytes]) -> None:
    assert split_lines(b"\n".join(lines)) == [line.rstrip(b"\r") for line in lines]


def test_is_json_wants_valid_utf_8() -> None:
    assert is_json(b'"\xc3\xa9"')
    assert not is_json(b'"\xff"')
    assert not is_json(b'{"a":1} x')


PLAIN = b'{"n":1}\n' * 10_000
COMPRESSORS: dict[bytes, Callable[[bytes], bytes]] = {
    b"gzip": gzip.compress,
    b"zstd": lambda plain: zstandard.ZstdCompressor().compress(plain),
}


@pytest.mark.parametrize("encoding", [b"", b"identity", b" Identity "])
def test_no_encoding_leaves_the_body_as_it_is(encoding: bytes) -> None:
    assert decompress(PLAIN, encoding, 1) == PLAIN


@pytest.mark.parametrize("encoding", COMPRESSORS)
def test_compressed_bodies_are_inflated_also_in_several_members(encoding: bytes) -> None:
    body = COMPRESSORS[encoding](PLAIN)
    assert decompress(body, encoding.upper(), len(PLAIN)) == PLAIN
    assert decompress(body + body, encoding, 2 * len(PLAIN)) == PLAIN + PLAIN


@pytest.mark.parametrize("encoding", COMPRESSORS)
def test_what_cannot_be_inflated_is_refused(encoding: bytes) -> None:
    body = COMPRESSORS[encoding](PLAIN)
    for broken in (body[:-1], body[:5], body[:1], body + b"x", b"hello", PLAIN):
        with pytest.raises(BadRequestError, match="cannot be decompressed"):
            decompress(broken, encoding, 1 << 20)


def test_a_wrong_checksum_is_refused() -> None:
    body = bytearray(gzip.compress(PLAIN))
    body[-6] ^= 1
    with pytest.raises(BadRequestError):
        decompress(bytes(body), b"gzip", 1 << 20)


@pytest.mark.parametrize("encoding", COMPRESSORS)
def test_one_byte_over_the_limit_is_refused(encoding: bytes) -> None:
    body = COMPRESSORS[encoding](PLAIN)
    with pytest.raises(TooLargeError, match=f"{len(PLAIN) - 1} bytes"):
        decompress(body, encoding, len(PLAIN) - 1)


def test_a_bomb_is_refused_before_it_is_inflated() -> None:
    packer = zlib.compressobj(9, wbits=31)
    million = bytes(1 << 20)
    bomb = b"".join(packer.compress(million) for _ in range(64)) + packer.flush()
    # Cut off at the end: whoever inflates all of it says so instead of stopping at the limit.
    with pytest.raises(TooLargeError):
        decompress(bomb[:-8], b"gzip", 1 << 20)


@pytest.mark.parametrize("encoding", [b"br", b"deflate", b"gzip, gzip", b"\xff"])
def test_other_encodings_are_refused(encoding: bytes) -> None:
    with pytest.raises(BadRequestError, match="gzip, zstd or none"):
        decompress(PLAIN, encoding, 1 << 20)


@pytest.mark.parametrize("encoding", COMPRESSORS)
def test_an_empty_body_stays_empty(encoding: bytes) -> None:
    assert decompress(b"", encoding, 1) == b""
