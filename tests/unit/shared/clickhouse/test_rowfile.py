from __future__ import annotations

import struct
from pathlib import Path

from shared.clickhouse.contract import Run
from shared.clickhouse.rowfile import offsets_row_binary, row_file


def test_the_pieces_are_one_file_in_order() -> None:
    pieces = [f"{n}\n".encode() for n in range(5000)]
    with row_file(pieces) as path:
        assert Path(path).read_bytes() == b"".join(pieces)


def test_the_file_is_gone_afterwards() -> None:
    with row_file([b"x"]) as path:
        assert Path(path).exists()
    assert not Path(path).exists()


def test_a_block_may_be_empty() -> None:
    with row_file([]) as path:
        assert Path(path).read_bytes() == b""


def test_offsets_are_little_endian_numbers_of_eight_bytes() -> None:
    packed = offsets_row_binary([Run(5, 2), Run(2**40, 1)])
    assert struct.unpack("<3q", packed) == (5, 6, 2**40)
