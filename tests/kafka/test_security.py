"""Logging in over TLS: a second listener of a real broker, with certificates made here."""

from __future__ import annotations

import gc
import ipaddress
import warnings
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from msgspec import Struct

from deploy.kafka.broker import HOST, Broker, Security, open_broker
from ingest.log.kafka import KafkaLog, KafkaLogOptions
from ingest.log.kafka_connection import MECHANISMS, KafkaConnection, named_connection
from ingest.source.kafka import KafkaSource
from shared.errors import ConfigError, LogUnavailableError
from shared.model.resources import Connection
from tests.kafka.rig import QUICK

USER, PASSWORD = "alice", "wonder-land-7"


class Secured(Struct, frozen=True):
    broker: Broker
    ca_pem: str


def _authority() -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test authority")])
    return key, _builder(name, name, key).add_extension(
        x509.BasicConstraints(ca=True, path_length=None), critical=True
    ).sign(key, hashes.SHA256())


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
    )


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    folder: Path = tmp_path_factory.mktemp("kafka")
    authority_key, authority = _authority()
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, HOST)])
    names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(HOST))])
    server = (
        _builder(subject, authority.subject, key)
        .add_extension(names, critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    certificate = folder / "server.pem"
    certificate.write_bytes(private + _pem(server) + _pem(authority))
    try:
        broker = open_broker(
            folder, Security(certificate=certificate, user=USER, password=PASSWORD)
        )
        broker.start()
    except ConfigError as error:
        pytest.skip(f"no Kafka broker to test with: {error}")
    yield Secured(broker, _pem(authority).decode())
    broker.stop()


def connection(secured: Secured, **changes: str) -> KafkaConnection:
    """As a .connection file would name it."""
    given = {
        "KAFKA_BOOTSTRAP_SERVERS": f"{HOST}:{secured.broker.ports.sasl_tls}",
        "KAFKA_KEY": USER,
        "KAFKA_SECRET": PASSWORD,
        "KAFKA_SSL_CA_PEM": secured.ca_pem,
        **changes,
    }
    settings = tuple((key, value) for key, value in given.items() if value)
    return named_connection(Connection(name="cluster", type="kafka", settings=settings))


def quick_log(found: KafkaConnection) -> KafkaLog:
    return KafkaLog(found, KafkaLogOptions(request_timeout_s=5.0))


@pytest.mark.parametrize("mechanism", MECHANISMS)
async def test_records_go_and_come_over_tls_with_a_password(
    secured: Secured, mechanism: str
) -> None:
    found = connection(secured, KAFKA_SASL_MECHANISM=mechanism)
    log = quick_log(found)
    topic = f"secret-{mechanism.lower()}"
    appended = await log.append(topic, [b"a", b"b"])
    source = KafkaSource(found, topic, f"group-{mechanism}", options=QUICK)
    poll = await source.poll(max_rows=1, max_bytes=1, timeout_s=5.0)
    while not poll.assigned:
        poll = await source.poll(max_rows=1, max_bytes=1, timeout_s=5.0)
    (chunk,) = await source.read(appended.partition, appended.first, appended.next)
    assert list(chunk.values) == [b"a", b"b"]
    assert await source.commit(appended.partition, 2, "")
    await source.close()
    await log.close()


async def test_certificates_alone_mean_tls_without_a_password(secured: Secured) -> None:
    found = connection(
        secured,
        KAFKA_KEY="",
        KAFKA_SECRET="",
        KAFKA_BOOTSTRAP_SERVERS=f"{HOST}:{secured.broker.ports.tls}",
    )
    assert found.protocol == "SSL"
    log = quick_log(found)
    assert (await log.append("plain-tls", [b"a"])).first == 0
    await log.close()


@pytest.mark.parametrize(
    "changes",
    [
        {"KAFKA_SECRET": "wrong"},
        {"KAFKA_SSL_CA_PEM": ""},
        {"KAFKA_SASL_MECHANISM": "SCRAM-SHA-256", "KAFKA_KEY": "bob"},
    ],
    ids=["wrong password", "unknown authority", "unknown user"],
)
async def test_what_does_not_fit_is_one_clear_line(
    secured: Secured, changes: dict[str, str]
) -> None:
    log = quick_log(connection(secured, **changes))
    with pytest.raises(LogUnavailableError) as raised:
        await log.append("t", [b"a"])
    assert "\n" not in str(raised.value)
    assert "check KAFKA_KEY, KAFKA_SECRET" in str(raised.value)
    await log.close()
    # The library leaves connections that were refused to the collector, which warns of them.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()
