from __future__ import annotations

import pytest

from shared.clickhouse.contract import Limits, Statement
from shared.clickhouse.sql import ParameterValue
from shared.clickhouse.statement import body_of, output_format_of, parameters_of, settings_of
from shared.errors import QueryError


@pytest.mark.parametrize("sql", ["SELECT 1", "SELECT 1;", "SELECT 1 ; ;\n"])
def test_semicolons_at_the_end_are_taken_away(sql: str) -> None:
    assert body_of(Statement(sql=sql)) == "SELECT 1"


@pytest.mark.parametrize("name", ["JSON; DROP", "JSON SETTINGS a = 1", "'x'"])
def test_an_output_format_is_only_a_name(name: str) -> None:
    with pytest.raises(QueryError):
        output_format_of(Statement(sql="SELECT 1", format=name))


def test_limits_win_over_settings_and_the_tag_carries_the_marker() -> None:
    statement = Statement(
        sql="SELECT 1",
        settings={"max_result_rows": 5, "max_threads": 2},
        limits=Limits(max_result_rows=3, max_time_s=1.5),
        tag="mine",
    )
    assert settings_of(statement, "ph:1") == {
        "max_result_rows": 3,
        "max_threads": 2,
        "max_execution_time": 1.5,
        "log_comment": "mine ph:1",
    }
    assert settings_of(Statement(sql="SELECT 1")) == {}


def test_a_time_limit_is_never_so_short_that_it_is_none() -> None:
    """The engine rounds to microseconds, and 0 is no limit to it."""
    statement = Statement(sql="SELECT 1", limits=Limits(max_time_s=1e-9))
    assert settings_of(statement) == {"max_execution_time": 0.001}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("it's\t\\", "it\\'s\\t\\\\"),
        (None, "\\N"),
        (True, "1"),
        (1.5, "1.5"),
        (["a'b", "c\td"], "['a\\'b','c\\td']"),
        ([1, None, [True, "x"]], "[1,NULL,[1,'x']]"),
        ([], "[]"),
    ],
)
def test_parameters_are_in_the_engines_text_form(value: ParameterValue, text: str) -> None:
    assert parameters_of(Statement(sql="", parameters={"p": value})) == {"p": text}
