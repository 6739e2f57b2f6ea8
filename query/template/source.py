"""Where things stand in the SQL of a node, and errors that say so; pure."""

from __future__ import annotations

from shared.errors import TemplateError


class LimitError(TemplateError):
    """A template that asks for more than it may; its own ``{% try %}`` cannot catch it."""


def position(sql: str, offset: int) -> tuple[int, int]:
    """Line and column of a character, both from 1."""
    line = sql.count("\n", 0, offset) + 1
    return line, offset - (sql.rfind("\n", 0, offset) + 1) + 1


def template_error(
    message: str, sql: str, offset: int, *, hint: str | None = None, limit: bool = False
) -> TemplateError:
    """The error for a place in ``sql``; ``errors`` has its line and column."""
    line, column = position(sql, offset)
    return (LimitError if limit else TemplateError)(
        f"{message.rstrip('.')} (line {line}, column {column}).",
        hint=hint,
        errors=[{"line": line, "column": column, "error": message}],
    )
