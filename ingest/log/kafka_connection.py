"""How a Kafka cluster is reached: addresses, TLS and login, from settings or a .connection file."""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping
from typing import Any

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaConnectionError, NodeNotReadyError
from msgspec import Struct

from shared.errors import ConfigError, LogUnavailableError
from shared.model.resources import Connection

MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
PROTOCOLS = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")
_CLIENT_ID = "pipehouse"


class KafkaConnection(Struct, frozen=True, kw_only=True):
    """A cluster, and who we are to it. ``ca_pem`` are the certificates trusted for TLS.

    Without ``ca_pem`` those that the system trusts are.
    """

    bootstrap_servers: str
    protocol: str = "PLAINTEXT"
    mechanism: str = "PLAIN"
    user: str = ""
    password: str = ""
    ca_pem: str = ""

    def __repr__(self) -> str:
        return f"KafkaConnection({self.bootstrap_servers}, {self.protocol})"

    def failure(self, what: str, error: BaseException) -> LogUnavailableError:
        """What went wrong with the cluster, in one line.

        Args:
            what: The sentence before the reason.
            error: What the library raised; it does not tell why a broker hung up on us.
        """
        reason = named(error)
        hint = None
        if isinstance(error, KafkaConnectionError | NodeNotReadyError):
            reason = f"no connection to {self.bootstrap_servers}"
            if self.protocol != "PLAINTEXT":
                hint = (
                    f"It has to listen for {self.protocol}; check KAFKA_KEY, KAFKA_SECRET,"
                    " KAFKA_SASL_MECHANISM and KAFKA_SSL_CA_PEM."
                )
        elif isinstance(error, TimeoutError):
            reason = f"no answer from {self.bootstrap_servers} in time"
        return LogUnavailableError(f"{what}: {reason}.", hint=hint)

    def client_options(self) -> dict[str, Any]:
        """What every client of aiokafka is made with."""
        options: dict[str, Any] = {
            "bootstrap_servers": self.bootstrap_servers,
            "client_id": _CLIENT_ID,
            "security_protocol": self.protocol,
        }
        if self.protocol.endswith("SSL"):
            options["ssl_context"] = _ssl_context(self.ca_pem)
        if self.protocol.startswith("SASL_"):
            options["sasl_mechanism"] = self.mechanism
            options["sasl_plain_username"] = self.user
            options["sasl_plain_password"] = self.password
        return options


def _ssl_context(ca_pem: str) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cadata=ca_pem or None)
    except ssl.SSLError as error:
        raise ConfigError(
            "KAFKA_SSL_CA_PEM is not a certificate in PEM form.",
            hint="It begins with -----BEGIN CERTIFICATE-----.",
        ) from error


def plain_connection(bootstrap_servers: str) -> KafkaConnection:
    """The cluster of PIPEHOUSE_KAFKA_BOOTSTRAP_SERVERS.

    Raises:
        ConfigError: It is not a list of host:port.
    """
    where = "PIPEHOUSE_KAFKA_BOOTSTRAP_SERVERS"
    return KafkaConnection(bootstrap_servers=_servers(bootstrap_servers, where))


def named_connection(connection: Connection) -> KafkaConnection:
    """The cluster of a .connection file of type kafka.

    Where the file names no protocol, a user means SASL_SSL, certificates alone mean SSL, and
    neither PLAINTEXT.

    Raises:
        ConfigError: It is of another type, or asks for what is not supported.
    """
    where = f"Connection '{connection.name}'"
    if connection.type != "kafka":
        raise ConfigError(f"{where} is of type {connection.type}, not kafka.")
    given = dict(connection.settings)
    mechanism = given.get("KAFKA_SASL_MECHANISM") or "PLAIN"
    protocol = given.get("KAFKA_SECURITY_PROTOCOL") or _default_protocol(given)
    if protocol not in PROTOCOLS:
        raise ConfigError(f"{where}: KAFKA_SECURITY_PROTOCOL is one of {', '.join(PROTOCOLS)}.")
    if protocol.startswith("SASL_"):
        if mechanism not in MECHANISMS:
            raise ConfigError(
                f"{where}: KAFKA_SASL_MECHANISM {mechanism} is not supported.",
                hint=f"Use one of {', '.join(MECHANISMS)}.",
            )
        if not given.get("KAFKA_KEY") or not given.get("KAFKA_SECRET"):
            raise ConfigError(f"{where}: {protocol} needs KAFKA_KEY and KAFKA_SECRET.")
    return KafkaConnection(
        bootstrap_servers=_servers(given.get("KAFKA_BOOTSTRAP_SERVERS", ""), where),
        protocol=protocol,
        mechanism=mechanism,
        user=given.get("KAFKA_KEY", ""),
        password=given.get("KAFKA_SECRET", ""),
        ca_pem=given.get("KAFKA_SSL_CA_PEM", ""),
    )


def _default_protocol(given: Mapping[str, str]) -> str:
    if given.get("KAFKA_KEY"):
        return "SASL_SSL"
    return "SSL" if given.get("KAFKA_SSL_CA_PEM") else "PLAINTEXT"


def _servers(text: str, where: str) -> str:
    """The list without white space.

    Raises:
        ConfigError: An entry is not host:port.
    """
    servers = [part.strip() for part in text.split(",") if part.strip()]
    for server in servers:
        host, _, port = server.rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 65_536:
            raise ConfigError(f"{where}: '{server[:80]}' is not host:port.")
    if not servers:
        raise ConfigError(f"{where} names no Kafka server.")
    return ",".join(servers)


async def start_reader(connection: KafkaConnection, options: Mapping[str, Any]) -> AIOKafkaConsumer:
    """A connected consumer that belongs to no group and commits nothing.

    Args:
        connection: The cluster.
        options: How records are fetched; see ``ingest/source/kafka_options.py``.

    Raises:
        KafkaError: The cluster does not answer.
    """
    consumer = AIOKafkaConsumer(
        group_id=None, enable_auto_commit=False, **connection.client_options(), **options
    )
    try:
        await consumer.start()
    except BaseException:
        await consumer.stop()
        raise
    return consumer


def named(error: BaseException) -> str:
    """The name and the text of an error in one line; the library's own text names itself too."""
    name = type(error).__name__
    text = re.sub(rf"\A(?:\[Error -?\d+\] )?{name}\b:?", "", str(error))
    return " ".join(f"{name} {text}".split()).rstrip(".")
