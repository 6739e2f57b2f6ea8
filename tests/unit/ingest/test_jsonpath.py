from __future__ import annotations

import pytest

from ingest.jsonpath import EACH, extract, parse_path
from shared.errors import DatafileError


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("$", ()),
        ("$.", ()),
        ("$.a", ("a",)),
        ("$.a-b.c", ("a-b", "c")),
        ("$.arr[:]", ("arr", EACH)),
        ("$.items[:].name", ("items", EACH, "name")),
    ],
)
def test_a_path_is_its_keys(text: str, path: tuple[str, ...]) -> None:
    assert parse_path(text) == path


@pytest.mark.parametrize("text", ["", "a", "$a", "$..a", "$.a[0]", '$["x"]', "$.a[:][:]", "$.a."])
def test_what_is_no_path_is_refused(text: str) -> None:
    with pytest.raises(DatafileError):
        parse_path(text)


@pytest.mark.parametrize(
    ("text", "path", "found"),
    [
        (b'{"a": {"b" : 1.10}}', "$.a.b", b"1.10"),
        (b'{"a": {"b": null}}', "$.a.b", b"null"),
        (b'{"a": {}}', "$.a.b", None),
        (b'{"a": 3}', "$.a.b", None),
        (b'{"a": 1, "a": 2}', "$.a", b"2"),
        (b'{"\\u0061": 1}', "$.a", b"1"),
        (b'{"i": [{"k": 1}, {}, {"k": [2]}, 7]}', "$.i[:].k", b"[1,null,[2],null]"),
        (b'{"i": {"k": 1}}', "$.i[:].k", b'{"k": 1}'),
        (b'{"i": [{"j": [{"k": 1}]}, {"j": []}]}', "$.i[:].j[:].k", b"[[1],[]]"),
        (b"[1]", "$.a", None),
    ],
)
def test_the_text_at_a_path_is_found_unchanged(text: bytes, path: str, found: bytes | None) -> None:
    assert extract(text, parse_path(path)) == found
