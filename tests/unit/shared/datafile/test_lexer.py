from __future__ import annotations

import re

import pytest

from shared.datafile.diagnostics import Diagnostics
from shared.datafile.lexer import FileKind, Instruction, read_instructions
from shared.datafile.source import source_file

KIND = FileKind(
    name="thing",
    commands={"DESCRIPTION": "either", "SQL": "block", "NODE": "line", "TYPE": "line"},
    refused={"INCLUDE": "No."},
    flattened=re.compile(r"(?P<text>.*[.])\s+(?P<command>NODE\s+\w+)\s*$"),
)


def read(text: str) -> tuple[list[Instruction], list[str]]:
    diagnostics = Diagnostics()
    found = read_instructions(source_file("f.thing", text), KIND, diagnostics)
    return list(found), [d.code for d in diagnostics.sorted()]


def pairs(text: str) -> list[tuple[str, str]]:
    found, codes = read(text)
    assert codes == []
    return [(i.command, i.value) for i in found]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("NODE a", [("NODE", "a")]),
        ("   node a", [("NODE", "a")]),
        ("Type Endpoint # x", [("TYPE", "Endpoint")]),
        ('NODE "a b" # x', [("NODE", "a b")]),
        ("DESCRIPTION hello # world", [("DESCRIPTION", "hello")]),
        ('DESCRIPTION "hello"', [("DESCRIPTION", '"hello"')]),
        ("# NODE a\n\nNODE b", [("NODE", "b")]),
        ("NODE", [("NODE", "")]),
        (
            "SQL >\n  SELECT 1\n\n  -- c\n  # d\n  , 2 # e",
            [("SQL", "  SELECT 1\n  -- c\n  , 2 # e")],
        ),
        ("SQL >\nSELECT 1\nFROM x\nTYPE y", [("SQL", "SELECT 1\nFROM x"), ("TYPE", "y")]),
        ("SQL >\n  a\n  TYPE b\nC d\nNODE e", [("SQL", "  a\n  TYPE b\nC d"), ("NODE", "e")]),
        ("SQL >\r\n\tSELECT 1\r\n", [("SQL", "\tSELECT 1")]),
        ("SQL > # to come\n  x", [("SQL", "  x")]),
        ("DESCRIPTION >\n    INCLUDE is a word", [("DESCRIPTION", "    INCLUDE is a word")]),
        ("DESCRIPTION > begins here\n  ends", [("DESCRIPTION", "begins here\n  ends")]),
        ("SQL >\n  a\nincludes", [("SQL", "  a\nincludes")]),
    ],
)
def test_commands_and_values_are_read(text: str, expected: list[tuple[str, str]]) -> None:
    assert pairs(text) == expected


@pytest.mark.parametrize(
    ("text", "commands", "codes"),
    [
        ("NODE >\n  a\nTYPE b", ["TYPE"], ["block_not_allowed"]),
        ("SQL SELECT 1", [], ["block_required"]),
        ("SQL > SELECT 1", ["SQL"], ["text_after_block"]),
        ("SQL>\n  a\nNODE b", ["SQL", "NODE"], ["unknown_command"]),
        ("foo\nbar\nbaz\nNODE a", ["NODE"], ["unknown_command"]),
        ("TYPO a\nTIPE b", ["TYPE", "TYPE"], ["unknown_command", "unknown_command"]),
        ("SQL >\n  a\nINCLUDE x\nNODE b", ["SQL", "NODE"], ["command_not_allowed"]),
        ("include x", [], ["command_not_allowed"]),
        (
            "DESCRIPTION >\n  a\nNODES >\n  b",
            ["DESCRIPTION"],
            ["block_not_allowed", "unknown_command"],
        ),
    ],
)
def test_what_is_wrong_is_reported_and_the_rest_is_read(
    text: str, commands: list[str], codes: list[str]
) -> None:
    found, reported = read(text)
    assert [i.command for i in found] == commands
    assert sorted(reported) == codes


def test_a_command_at_the_end_of_a_description_is_read_as_a_command() -> None:
    for text in ("DESCRIPTION >\n  Text. NODE a\nTYPE b", "DESCRIPTION Text. NODE a\nTYPE b"):
        found, codes = read(text)
        assert [(i.command, i.value.strip()) for i in found] == [
            ("DESCRIPTION", "Text."),
            ("NODE", "a"),
            ("TYPE", "b"),
        ]
        assert codes == ["flattened_line"]
        assert text.split("\n")[found[1].span.line - 1][found[1].span.column - 1 :] == "NODE a"


def test_values_know_their_place() -> None:
    found, _ = read('\n  NODE   "a b"\nSQL >\n    SELECT\n\n      1')
    assert (found[0].span.line, found[0].span.column) == (2, 3)
    assert found[0].body.start.column == 11
    one = found[1].body.span(found[1].value.index("1"))
    assert (one.line, one.column) == (6, 7)
