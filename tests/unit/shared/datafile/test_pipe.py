from __future__ import annotations

import pytest

from shared.datafile.diagnostics import Diagnostics
from shared.datafile.pipe import parse_pipe
from shared.datafile.source import source_file
from shared.model.resources import Node, Pipe, TokenGrant


def parse(text: str) -> tuple[Pipe | None, list[str]]:
    diagnostics = Diagnostics()
    parsed = parse_pipe(source_file("p.pipe", text), diagnostics)
    return parsed, [d.code for d in diagnostics.sorted()]


def node(text: str) -> Node:
    parsed, _ = parse(text)
    assert parsed is not None
    return parsed.nodes[-1]


def test_descriptions_belong_to_the_pipe_or_to_their_node() -> None:
    parsed, codes = parse(
        "DESCRIPTION Of the pipe\nTOKEN reader read\nTAGS a,b\n\n"
        "NODE one\nDESCRIPTION >\n    Of the node\nSQL >\n    SELECT 1\n\n"
        "NODE two # the answer\nTYPE Endpoint\nSQL >\n    SELECT 2\n"
    )
    assert codes == []
    assert parsed is not None
    assert (parsed.name, parsed.description) == ("p", "Of the pipe")
    assert (parsed.tokens, parsed.tags) == ((TokenGrant("reader", "READ"),), ("a", "b"))
    assert [(n.name, n.kind, n.description) for n in parsed.nodes] == [
        ("one", "standard", "Of the node"),
        ("two", "endpoint", ""),
    ]
    assert parsed.endpoint is parsed.nodes[1]


@pytest.mark.parametrize(
    ("block", "sql", "is_template"),
    [
        ("    SELECT 1\n      + 1  ", "SELECT 1\n  + 1", False),
        ("    %\n    SELECT 1", "SELECT 1", True),
        ("    % SELECT 1\n    FROM x", "  SELECT 1\nFROM x", True),
        ("%\n    SELECT 1", "    SELECT 1", True),
        ("    SELECT 10 % 3\n    % 2", "SELECT 10 % 3\n% 2", False),
        ("    SELECT {{ Int32(a) }}", "SELECT {{ Int32(a) }}", True),
        ("    SELECT 1;", "SELECT 1", False),
        ("    SELECT '%'\n\n    # gone\n    -- kept", "SELECT '%'\n-- kept", False),
    ],
)
def test_sql_loses_its_indentation_and_its_percent_sign(
    block: str, sql: str, is_template: bool
) -> None:
    found = node(f"NODE n\nSQL >\n{block}\n")
    assert (found.sql, found.is_template) == (sql, is_template)


@pytest.mark.parametrize(
    "text",
    [
        "NODE n\nSQL >\n    %\n    SELECT a,\n\n      # c\n      b\n    FROM x\nTYPE endpoint\n",
        "NODE n\nSQL >\n  % SELECT a\n    FROM x\n",
        "\n-- all of it\nSELECT a\n\n  , b\nFROM x",
        "NODE n\nSQL >\n\tSELECT a\n\t  , b",
    ],
)
def test_every_line_of_sql_leads_back_to_its_line_in_the_file(text: str) -> None:
    found = node(text)
    lines = found.sql.split("\n")
    assert len(lines) == len(found.sql_lines)
    assert found.sql_line == found.sql_lines[0]
    for line, number in zip(lines, found.sql_lines, strict=True):
        original = text.split("\n")[number - 1].replace("%", " ", 1)
        assert original[found.sql_indent :].rstrip() == line


def test_tags_without_percent_are_read_as_a_template_and_reported_where_they_begin() -> None:
    diagnostics = Diagnostics()
    text = "NODE n\nSQL >\n    SELECT 1\n    WHERE {% if a %} 1 {% end %}\n"
    parse_pipe(source_file("p.pipe", text), diagnostics)
    (found,) = diagnostics.sorted()
    assert (found.code, found.severity) == ("template_without_percent", "warning")
    assert (found.span.line, found.span.column) == (4, 11)


@pytest.mark.parametrize(
    "text",
    ["SELECT 1\nFROM x\n", "\n# note\n%\nSELECT 1\nFROM x", "with 1 AS a\nSELECT a", "(SELECT 1)"],
)
def test_a_file_of_bare_sql_is_one_endpoint(text: str) -> None:
    parsed, codes = parse(text)
    assert codes == []
    assert parsed is not None
    assert [(n.name, n.kind) for n in parsed.nodes] == [("endpoint", "endpoint")]
    assert parsed.nodes[0].sql.strip().startswith(("SELECT", "with", "(SELECT"))


def test_a_node_with_a_type_keeps_its_options() -> None:
    found = node(
        "NODE n\nSQL >\n    SELECT 1\nTYPE copy\nTARGET_DATASOURCE t\n"
        'COPY_SCHEDULE "0 * * * *"\nMODE replace\n'
    )
    assert found.kind == "copy"
    assert dict(found.options) == {
        "TARGET_DATASOURCE": "t",
        "COPY_SCHEDULE": "0 * * * *",
        "COPY_MODE": "replace",
    }
    assert found.option("COPY_MODE") == "replace"


@pytest.mark.parametrize(
    ("lines", "codes"),
    [
        ("TYPE materialized", ["missing_option"]),
        ("TYPE materialized\nDATASOURCE d", []),
        ("TYPE copy\nTARGET_DATASOURCE d\nCOPY_SCHEDULE @on-demand", []),
        ("TYPE copy\nTARGET_DATASOURCE d\nCOPY_SCHEDULE @daily", ["bad_schedule"]),
        ("TYPE endpoint\nDATASOURCE d", ["option_ignored"]),
        ("TYPE pointend", ["bad_node_type"]),
        ("VERSION 2", ["version_ignored"]),
        ("TOKEN a APPEND", ["bad_token"]),
        ("CACHE 10", ["command_not_allowed"]),
        ("ENGINE_SORTING_KEY a", ["command_not_allowed"]),
    ],
)
def test_what_stands_behind_the_sql_is_checked(lines: str, codes: list[str]) -> None:
    assert parse(f"NODE n\nSQL >\n    SELECT 1\n{lines}\n")[1] == codes


@pytest.mark.parametrize(
    ("name", "code"),
    [("my node", None), ('"my node"', "bad_name"), ("my-node", "bad_name"), ("9a", "bad_name")],
)
def test_the_name_of_a_node_is_its_first_word_unless_quoted(name: str, code: str | None) -> None:
    parsed, codes = parse(f"NODE {name}\nSQL >\n    SELECT 1\n")
    assert codes == ([code] if code else [])
    if parsed is not None:
        assert parsed.nodes[0].name == "my"


def test_a_materialized_node_may_begin_with_percent_but_have_no_tags() -> None:
    text = "NODE n\nTYPE materialized\nDATASOURCE d\nSQL >\n    %\n    SELECT {}\n"
    assert parse(text.format("1"))[1] == []
    assert parse(text.format("{{ a }}"))[1] == ["template_in_materialized"]
