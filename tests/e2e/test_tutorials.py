"""The five tutorials, with datafiles and requests as they print them, served together."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.e2e.conftest import ROOT, Server, run_command

TUTORIALS = ROOT / "tests" / "golden" / "tutorials"
NAMES = ("000", "001", "002", "003", "004")

# As printed; where the tutorial only sketches the body, its example of an event.
BODIES = {
    "user_events": """{"event_id": "ev_73902", "user_id": "user_902", \
"session_id": "session_3902", \
"event_type": "scroll", "page_url": "https://example.com/about", \
"referrer": "https://twitter.com", \
"device_type": "tablet", "browser": "Safari", "country": "Canada", "city": "Toronto", \
"properties": "{\\"button_id\\":\\"btn_2\\",\\"page_section\\":\\"main\\"}", \
"timestamp": "2025-05-11 17:49:55"}""",
    "clickstream_events": """{
  "event_id": "ev_14742",
  "user_id": "user_742",
  "session_id": "sess_4742",
  "event_type": "page_view",
  "page_url": "https://example.com/contact",
  "page_title": "Contact Page",
  "referrer": "https://google.com",
  "timestamp": "2025-05-07 11:02:40",
  "device_type": "desktop",
  "browser": "Safari",
  "properties": "{\\"browser_version\\":\\"13.0\\", \\"screen_size\\":\\"1766x1010\\"}"
}""",
    "app_events": """{
        "event_id": "e123456789",
        "user_id": "u987654321",
        "event_type": "app_open",
        "event_time": "2023-04-15 08:30:45",
        "app_version": "1.2.3",
        "device_type": "smartphone",
        "os_version": "iOS 16.2",
        "country": "US",
        "properties": "{\\"key\\":\\"screen\\",\\"value\\":\\"home\\"}",
        "session_id": "sess_abc123"
    }""",
    "messages": """{
    "message_id": "msg123",
    "sender_id": "user456",
    "recipient_id": "user789",
    "conversation_id": "conv123",
    "message_type": "text",
    "message_content": "Hello there!",
    "timestamp": "2023-05-15 14:30:00",
    "read": 1,
    "attachments": [],
    "character_count": 12
  }""",
    "marketing_events": """{
        "event_time": "2023-10-15 14:30:00",
        "channel": "email",
        "campaign": "fall_promotion",
        "user_id": "user_123",
        "event_type": "click"
    }""",
}

# Query strings as printed, and one row of the answer.
ANSWERS = [
    (
        "get_user_journey",
        "user_id=user_742&end_date=2025-12-31%2023:59:59",
        {"session_id": "sess_4742", "page_title": "Contact Page"},
    ),
    (
        "get_session_events",
        "session_id=sess_4742",
        {"event_id": "ev_14742", "timestamp": "2025-05-07 11:02:40"},
    ),
    (
        "events_by_type",
        "app_version=1.2.3&start_date=2023-01-01+00:00:00",
        {"event_type": "app_open", "event_count": 1},
    ),
    (
        "event_properties",
        "event_type=app_open",
        {"property_key": "screen", "property_value": "home", "count": 1},
    ),
    ("user_sessions", "", {"day": "2023-04-15", "total_sessions": 1, "sessions_per_user": 1}),
    (
        "get_messages_by_conversation",
        "conversation_id=conv123&start_date=2023-01-01%2000:00:00&end_date=2023-12-31%2023:59:59"
        "&limit=50",
        {"message_id": "msg123", "attachments": [], "character_count": 12},
    ),
    ("events_by_channel", "", {"channel": "email", "event_count": 1}),
    ("events_by_campaign", "", {"campaign": "fall_promotion", "event_count": 1}),
    ("total_events", "", {"total_events": 1}),
]

ELIDED = ("user_session_stats", "user_event_timeline", "user_activity_metrics")


def post_as_printed(server: Server, name: str, body: str) -> str:
    """What the tutorials' ``curl`` gets, with the content type that it sends by default."""
    url = f"{server.url}/v0/events?name={name}&wait=true"
    authorization = f"Authorization: Bearer {server.token}"
    if shutil.which("curl"):
        command = ["curl", "-sS", "-X", "POST", url, "-H", authorization, "-d", body]
        return subprocess.run(
            command, capture_output=True, text=True, timeout=20, check=True
        ).stdout
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    return server.client.post(url, content=body, headers=form).text


@pytest.fixture(scope="module")
def tutorials(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """All five in one server, each with the event of its tutorial."""
    data = tmp_path_factory.mktemp("tutorials") / "data"
    server = Server([TUTORIALS / name for name in NAMES], data)
    for name, body in BODIES.items():
        answer = post_as_printed(server, name, body)
        assert answer == '{"successful_rows":1,"quarantined_rows":0}', (name, answer)
    yield server
    server.stop()


@pytest.mark.parametrize(
    ("pipe", "query", "expected"), ANSWERS, ids=[pipe for pipe, _, _ in ANSWERS]
)
def test_the_endpoint_answers_with_the_event(
    tutorials: Server, pipe: str, query: str, expected: dict[str, object]
) -> None:
    # The token in the query string, as the tutorials do.
    answer = httpx.get(f"{tutorials.url}/v0/pipes/{pipe}.json?token={tutorials.token}&{query}")
    assert answer.status_code == 200, answer.text
    rows = answer.json()["data"]
    assert len(rows) == 1
    assert {name: rows[0][name] for name in expected} == expected


def test_defaults_of_the_tutorial_apply_where_a_parameter_is_left_out(tutorials: Server) -> None:
    # Its end_date is 2023 by default, and its event is of 2025.
    assert tutorials.pipe_rows("get_user_journey", user_id="user_742") == []
    assert tutorials.pipe_rows("get_popular_pages", end_date="2025-12-31 23:59:59") == []
    view = {**json.loads(BODIES["clickstream_events"]), "event_type": "pageview"}
    tutorials.store("clickstream_events", view)
    rows = tutorials.pipe_rows("get_popular_pages", end_date="2025-12-31 23:59:59", limit="1")
    assert [row["view_count"] for row in rows] == [1]


def test_pipes_with_elided_sql_are_reported_and_their_data_source_serves(
    tutorials: Server,
) -> None:
    assert tutorials.count("user_events") == 1
    for pipe in ELIDED:
        lines = (TUTORIALS / "000" / "endpoints" / f"{pipe}.pipe").read_text().splitlines()
        line = next(number for number, text in enumerate(lines, 1) if "..." in text)
        column = lines[line - 1].index("...") + 1
        assert f"{pipe}.pipe:{line}:{column}: error: " in tutorials.err()
        answer = tutorials.pipe(pipe)
        assert answer.status_code == 404
        assert f"{pipe}.pipe:{line}:{column}: " in answer.json()["error"]


@pytest.mark.parametrize(
    "body",
    [
        '{\n  "event_id": "e123456",\n  ... "timestamp": "2023-06-15 14:32:45"\n}',
        "{ /* event data */ }",
    ],
)
def test_a_body_with_elided_fields_is_refused(tutorials: Server, body: str) -> None:
    answer = post_as_printed(tutorials, "clickstream_events", body)
    assert json.loads(answer)["code"] == "bad_request"


def test_check_tells_only_of_the_elided_sql() -> None:
    whole = run_command("check", *(TUTORIALS / name for name in NAMES[1:]))
    assert whole.returncode == 0
    assert " error: " not in whole.stderr
    elided = run_command("check", TUTORIALS / "000")
    assert elided.returncode == 3
    errors = re.findall(r"(\w+)\.\w+:\d+:\d+: error: ", elided.stderr)
    assert sorted(errors) == sorted(ELIDED)


def test_every_datafile_of_the_tutorials_is_served_or_reported(tutorials: Server) -> None:
    pipes = {path.stem for path in TUTORIALS.glob("*/endpoints/*.pipe")}
    assert pipes - set(ELIDED) == {pipe for pipe, _, _ in ANSWERS} | {"get_popular_pages"}
    for path in sorted(Path(TUTORIALS).glob("*/datasources/*.datasource")):
        assert tutorials.count(path.stem) >= 1
