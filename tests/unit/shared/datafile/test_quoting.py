from __future__ import annotations

import pytest

from shared.datafile.quoting import split_commas, without_comment, without_quotes, words


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("a # x", "a"),
        ("# x", ""),
        ("a#b", "a#b"),
        ("'a # b' # c", "'a # b'"),
        ('"a # b"', '"a # b"'),
        ("don't # x", "don't"),
        ('"open # x', '"open'),
        ("`a # b`", "`a # b`"),
        ("“a # b”  # c", "“a # b”"),
    ],
)
def test_a_comment_begins_at_a_word_outside_quotes(text: str, kept: str) -> None:
    assert without_comment(text) == kept


@pytest.mark.parametrize(
    ("text", "inner"),
    [
        ('"MergeTree"', "MergeTree"),
        ("'MergeTree'", "MergeTree"),
        ("“MergeTree”", "MergeTree"),
        ("”MergeTree”", "MergeTree"),
        ('""', ""),
        ("'a' + 'b'", "'a' + 'b'"),
        ('"a', '"a'),
        ('"', '"'),
        (r'"say \"x\""', 'say "x"'),
        ("`a`", "`a`"),
        ("ts + interval 1 day", "ts + interval 1 day"),
    ],
)
def test_one_pair_of_quotes_around_everything_is_cut(text: str, inner: str) -> None:
    assert without_quotes(text) == inner


def test_words_keep_quoted_runs_together() -> None:
    assert words('"my token" READ') == ("my token", "READ")
    assert words("  a  'b c'd") == ("a", "b c", "d")
    assert words("it's") == ("it's",)


def test_commas_in_brackets_and_quotes_do_not_split() -> None:
    assert split_commas("a, f(b, c), 'd, e', [1,2],, ") == ("a", "f(b, c)", "'d, e'", "[1,2]")
