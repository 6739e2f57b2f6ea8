import gzip
from collections.abc import Callable

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from shared.web.compression import Compressor, Encoding, compress, negotiate

UNPACK: dict[Encoding, Callable[[bytes], bytes]] = {
    "gzip": gzip.decompress,
    "zstd": lambda packed: zstandard.ZstdDecompressor().decompressobj().decompress(packed),
}


@pytest.mark.parametrize(
    ("accept", "encoding"),
    [
        (b"gzip", "gzip"),
        (b"gzip, deflate, br, zstd", "zstd"),
        (b"zstd;q=0.5, gzip", "gzip"),
        (b"zstd, gzip;q=0.9", "zstd"),
        (b"zstd;q=0, gzip", "gzip"),
        (b"zstd;q=0.5, identity", None),
        (b"zstd", "zstd"),
        (b"GZIP;q=0.5", "gzip"),
        (b"x-gzip", "gzip"),
        (b"*", "gzip"),
        (b"*;q=0", None),
        (b"gzip;q=0", None),
        (b"gzip;q=0, *", None),
        (b"gzip;q=no", None),
        (b"identity, gzip;q=0.5", None),
        (b"identity;q=0.5, gzip", "gzip"),
        (b"br", None),
        (b"", None),
        (b"\xff", None),
    ],
)
def test_the_caller_says_what_it_takes(accept: bytes, encoding: str | None) -> None:
    assert negotiate(accept) == encoding


@given(st.lists(st.binary()))
def test_pieces_make_one_stream(pieces: list[bytes]) -> None:
    whole = b"".join(pieces)
    for encoding, unpack in UNPACK.items():
        packer = Compressor(encoding)
        packed = b"".join(packer.add(piece) for piece in pieces) + packer.end()
        assert unpack(packed) == unpack(compress(whole, encoding)) == whole
