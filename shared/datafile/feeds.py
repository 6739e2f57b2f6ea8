"""Where a data source gets its rows from besides HTTP: the KAFKA_* and IMPORT_* lines."""

from __future__ import annotations

from collections.abc import Mapping

from shared.datafile.diagnostics import Diagnostics
from shared.datafile.fields import require_value
from shared.datafile.lexer import Instruction
from shared.model.resources import KafkaSource
from shared.model.workspace import did_you_mean

_KAFKA_REQUIRED = ("KAFKA_CONNECTION_NAME", "KAFKA_TOPIC", "KAFKA_GROUP_ID")
KAFKA_COMMANDS = (
    *_KAFKA_REQUIRED,
    *("KAFKA_AUTO_OFFSET_RESET", "KAFKA_STORE_RAW_VALUE", "KAFKA_STORE_HEADERS"),
    *("KAFKA_KEY_FORMAT", "KAFKA_VALUE_FORMAT"),
)
_IMPORT_BUCKET = ("IMPORT_CONNECTION_NAME", "IMPORT_BUCKET_URI", "IMPORT_SCHEDULE")
_IMPORT_OTHER = (
    *("IMPORT_TABLE_ARN", "IMPORT_EXPORT_BUCKET", "IMPORT_QUERY"),
    *("PG_CONNECTION_NAME", "PG_TABLE"),
)
IMPORT_COMMANDS = (*_IMPORT_BUCKET, *_IMPORT_OTHER, "IMPORT_FORMAT", "IMPORT_FROM_TIMESTAMP")
_IMPORT_CHOICES = {
    "IMPORT_SCHEDULE": ("@auto", "@on-demand", "@once"),
    "IMPORT_FORMAT": ("csv", "ndjson", "parquet"),
}
_OFFSET_RESETS = ("earliest", "latest", "error")
# What is read, whatever the line says.
_READ_AS = {
    "KAFKA_KEY_FORMAT": ("string", "text"),
    "KAFKA_VALUE_FORMAT": ("json_without_schema", "JSON"),
}


def parse_kafka(
    last: Mapping[str, Instruction], values: Mapping[str, str], diagnostics: Diagnostics
) -> KafkaSource | None:
    """The Kafka source of a data source; None where it has none, or where it was reported."""
    given = [c for c in KAFKA_COMMANDS if c in last]
    if not given:
        return None
    missing = [c for c in _KAFKA_REQUIRED if c not in last]
    if missing:
        diagnostics.error(
            "missing_kafka_setting",
            f"Kafka needs {', '.join(missing)} too.",
            last[given[0]].span,
            f"Give all of {', '.join(_KAFKA_REQUIRED)}, or none.",
        )
        return None
    for command in _KAFKA_REQUIRED:
        require_value(last[command], values[command], diagnostics)
    for command, (known, form) in _READ_AS.items():
        if values.get(command, known).lower() != known:
            diagnostics.warning(
                "bad_option",
                f"{command} is '{values[command][:40]}', which is not decoded: it is read as"
                f" {form}.",
                last[command].body.start,
                f"Only {known} is supported.",
            )
    reset = values.get("KAFKA_AUTO_OFFSET_RESET", "latest").lower()
    reset = "error" if reset == "none" else reset
    if reset not in _OFFSET_RESETS:
        diagnostics.warning(
            "bad_option",
            f"KAFKA_AUTO_OFFSET_RESET is '{reset[:40]}', latest is used.",
            last["KAFKA_AUTO_OFFSET_RESET"].body.start,
            did_you_mean(reset, _OFFSET_RESETS) or f"Known: {', '.join(_OFFSET_RESETS)}.",
        )
        reset = "latest"
    return KafkaSource(
        connection=values["KAFKA_CONNECTION_NAME"],
        topic=values["KAFKA_TOPIC"],
        group_id=values["KAFKA_GROUP_ID"],
        auto_offset_reset=reset,
        store_raw_value=_flag("KAFKA_STORE_RAW_VALUE", last, values, diagnostics),
        store_headers=_flag("KAFKA_STORE_HEADERS", last, values, diagnostics),
        key_format=values.get("KAFKA_KEY_FORMAT", "string").lower(),
        value_format=values.get("KAFKA_VALUE_FORMAT", "json_without_schema").lower(),
    )


def _flag(
    command: str,
    last: Mapping[str, Instruction],
    values: Mapping[str, str],
    diagnostics: Diagnostics,
) -> bool:
    value = values.get(command, "false").lower()
    if value not in ("true", "false", "1", "0", "yes", "no"):
        message = f"{command} is '{value[:40]}', false is used."
        span = last[command].body.start
        diagnostics.warning("bad_option", message, span, "Write true or false.")
    return value in ("true", "1", "yes")


def parse_imports(
    last: Mapping[str, Instruction], values: Mapping[str, str], diagnostics: Diagnostics
) -> tuple[tuple[str, str], ...]:
    """The import settings by command, empty where there are none."""
    found = {command: values[command] for command in IMPORT_COMMANDS if command in values}
    if not found:
        return ()
    if "PG_CONNECTION_NAME" in found:
        missing = []
    elif any(command in found for command in _IMPORT_OTHER):
        missing = [c for c in _IMPORT_BUCKET[:1] if c not in found]
    else:
        missing = [c for c in _IMPORT_BUCKET if c not in found]
    if missing:
        message = f"An import needs {', '.join(missing)} too."
        diagnostics.error("bad_import", message, last[next(iter(found))].span)
    for command, known in _IMPORT_CHOICES.items():
        value = found.get(command, known[0]).lower()
        if value not in known:
            diagnostics.error(
                "bad_import",
                f"'{value[:40]}' is not a value of {command}.",
                last[command].body.start,
                f"Only {', '.join(known)}.",
            )
        elif command in found:
            found[command] = value
    return tuple(found.items())
