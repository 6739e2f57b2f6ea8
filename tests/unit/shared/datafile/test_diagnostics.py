from __future__ import annotations

from shared.datafile.diagnostics import Diagnostics, datafile_error
from shared.datafile.source import source_file
from shared.errors import DatafileError
from shared.model.resources import Span


def test_a_diagnostic_shows_place_excerpt_caret_and_hint() -> None:
    diagnostics = Diagnostics()
    diagnostics.add_source(source_file("a.pipe", "one\ntwo\n\tthree four\n"))
    diagnostics.error("bad_type", "No.", Span("a.pipe", 3, 8), "Try yes.")
    assert diagnostics.sorted()[0].render().split("\n") == [
        "a.pipe:3:8: error: No. [bad_type]",
        "  1 | one",
        "  2 | two",
        "  3 | \tthree four",
        "    | \t      ^",
        "  Try yes.",
    ]


def test_a_file_that_was_never_read_has_no_excerpt() -> None:
    diagnostics = Diagnostics()
    diagnostics.warning("not_utf8", "No.", Span("a.pipe", 3, 8))
    assert diagnostics.sorted()[0].render() == "a.pipe:3:8: warning: No. [not_utf8]"


def test_diagnostics_come_by_place_and_each_once() -> None:
    diagnostics = Diagnostics()
    for path, line in (("b", 1), ("a", 10), ("a", 2), ("a", 2)):
        diagnostics.error("bad_type", "No.", Span(path, line))
    assert [(d.span.path, d.span.line) for d in diagnostics.sorted()] == [
        ("a", 2),
        ("a", 10),
        ("b", 1),
    ]


def test_mistakes_become_one_error_that_lists_all_of_them() -> None:
    diagnostics = Diagnostics()
    diagnostics.warning("bad_option", "Hm.", Span("a", 1))
    assert datafile_error(diagnostics.sorted()) is None
    diagnostics.error("bad_type", "No.", Span("a", 2, 3), "Hint.")
    diagnostics.error("bad_name", "Nor this.", Span("b", 1))
    error = datafile_error(diagnostics.sorted())
    assert isinstance(error, DatafileError)
    assert error.message == "a:2:3: No. And 1 more."
    assert error.errors == (
        {
            "filename": "a",
            "line": 2,
            "column": 3,
            "code": "bad_type",
            "error": "No.",
            "hint": "Hint.",
        },
        {
            "filename": "b",
            "line": 1,
            "column": 1,
            "code": "bad_name",
            "error": "Nor this.",
            "hint": None,
        },
    )
