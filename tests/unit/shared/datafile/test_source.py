from __future__ import annotations

from shared.datafile.source import Piece, mapped_text, source_file
from shared.model.resources import Span


def test_byte_order_mark_and_carriage_returns_are_cut() -> None:
    source = source_file("a/b.pipe", "\ufeffNODE x\r\nSQL >\r\n  SELECT 1\n")
    assert source.lines == ("NODE x", "SQL >", "  SELECT 1", "")
    assert (source.stem, source.kind) == ("b", "pipe")


def test_only_newlines_end_lines() -> None:
    assert source_file("a.pipe", "a\u2028b\x0cc\x85d").lines == ("a\u2028b\x0cc\x85d",)


def test_an_offset_leads_back_to_its_line_and_column() -> None:
    text = mapped_text("f", [Piece(3, 5, "abc"), Piece(7, 1, ""), Piece(9, 2, "de")])
    assert text.text == "abc\n\nde"
    assert [text.span(i) for i in (0, 2, 3, 4, 5, 6, 7, 99)] == [
        Span("f", 3, 5),
        Span("f", 3, 7),
        Span("f", 3, 8),
        Span("f", 7, 1),
        Span("f", 9, 2),
        Span("f", 9, 3),
        Span("f", 9, 4),
        Span("f", 9, 4),
    ]


def test_a_text_without_pieces_lies_at_the_start_of_its_file() -> None:
    assert mapped_text("f", []).span(3) == Span("f", 1, 1)
