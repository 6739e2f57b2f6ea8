"""The formats of answers: the ending of the URL, ClickHouse's format, the media type."""

from __future__ import annotations

from msgspec import Struct

from shared.errors import NotFoundError
from shared.model.workspace import did_you_mean


class OutputFormat(Struct, frozen=True):
    """One ending of an endpoint's URL."""

    ending: str
    clickhouse: str
    media_type: str


FORMATS = {
    f.ending: f
    for f in (
        OutputFormat("json", "JSON", "application/json; charset=utf-8"),
        OutputFormat("csv", "CSVWithNames", "text/csv; charset=utf-8"),
        OutputFormat("ndjson", "JSONEachRow", "application/x-ndjson; charset=utf-8"),
        OutputFormat("parquet", "Parquet", "application/vnd.apache.parquet"),
    )
}

# What free SQL may end with, and how it is announced; plain text for everything else.
_SQL_MEDIA_TYPES = {
    "JSON": "application/json; charset=utf-8",
    "JSONStrings": "application/json; charset=utf-8",
    "JSONCompact": "application/json; charset=utf-8",
    "JSONEachRow": "application/x-ndjson; charset=utf-8",
    "JSONCompactEachRow": "application/x-ndjson; charset=utf-8",
    "JSONCompactEachRowWithNamesAndTypes": "application/x-ndjson; charset=utf-8",
    "JSONStringsEachRowWithProgress": "application/x-ndjson; charset=utf-8",
    "CSV": "text/csv; charset=utf-8",
    "CSVWithNames": "text/csv; charset=utf-8",
    "TSV": "text/plain",
    "TSVWithNames": "text/plain",
    "TabSeparated": "text/plain",
    "TabSeparatedWithNamesAndTypes": "text/plain",
    "PrettyCompact": "text/plain",
    "Markdown": "text/plain",
    "Parquet": "application/vnd.apache.parquet",
    "Native": "application/octet-stream",
    "RowBinaryWithNamesAndTypes": "application/octet-stream",
}

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


def sql_media_type(clickhouse_format: str) -> str | None:
    """The media type of a FORMAT clause, None for a format that is not offered."""
    return _SQL_MEDIA_TYPES.get(clickhouse_format)
