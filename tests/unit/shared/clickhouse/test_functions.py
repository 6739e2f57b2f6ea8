from __future__ import annotations

import pytest

from shared.clickhouse.functions import Functions, functions_from_rows

FUNCTIONS: Functions = functions_from_rows(
    [
        ("lower", "String", "", False, True),
        ("lcase", "", "lower", False, True),
        ("sum", "Aggregate Functions", "", True, True),
        ("uniq", "Aggregate Functions", "", True, False),
        ("now", "Dates and Times", "", False, True),
        ("rand", "Random Number", "", False, False),
        ("file", "Other", "", False, False),
        ("transform", "Other", "", False, False),
        ("dictGet", "Dictionary", "", False, False),
        ("chdb", "String", "", False, False),
        ("brandNew", "Some Later Category", "", False, False),
    ],
    ["If", "State", "Merge", "Array"],
)


@pytest.mark.parametrize(
    ("name", "verdict"),
    [
        ("lower", "allowed"),
        ("LOWER", "allowed"),
        ("LCase", "allowed"),
        ("sumIf", "allowed"),
        ("SUMIf", "allowed"),
        ("uniqArrayIfState", "allowed"),
        ("UNIQ", "unknown"),
        ("sumif", "unknown"),
        ("lowerIf", "unknown"),
        ("If", "unknown"),
        ("transform", "allowed"),
        ("file", "disabled"),
        ("dictGet", "disabled"),
        ("chdb", "disabled"),
        ("brandNew", "disabled"),
        ("nothing_like_it", "unknown"),
        ("lambda", "allowed"),
    ],
)
def test_only_listed_functions_are_allowed(name: str, verdict: str) -> None:
    assert FUNCTIONS.verdict(name) == verdict


@pytest.mark.parametrize(
    ("name", "volatile"), [("now", True), ("NOW", True), ("rand", True), ("lower", False)]
)
def test_clocks_and_chance_are_volatile(name: str, volatile: bool) -> None:
    assert FUNCTIONS.is_volatile(name) is volatile
