from __future__ import annotations

import json

from query.explain import HIDDEN, explanation
from query.planned import Planned

INDEX = {
    "Type": "PrimaryKey",
    "Keys": ["org"],
    "Condition": "(org in [1, 1])",
    "Initial Parts": 2,
    "Selected Parts": 1,
    "Initial Granules": 200,
    "Selected Granules": 100,
}


def planned() -> Planned:
    return Planned(
        sql="SELECT 1",
        bindings={"p1": "word", "p2": 5},
        secret_bindings=frozenset({"p1"}),
        tables=frozenset({"b", "a"}),
        settings={"max_threads": 2, "additional_table_filters": "{'db.a':'org = 1'}"},
    )


def test_every_table_of_the_plan_is_listed_with_its_indexes() -> None:
    read = {"Node Type": "ReadFromMergeTree", "Description": "db.a", "Indexes": [INDEX]}
    plan = [{"Plan": {"Node Type": "Join", "Plans": [{"Plans": [read]}, read]}}]
    found = explanation(planned(), json.dumps(plan).encode(), b"").indexes
    assert [(use.table, use.type, use.keys) for use in found] == [("a", "PrimaryKey", ("org",))] * 2
    assert (found[0].selected_parts, found[0].parts) == (1, 2)
    assert (found[0].selected_granules, found[0].granules) == (100, 200)


def test_rows_are_the_sum_over_the_tables() -> None:
    estimate = (
        b'{"database":"db","table":"a","parts":"1","rows":"30","marks":"1"}\n'
        b'{"database":"db","table":"b","parts":2,"rows":12,"marks":2}\n'
    )
    found = explanation(planned(), b"[]", estimate)
    assert [(read.table, read.rows) for read in found.reads] == [("a", 30), ("b", 12)]
    assert found.rows == 42


def test_secrets_and_row_filters_are_not_shown() -> None:
    found = explanation(planned(), b"[]", b"")
    assert found.bindings == {"p1": HIDDEN, "p2": 5}
    assert found.settings == {"max_threads": 2}
    assert found.filtered
