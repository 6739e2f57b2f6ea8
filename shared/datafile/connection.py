"""A .connection file to a ``Connection``."""

from __future__ import annotations

from collections.abc import Mapping

from shared.datafile.diagnostics import Diagnostics
from shared.datafile.fields import check_resource_name
from shared.datafile.lexer import FileKind, Instruction, Shape, read_instructions
from shared.datafile.quoting import words
from shared.datafile.secrets import resolved
from shared.datafile.source import SourceFile
from shared.model.resources import Connection
from shared.model.workspace import did_you_mean

# One tuple an alternative: a connection needs all settings of one of them.
_NEEDED: dict[str, tuple[tuple[str, ...], ...]] = {
    "kafka": (("KAFKA_BOOTSTRAP_SERVERS",),),
    "s3": (("S3_REGION", "S3_ARN"), ("S3_REGION", "S3_ACCESS_KEY", "S3_SECRET")),
    "gcs": (
        ("GCS_SERVICE_ACCOUNT_CREDENTIALS_JSON",),
        ("GCS_HMAC_ACCESS_ID", "GCS_HMAC_SECRET"),
    ),
    "dynamodb": (("DYNAMODB_ARN", "DYNAMODB_REGION"),),
    "postgres": (("PG_HOST", "PG_DATABASE", "PG_USER", "PG_PASSWORD"),),
    "snowflake": ((),),
    "bigquery": ((),),
}
_ALIASES = {"GCS_ACCESS_ID": "GCS_HMAC_ACCESS_ID", "GCS_SECRET": "GCS_HMAC_SECRET"}
_UPPER = frozenset({"KAFKA_SECURITY_PROTOCOL", "KAFKA_SASL_MECHANISM"})
_CHOICES = {
    "KAFKA_SECURITY_PROTOCOL": ("SASL_SSL", "SASL_PLAINTEXT", "PLAINTEXT", "SSL"),
    "KAFKA_SASL_MECHANISM": ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"),
}
_LINES: dict[str, Shape] = dict.fromkeys(
    (
        *("TYPE", "VERSION", "KAFKA_KEY", "KAFKA_SECRET", "KAFKA_SECURITY_PROTOCOL"),
        *("KAFKA_BOOTSTRAP_SERVERS", "KAFKA_SASL_MECHANISM", "KAFKA_SCHEMA_REGISTRY_URL"),
        *(f"KAFKA_SASL_OAUTHBEARER_{name}" for name in ("METHOD", "AWS_REGION")),
        *(f"KAFKA_SASL_OAUTHBEARER_AWS_{name}" for name in ("ROLE_ARN", "EXTERNAL_ID")),
        *("S3_REGION", "S3_ARN", "S3_ACCESS_KEY", "S3_SECRET"),
        *("GCS_SERVICE_ACCOUNT_CREDENTIALS_JSON", "GCS_HMAC_ACCESS_ID", "GCS_HMAC_SECRET"),
        *_ALIASES,
        *("DYNAMODB_ARN", "DYNAMODB_REGION"),
        *(f"PG_{name}" for name in ("HOST", "PORT", "DATABASE", "USER", "PASSWORD", "SSL_MODE")),
    ),
    "line",
)

KIND = FileKind(
    name="connection",
    commands={**_LINES, "DESCRIPTION": "either", "KAFKA_SSL_CA_PEM": "either"},
    refused={
        "INCLUDE": "Write the lines themselves.",
        "KAFKA_KEY_AVRO_DESERIALIZATION": "Use KAFKA_KEY_FORMAT in the .datasource file.",
    },
)


def parse_connection(
    source: SourceFile, diagnostics: Diagnostics, secrets: Mapping[str, str] | None = None
) -> Connection | None:
    """The connection of a file; None where it has mistakes.

    Args:
        source: The file; its stem is the name.
        diagnostics: Where everything found is reported.
        secrets: What ``tb_secret`` finds, by name.
    """
    diagnostics.add_source(source)
    check_resource_name(source, diagnostics)
    settings: dict[str, str] = {}
    type_ = ""
    opening: Instruction | None = None
    for instruction in read_instructions(source, KIND, diagnostics):
        command = _ALIASES.get(instruction.command, instruction.command)
        if command == "TYPE":
            opening = instruction
            type_ = (words(instruction.value) or ("",))[0].lower()
        elif command == "VERSION":
            message = "VERSION has no effect."
            diagnostics.warning("version_ignored", message, instruction.span)
        elif command != "DESCRIPTION":
            value = resolved(instruction, secrets or {}, diagnostics)
            settings[command] = _normalised(command, value, instruction, diagnostics)
    _check(source, opening, type_, settings, diagnostics)
    if diagnostics.error_count(source.path):
        return None
    return Connection(
        name=source.stem, type=type_, settings=tuple(settings.items()), span=source.span()
    )


def _normalised(
    command: str, value: str, instruction: Instruction, diagnostics: Diagnostics
) -> str:
    if command == "KAFKA_SSL_CA_PEM":
        return "\n".join(line.strip() for line in value.split("\n") if line.strip())
    value = value.partition(" -- ")[0].strip() if command.startswith("KAFKA_") else value
    value = value.upper() if command in _UPPER else value
    known = _CHOICES.get(command)
    if known is not None and value not in known and "{{" not in value:
        diagnostics.error(
            "bad_option",
            f"'{value[:40]}' is not a value of {command}.",
            instruction.body.start,
            did_you_mean(value, known) or f"Known: {', '.join(known)}.",
        )
    return value


def _check(
    source: SourceFile,
    opening: Instruction | None,
    type_: str,
    settings: Mapping[str, str],
    diagnostics: Diagnostics,
) -> None:
    if type_ not in _NEEDED:
        diagnostics.error(
            "bad_connection_type",
            f"Unknown connection type '{type_[:40]}'." if opening else "TYPE is missing.",
            opening.body.start if opening else source.span(),
            did_you_mean(type_, _NEEDED) or f"Known: {', '.join(_NEEDED)}.",
        )
        return
    alternatives = _NEEDED[type_]
    missing = [[name for name in names if not settings.get(name)] for names in alternatives]
    if all(missing) and opening is not None:
        # What is begun is what was meant.
        given = [sum(name in settings for name in names) for names in alternatives]
        shortest = missing[given.index(max(given))]
        diagnostics.error(
            "missing_connection_setting",
            f"A connection of type {type_} needs {' and '.join(shortest)}.",
            opening.span,
        )
