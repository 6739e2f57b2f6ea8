import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from shared.logs import configure_logging, mask_text

TOKEN = "p.eyJ1c2VyIjoiMTIzNDU2Nzg5MCJ9"


@pytest.fixture(autouse=True)
def _restore_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    yield
    root.handlers, root.level = handlers, level
    logging.getLogger("uvicorn.access").disabled = False
    structlog.reset_defaults()


def lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_json_line_has_event_level_and_utc_time() -> None:
    stream = io.StringIO()
    configure_logging(stream=stream)
    structlog.get_logger().info("started", port=7181)
    (line,) = lines(stream)
    assert (line["event"], line["level"], line["port"]) == ("started", "info", 7181)
    assert str(line["timestamp"]).endswith("Z")


def test_lines_below_the_level_are_not_written() -> None:
    stream = io.StringIO()
    configure_logging(level="warning", stream=stream)
    structlog.get_logger().info("quiet")
    structlog.get_logger().warning("loud")
    assert [line["event"] for line in lines(stream)] == ["loud"]


def test_the_console_form_is_no_json() -> None:
    stream = io.StringIO()
    configure_logging(form="console", stream=stream)
    structlog.get_logger().info("started", port=7181)
    assert "started" in stream.getvalue()
    assert not stream.getvalue().startswith("{")


def test_what_libraries_log_takes_the_same_form_and_requests_are_not_logged() -> None:
    stream = io.StringIO()
    configure_logging(stream=stream)
    logging.getLogger("uvicorn.error").warning("%s?token=%s", "/v0/events", TOKEN)
    logging.getLogger("uvicorn.access").warning("GET /")
    (line,) = lines(stream)
    assert (line["event"], line["logger"]) == ("/v0/events?token=***", "uvicorn.error")


def test_tokens_are_masked_wherever_they_stand() -> None:
    stream = io.StringIO()
    configure_logging(stream=stream)
    try:
        raise ValueError(f"bad ?token={TOKEN}")
    except ValueError:
        structlog.get_logger().exception(
            "failed",
            path=f"/v0/sql?q=1&token={TOKEN}&x=1",
            headers={"Authorization": f"Bearer {TOKEN}", "accept": "*/*"},
            found=[b"bearer " + TOKEN.encode()],
            admin_token="short",
        )
    assert TOKEN not in stream.getvalue()
    (line,) = lines(stream)
    assert line["path"] == "/v0/sql?q=1&token=***&x=1"
    assert line["headers"] == {"Authorization": "***", "accept": "*/*"}
    assert line["found"] == ["bearer ***"]
    assert line["admin_token"] == "***"
    assert "ValueError: bad ?token=***" in str(line["exception"])


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        (f"the token {TOKEN} is", "the token p.*** is"),
        ("clickhouse://default:hidden@db:9000/x", "clickhouse://default:***@db:9000/x"),
        ("Authorization: Bearer abc", "Authorization: Bearer ***"),
        ("https://example.org/a?b=c", "https://example.org/a?b=c"),
        ("http.request started", "http.request started"),
        ("stop.immediately_and_for_good", "stop.immediately_and_for_good"),
    ],
)
def test_only_secrets_are_masked(text: str, masked: str) -> None:
    assert mask_text(text) == masked


class ClosedPipe(io.StringIO):
    """What standard error is once nobody reads it any more."""

    def write(self, text: str) -> int:
        raise BrokenPipeError


def test_a_log_that_cannot_be_written_does_not_fail_who_logs() -> None:
    configure_logging(stream=ClosedPipe())
    structlog.get_logger().info("nobody hears this")


def test_what_the_kafka_client_repeats_is_written_once_in_a_while() -> None:
    stream = io.StringIO()
    configure_logging(stream=stream)
    fetcher = logging.getLogger("aiokafka.consumer.fetcher")
    for _ in range(50):
        fetcher.error("Failed fetch messages from %s", 1)
        logging.getLogger("aiokafka").error("Unable connect to node with id %s", 1)
    fetcher.error("Failed fetch messages from %s", 2)
    logging.getLogger("other").error("again")
    logging.getLogger("other").error("again")
    assert [line["event"] for line in lines(stream)] == [
        "Failed fetch messages from 1",
        "Failed fetch messages from 2",
        "again",
        "again",
    ]


def test_a_line_of_the_kafka_client_comes_again_after_half_a_minute() -> None:
    stream = io.StringIO()
    configure_logging(stream=stream)
    (handler,) = logging.getLogger().handlers
    for created_s in (100.0, 129.0, 131.0):
        record = logging.makeLogRecord(
            {"name": "aiokafka.conn", "msg": "x", "levelno": logging.ERROR, "levelname": "ERROR"}
        )
        record.created = created_s
        handler.handle(record)
    assert len(lines(stream)) == 2
