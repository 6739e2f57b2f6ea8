"""What a .connection file or a setting says of a Kafka cluster."""

from __future__ import annotations

import pytest
from aiokafka.errors import (
    KafkaConnectionError,
    KafkaError,
    NodeNotReadyError,
    TopicAuthorizationFailedError,
)

from ingest.log.kafka_connection import named, named_connection, plain_connection
from shared.errors import ConfigError
from shared.model.resources import Connection


def connection(**settings: str) -> Connection:
    given = {"KAFKA_BOOTSTRAP_SERVERS": "a:9092", **settings}
    return Connection(name="cluster", type="kafka", settings=tuple(given.items()))


@pytest.mark.parametrize(
    ("settings", "protocol"),
    [
        ({}, "PLAINTEXT"),
        ({"KAFKA_KEY": "u", "KAFKA_SECRET": "p"}, "SASL_SSL"),
        ({"KAFKA_SSL_CA_PEM": "x"}, "SSL"),
        (
            {"KAFKA_KEY": "u", "KAFKA_SECRET": "p", "KAFKA_SECURITY_PROTOCOL": "SASL_PLAINTEXT"},
            "SASL_PLAINTEXT",
        ),
    ],
)
def test_the_protocol_follows_from_what_is_given(settings: dict[str, str], protocol: str) -> None:
    assert named_connection(connection(**settings)).protocol == protocol


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"KAFKA_SECURITY_PROTOCOL": "SASL_SSL"}, "needs KAFKA_KEY and KAFKA_SECRET"),
        (
            {"KAFKA_KEY": "u", "KAFKA_SECRET": "p", "KAFKA_SASL_MECHANISM": "OAUTHBEARER"},
            "OAUTHBEARER is not supported",
        ),
        ({"KAFKA_BOOTSTRAP_SERVERS": "a"}, "'a' is not host:port"),
        ({"KAFKA_BOOTSTRAP_SERVERS": ""}, "names no Kafka server"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_connection(
    settings: dict[str, str], words: str
) -> None:
    with pytest.raises(ConfigError, match=words) as raised:
        named_connection(connection(**settings))
    assert "cluster" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_connection_of_another_kind_is_refused() -> None:
    with pytest.raises(ConfigError, match="not kafka"):
        named_connection(Connection(name="bucket", type="s3"))


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (TopicAuthorizationFailedError(), "TopicAuthorizationFailedError"),
        (TopicAuthorizationFailedError("a topic"), "TopicAuthorizationFailedError a topic"),
        (KafkaError("it\n broke."), "KafkaError it broke"),
        (ValueError("no"), "ValueError no"),
    ],
)
def test_an_error_of_the_library_is_named_once(error: BaseException, told: str) -> None:
    assert named(error) == told


def test_a_certificate_that_is_none_is_one_clear_line() -> None:
    found = named_connection(connection(KAFKA_SSL_CA_PEM="not a certificate"))
    with pytest.raises(ConfigError, match="KAFKA_SSL_CA_PEM"):
        found.client_options()


def test_several_servers_may_be_given_with_spaces() -> None:
    assert plain_connection("a:1, b:2 ,").bootstrap_servers == "a:1,b:2"


def test_a_secret_is_not_shown() -> None:
    found = named_connection(connection(KAFKA_KEY="u", KAFKA_SECRET="hush"))
    assert "hush" not in repr(found)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (TimeoutError(), "Kafka is silent: no answer from a:9092 in time."),
        (KafkaConnectionError("hung up"), "Kafka is silent: no connection to a:9092."),
        (NodeNotReadyError("node id 1"), "Kafka is silent: no connection to a:9092."),
    ],
)
def test_a_failure_is_one_sentence(error: Exception, text: str) -> None:
    assert plain_connection("a:9092").failure("Kafka is silent", error).message == text
