"""Quoting: the only module that turns a name or a value into SQL text.

Values of callers never come here: they are bindings (``encode_parameter``) and travel beside the
text. ``literal`` is for our own statements.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

ParameterValue = str | int | float | bool | None | Sequence["ParameterValue"]

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_ESCAPES = str.maketrans(
    {
        "\\": "\\\\",
        "\t": "\\t",
        "\n": "\\n",
        "\r": "\\r",
        "\0": "\\0",
        "'": "\\'",
        "\b": "\\b",
        "\f": "\\f",
    }
)


def is_identifier(name: str) -> bool:
    """Whether the name needs no quotes."""
    return _IDENTIFIER.match(name) is not None


def quote_identifier(name: str) -> str:
    """The name in backticks, escaped."""
    return "`" + name.replace("\\", "\\\\").replace("`", "\\`") + "`"


def quote_table(database: str, table: str) -> str:
    """A table with its database, both quoted."""
    return f"{quote_identifier(database)}.{quote_identifier(table)}"


def literal(value: str | int) -> str:
    """A string or number as SQL text."""
    if isinstance(value, int):
        return str(int(value))
    return "'" + value.translate(_ESCAPES) + "'"


def encode_parameter(value: ParameterValue) -> str:
    r"""The text form in which a query parameter is sent, beside the SQL.

    ClickHouse reads parameter values TSV-escaped; NULL is ``\N``, items of lists are quoted here.
    Booleans become ``1`` and ``0``, which every numeric type and Bool accept.
    """
    if value is None:
        return "\\N"
    if isinstance(value, bool):
        return "1" if value else "0"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str):
        return value.translate(_ESCAPES)
    # The strings of a list are escaped as literals; the engine undoes that once, not twice.
    return _array_text(value)


def _array_text(values: Sequence[ParameterValue]) -> str:
    return "[" + ",".join(_item_text(value) for value in values) + "]"


def _item_text(value: ParameterValue) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, bool | int | float):
        return encode_parameter(value)
    if isinstance(value, str):
        return literal(value)
    return _array_text(value)
