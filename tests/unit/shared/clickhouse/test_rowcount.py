from __future__ import annotations

import pytest

from shared.clickhouse.rowcount import RowCounter


@pytest.mark.parametrize(
    ("output_format", "body", "rows"),
    [
        ("JSONEachRow", b'{"a":1}\n{"a":"\\n"}\n', 2),
        ("TabSeparated", b"1\\n\n2\n", 2),
        ("TSVWithNamesAndTypes", b"a\nInt8\n1\n", 1),
        ("CSV", b'"a\n""b"\n2\n', 2),
        ("CSVWithNames", b'"a"\n', 0),
        ("JSON", b'{"data":[{"rows": 9}],\n\t"rows": 3,\n\t"statistics":{}}', 3),
        ("Parquet", b"PAR1", None),
    ],
)
@pytest.mark.parametrize("step", [1, 3, 1000])
def test_rows_are_counted_however_the_answer_is_cut(
    output_format: str, body: bytes, rows: int | None, step: int
) -> None:
    counter = RowCounter(output_format)
    for start in range(0, len(body), step):
        counter.add(body[start : start + step])
    assert counter.rows() == rows
