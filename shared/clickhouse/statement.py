"""A ``Statement`` as the text, settings and parameters that an engine takes; pure."""

from __future__ import annotations

from shared.clickhouse.contract import SettingValue, Statement
from shared.clickhouse.profile import limit_settings
from shared.clickhouse.sql import encode_parameter, is_identifier
from shared.errors import QueryError

# What a query without a FORMAT of its own answers in, as a server's HTTP interface does.
DEFAULT_FORMAT = "TabSeparated"


def body_of(statement: Statement) -> str:
    """The text, ready for clauses to be put behind it on a line of their own."""
    return statement.sql.rstrip(" \t\r\n;")


def output_format_of(statement: Statement) -> str:
    """The output format.

    Raises:
        QueryError: The name is not one.
    """
    output_format = statement.format or DEFAULT_FORMAT
    if not is_identifier(output_format):
        raise QueryError(f"'{output_format}' is not an output format.")
    return output_format


def settings_of(statement: Statement, marker: str = "") -> dict[str, SettingValue]:
    """Settings, limits and, as ``log_comment``, the tag with the marker behind it."""
    settings = {**statement.settings, **limit_settings(statement.limits)}
    comment = f"{statement.tag} {marker}".strip()
    if comment:
        settings["log_comment"] = comment
    return settings


def parameters_of(statement: Statement) -> dict[str, str]:
    """The parameters in the engine's text form."""
    return {name: encode_parameter(value) for name, value in statement.parameters.items()}
