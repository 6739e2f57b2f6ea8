"""The formats of answers: the ending of the URL, ClickHouse's format, the media type."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from shared.errors import BadRequestError, NotFoundError, ParameterError
from shared.model.workspace import did_you_mean


class OutputFormat(Struct, frozen=True):
    """One ending of an endpoint's URL; a format that is packed already is not compressed again."""

    ending: str
    clickhouse: str
    media_type: str
    is_packed: bool = False


FORMATS = {
    f.ending: f
    for f in (
        OutputFormat("json", "JSON", "application/json; charset=utf-8"),
        OutputFormat("csv", "CSVWithNames", "text/csv; charset=utf-8"),
        OutputFormat("csvwithnames", "CSVWithNames", "text/csv; charset=utf-8"),
        OutputFormat("ndjson", "JSONEachRow", "application/x-ndjson; charset=utf-8"),
        OutputFormat("parquet", "Parquet", "application/vnd.apache.parquet", is_packed=True),
        OutputFormat("prometheus", "Prometheus", "text/plain; version=0.0.4; charset=utf-8"),
    )
}

# What clients send along to shape the answer; all of them are switches.
OUTPUT_SETTINGS = frozenset(
    {
        "output_format_json_quote_64bit_integers",
        "output_format_json_quote_denormals",
        "output_format_parquet_string_as_string",
    }
)
_ON, _OFF = frozenset({"1", "true"}), frozenset({"0", "false"})

# What free SQL may end with, and how it is announced; plain text for everything else.
_SQL_MEDIA_TYPES = {
    "JSON": "application/json; charset=utf-8",
    "JSONStrings": "application/json; charset=utf-8",
    "JSONCompact": "application/json; charset=utf-8",
    "JSONEachRow": "application/x-ndjson; charset=utf-8",
    "JSONCompactEachRow": "application/x-ndjson; charset=utf-8",
    "JSONCompactEachRowWithNames": "application/x-ndjson; charset=utf-8",
    "JSONCompactEachRowWithNamesAndTypes": "application/x-ndjson; charset=utf-8",
    "JSONStringsEachRowWithProgress": "application/x-ndjson; charset=utf-8",
    "CSV": "text/csv; charset=utf-8",
    "CSVWithNames": "text/csv; charset=utf-8",
    "TSV": "text/plain",
    "TSVWithNames": "text/plain",
    "TSVWithNamesAndTypes": "text/plain",
    "TabSeparated": "text/plain",
    "TabSeparatedWithNames": "text/plain",
    "TabSeparatedWithNamesAndTypes": "text/plain",
    "Pretty": "text/plain",
    "PrettyCompact": "text/plain",
    "Vertical": "text/plain",
    "Markdown": "text/plain",
    "Parquet": "application/vnd.apache.parquet",
    "Prometheus": "text/plain; version=0.0.4; charset=utf-8",
    "Native": "application/octet-stream",
    "RowBinary": "application/octet-stream",
    "RowBinaryWithNamesAndTypes": "application/octet-stream",
    "ODBCDriver2": "application/octet-stream",
}
_SQL_FORMATS = {name.lower(): name for name in _SQL_MEDIA_TYPES}

DEFAULT_SQL_FORMAT = "TSV"


def split_name(name: str) -> tuple[str, OutputFormat]:
    """``top_pages.json`` as pipe name and format.

    Raises:
        NotFoundError: No ending, or one we do not know.
    """
    pipe, dot, ending = name.rpartition(".")
    if not dot:
        raise NotFoundError(
            f"'{name}' names no format.", hint=f"Ask for '{name or '<pipe>'}.json', for instance."
        )
    found = FORMATS.get(ending.lower())
    if found is None:
        known = ", ".join("." + known for known in FORMATS)
        raise NotFoundError(
            f"'.{ending}' is not a format of endpoints.",
            hint=did_you_mean(ending, FORMATS) or f"Known: {known}.",
        )
    return pipe, found


def output_settings(arguments: Mapping[str, object]) -> dict[str, int]:
    """The output settings among the arguments of a request.

    Raises:
        ParameterError: One is neither on nor off.
    """
    chosen: dict[str, int] = {}
    for name in OUTPUT_SETTINGS & arguments.keys():
        value = str(arguments[name]).lower()
        if value not in _ON and value not in _OFF:
            text = f"'{name}' is '{arguments[name]}', expected 0 or 1."
            raise ParameterError(text, errors=[{"parameter": name, "error": text}])
        chosen[name] = int(value in _ON)
    return chosen


def sql_format(name: str) -> tuple[str, str]:
    """ClickHouse's spelling of the format of a FORMAT clause, and its media type.

    Raises:
        BadRequestError: It is not offered; the hint names the near miss.
    """
    known = _SQL_FORMATS.get(name.lower())
    if known is None:
        raise BadRequestError(
            f"FORMAT {name} is not offered.",
            hint=did_you_mean(name, _SQL_MEDIA_TYPES) or f"Known: {', '.join(_SQL_MEDIA_TYPES)}.",
        )
    return known, _SQL_MEDIA_TYPES[known]
