from __future__ import annotations

import pytest

from shared.datafile.connection import parse_connection
from shared.datafile.diagnostics import Diagnostics
from shared.datafile.source import source_file
from shared.model.resources import Connection


def parse(text: str, **secrets: str) -> tuple[Connection | None, list[str]]:
    diagnostics = Diagnostics()
    parsed = parse_connection(source_file("c.connection", text), diagnostics, secrets)
    return parsed, [d.code for d in diagnostics.sorted()]


def test_a_kafka_connection_is_read_with_its_secrets() -> None:
    parsed, codes = parse(
        "TYPE Kafka\nKAFKA_BOOTSTRAP_SERVERS a:1,b:2 -- both\nKAFKA_KEY {{ tb_secret('KEY') }}\n"
        'KAFKA_SECRET {{tb_secret("SECRET", "a # b")}}\nKAFKA_SECURITY_PROTOCOL sasl_plaintext\n'
        "KAFKA_SASL_MECHANISM Plain\nKAFKA_SSL_CA_PEM >\n    -----BEGIN\n    abc\n    -----END\n",
        KEY="$KEY",
    )
    assert codes == []
    assert parsed is not None
    assert (parsed.name, parsed.type) == ("c", "kafka")
    assert dict(parsed.settings) == {
        "KAFKA_BOOTSTRAP_SERVERS": "a:1,b:2",
        "KAFKA_KEY": "$KEY",
        "KAFKA_SECRET": "a # b",
        "KAFKA_SECURITY_PROTOCOL": "SASL_PLAINTEXT",
        "KAFKA_SASL_MECHANISM": "PLAIN",
        "KAFKA_SSL_CA_PEM": "-----BEGIN\nabc\n-----END",
    }


@pytest.mark.parametrize(
    ("text", "codes"),
    [
        ("TYPE s3\nS3_REGION r\nS3_ARN a", []),
        ("TYPE s3\nS3_REGION r\nS3_ACCESS_KEY k\nS3_SECRET s", []),
        ("TYPE s3\nS3_REGION r\nS3_SECRET s", ["missing_connection_setting"]),
        ("TYPE gcs\nGCS_ACCESS_ID a\nGCS_SECRET s", []),
        ("TYPE kafka", ["missing_connection_setting"]),
        ("TYPE dynamodb\nDYNAMODB_ARN a\nDYNAMODB_REGION r", []),
        ("TYPE carrier_pigeon", ["bad_connection_type"]),
        ("", ["bad_connection_type"]),
    ],
)
def test_each_type_needs_its_settings(text: str, codes: list[str]) -> None:
    assert parse(text)[1] == codes


def test_the_secret_itself_is_never_shown() -> None:
    diagnostics = Diagnostics()
    text = 'TYPE kafka\nKAFKA_BOOTSTRAP_SERVERS a:1\nKAFKA_SECRET {{ tb_secret("S") }}\nFOO 1\n'
    parse_connection(source_file("c.connection", text), diagnostics, {"S": "hunter2"})
    assert all("hunter2" not in d.render() for d in diagnostics.sorted())
    assert len(diagnostics.sorted()) == 1
