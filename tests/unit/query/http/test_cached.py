import pytest

from query.http.cached import matches


@pytest.mark.parametrize(
    ("sent", "is_match"),
    [
        (b'W/"a"', True),
        (b'"a"', True),
        (b'"b", W/"a"', True),
        (b"*", True),
        (b'"b"', False),
        (b'W/"b","c"', False),
        (b"a", False),
        (b"", False),
    ],
)
def test_a_tag_matches_whether_weak_or_strong(sent: bytes, is_match: bool) -> None:
    assert matches(sent, b'W/"a"') is is_match
