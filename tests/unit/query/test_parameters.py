from __future__ import annotations

from query.parameters import merge_arguments


def test_values_of_the_query_string_stay_text() -> None:
    assert merge_arguments([("a", "1"), ("b", "")], None, {}) == {"a": "1", "b": ""}


def test_repeated_names_are_joined_with_commas() -> None:
    assert merge_arguments([("a", "1"), ("b", "x"), ("a", "2,3")], None, {})["a"] == "1,2,3"


def test_the_body_wins_over_the_query_string_and_the_token_over_both() -> None:
    merged = merge_arguments(
        [("a", "query"), ("b", "query"), ("c", "query")],
        {"b": "body", "c": "body"},
        {"c": "token"},
    )
    assert merged == {"a": "query", "b": "body", "c": "token"}


def test_values_of_a_body_keep_their_types_and_null_says_nothing() -> None:
    merged = merge_arguments([("a", "1")], {"a": None, "n": 5, "l": [1, 2]}, {})
    assert merged == {"a": "1", "n": 5, "l": [1, 2]}


def test_what_belongs_to_the_request_is_no_argument() -> None:
    query = [("token", "t"), ("q", "SELECT 1"), ("from", "ui"), ("__tb__semver", "1"), ("a", "1")]
    assert merge_arguments(query, {"token": "t"}, {}) == {"a": "1"}


def test_a_name_that_a_template_may_declare_is_kept() -> None:
    query = [("utm_source", "x"), ("debug", "1"), ("cli_version", "5")]
    assert merge_arguments(query, {}, {}) == dict(query)
