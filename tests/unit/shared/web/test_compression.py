import gzip

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.web.compression import Compressor, compress, negotiate


@pytest.mark.parametrize(
    ("accept", "encoding"),
    [
        (b"gzip", "gzip"),
        (b"gzip, deflate, br, zstd", "gzip"),
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
    packer = Compressor()
    packed = b"".join(packer.add(piece) for piece in pieces) + packer.end()
    assert gzip.decompress(packed) == b"".join(pieces)
    assert gzip.decompress(compress(b"".join(pieces))) == b"".join(pieces)
