"""What goes wrong is answered in one clear line, and nothing beside it is lost."""

from __future__ import annotations

import gzip
import json
import os
import re
import resource
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from msgspec import Struct

from tests.e2e.conftest import PROJECTS, Server, run_command, wait_for

Start = Callable[..., Server]

_MIB = 1 << 20


def message(number: int, **fields: object) -> dict[str, object]:
    """An event of the data source with the most types."""
    return {
        "message_id": f"m{number}",
        "sender_id": "user_1",
        "recipient_id": "user_2",
        "conversation_id": "c1",
        "message_type": "text",
        "message_content": "Hello",
        "timestamp": "2025-04-15 04:00:55",
        "read": 1,
        "attachments": [],
        "character_count": 5,
        **fields,
    }


def without(column: str) -> str:
    return json.dumps({k: v for k, v in message(0).items() if k != column})


def error_of(answer: httpx.Response, status: int, code: str) -> dict[str, object]:
    """The envelope, after what holds for each of them."""
    assert answer.status_code == status, answer.text
    body: dict[str, object] = answer.json()
    assert body["code"] == code, body
    assert body["documentation"] == f"/docs/errors#{code}"
    text = str(body["error"])
    assert text
    assert "\n" not in text
    assert "Traceback" not in answer.text
    assert answer.headers["x-request-id"]
    return body


# rows that do not fit -----------------------------------------------------------------------------


class Bad(Struct, frozen=True, kw_only=True):
    """A row that cannot be stored, and what quarantine says of it."""

    raw: str
    column: str
    reason: str


BAD_ROWS = {
    "malformed": Bad(raw='{"message_id": "m0", "read": ', column="", reason=""),
    "not an object": Bad(raw="[1, 2, 3]", column="", reason=""),
    "missing column": Bad(raw=without("sender_id"), column="sender_id", reason="missing"),
    "wrong type": Bad(
        raw=json.dumps(message(0, sender_id={"id": 7}, read="yes")),
        column="read",
        reason='"yes" is not a whole number from 0 to 255',
    ),
    "out of range": Bad(raw=json.dumps(message(0, read=300)), column="read", reason="300"),
    "negative": Bad(
        raw=json.dumps(message(0, character_count=-1)), column="character_count", reason="-1"
    ),
    "no date": Bad(raw=json.dumps(message(0, timestamp="soon")), column="timestamp", reason="soon"),
    "null": Bad(
        raw=json.dumps(message(0, message_type=None)), column="message_type", reason="null"
    ),
}


@pytest.fixture(scope="module")
def quarantined(five: Server) -> dict[str, dict[str, Any]]:
    """Each bad row sent between two good ones, and what quarantine has of it by its name."""
    stored = five.count("messages")
    for bad in BAD_ROWS.values():
        body = "\n".join([json.dumps(message(1)), bad.raw, json.dumps(message(2))])
        answer = five.send("messages", body)
        assert answer.status_code == 202
        assert answer.json() == {"successful_rows": 2, "quarantined_rows": 1}, bad
    five.store("messages", message(3))
    assert five.count("messages") == stored + 2 * len(BAD_ROWS) + 1
    five.wait_for_rows("messages_quarantine", len(BAD_ROWS))
    rows = five.query(
        "SELECT c__error_column, c__error, __raw, __topic, __offset FROM messages_quarantine"
        " ORDER BY __offset"
    )
    assert len(rows) == len(BAD_ROWS)
    return dict(zip(BAD_ROWS, rows, strict=True))


@pytest.mark.parametrize("name", BAD_ROWS)
def test_a_bad_row_is_in_quarantine_with_its_text_and_reasons(
    quarantined: dict[str, dict[str, Any]], name: str
) -> None:
    bad, row = BAD_ROWS[name], quarantined[name]
    assert row["__raw"] == bad.raw
    assert row["__topic"] == "events.messages"
    assert len(row["c__error"]) == len(row["c__error_column"]) >= 1
    reasons = dict(zip(row["c__error_column"], row["c__error"], strict=True))
    if bad.column:
        assert bad.reason in reasons[bad.column], reasons
    assert all(reasons.values())


# requests that are refused ------------------------------------------------------------------------


class Refused(Struct, frozen=True, kw_only=True):
    """A request for events, and its answer."""

    status: int
    code: str
    says: str
    name: str = "messages"
    body: bytes = b"{}"
    headers: dict[str, str] = {}
    params: dict[str, str] = {}


GZIP = {"Content-Encoding": "gzip"}
ROW = json.dumps(message(1)).encode()

REFUSED = {
    "unknown data source": Refused(
        status=404, code="not_found", says="messages", name="mesages", body=ROW
    ),
    "filled by a view": Refused(
        status=400, code="bad_request", says="JSON path", name="user_events_daily", body=ROW
    ),
    "no name": Refused(status=400, code="bad_request", says="'name'", name="", body=ROW),
    "empty": Refused(status=400, code="bad_request", says="empty", body=b""),
    "blank": Refused(status=400, code="bad_request", says="empty", body=b" \n\r\n"),
    "nothing valid": Refused(status=400, code="bad_request", says="valid JSON", body=b"hello\n{"),
    "array without format": Refused(
        status=400, code="bad_request", says="format=json", body=b"[" + ROW + b"]"
    ),
    "format": Refused(
        status=400, code="bad_request", says="xml", body=ROW, params={"format": "xml"}
    ),
    "wait": Refused(
        status=400, code="bad_request", says="maybe", body=ROW, params={"wait": "maybe"}
    ),
    "gzip bomb": Refused(
        status=413,
        code="too_large",
        says="decompressed",
        body=gzip.compress(b" " * (300 * _MIB), 1),
        headers=GZIP,
    ),
    "cut off gzip": Refused(
        status=400,
        code="bad_request",
        says="cut off",
        body=gzip.compress(ROW)[:-9],
        headers=GZIP,
    ),
    "no gzip": Refused(status=400, code="bad_request", says="decompressed", body=ROW, headers=GZIP),
    "encoding": Refused(
        status=400,
        code="bad_request",
        says="br",
        body=ROW,
        headers={"Content-Encoding": "br"},
    ),
    "wrong token": Refused(
        status=403,
        code="bad_token",
        says="token",
        body=ROW,
        headers={"Authorization": "Bearer wrong"},
    ),
    "no token": Refused(
        status=403, code="bad_token", says="no token", body=ROW, headers={"Authorization": ""}
    ),
}


@pytest.mark.parametrize("refused", REFUSED.values(), ids=REFUSED.keys())
def test_a_refused_request_is_told_why_and_stores_nothing(five: Server, refused: Refused) -> None:
    before = five.count("messages"), five.count("messages_quarantine")
    answer = five.client.post(
        "/v0/events",
        params={"name": refused.name, **refused.params},
        content=refused.body,
        headers=refused.headers,
    )
    body = error_of(answer, refused.status, refused.code)
    assert refused.says in str(body["error"])
    assert (five.count("messages"), five.count("messages_quarantine")) == before


def resident_bytes(server: Server) -> int:
    """The most memory it has ever had."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) * 1024


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
@pytest.mark.parametrize("is_declared", [True, False], ids=["declared", "chunked"])
def test_a_body_of_200_megabytes_is_refused_early_and_takes_no_memory(
    five: Server, is_declared: bool
) -> None:
    five.store("messages", message(1))
    before = resident_bytes(five)
    sent_bytes = 0

    def body() -> Iterator[bytes]:
        nonlocal sent_bytes
        for _ in range(200):
            sent_bytes += _MIB
            yield b" " * _MIB

    headers = {"Content-Length": str(200 * _MIB)} if is_declared else {}
    try:
        answer = five.client.post(
            "/v0/events", params={"name": "messages"}, content=body(), headers=headers
        )
        error_of(answer, 413, "too_large")
    except (httpx.WriteError, httpx.RemoteProtocolError, httpx.ReadError):
        # The server hung up while we were still sending: the answer may be lost with that.
        assert sent_bytes < 100 * _MIB
    assert resident_bytes(five) - before < 40 * _MIB
    assert five.store("messages", message(2)).status_code == 200


# endpoints ----------------------------------------------------------------------------------------


def test_an_unknown_pipe_is_told_with_its_near_miss(five: Server) -> None:
    body = error_of(five.pipe("total_event"), 404, "not_found")
    assert "total_events" in str(body["error"])


def test_an_unknown_format_is_told_with_those_there_are(five: Server) -> None:
    body = error_of(five.client.get("/v0/pipes/total_events.xlsx"), 404, "not_found")
    assert "csv" in str(body["error"])


def test_all_bad_parameters_are_told_in_one_answer(five: Server) -> None:
    answer = five.pipe(
        "get_user_message_stats", start_date="soon", limit="many", end_date="2025-02-30 00:00:00"
    )
    body = error_of(answer, 400, "parameter_error")
    errors = body["errors"]
    assert isinstance(errors, list)
    told = {entry["parameter"] for entry in errors}
    assert {"user_id", "start_date", "end_date"} <= told, body


def test_a_json_body_of_parameters_that_is_broken_is_refused(five: Server) -> None:
    answer = five.client.post("/v0/pipes/total_events.json", content=b'{"a": ')
    error_of(answer, 400, "bad_request")


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH"])
def test_other_methods_are_refused(five: Server, method: str) -> None:
    for path in ("/v0/pipes/total_events.json", "/v0/events?name=messages", "/v0/sql?q=SELECT+1"):
        answer = five.client.request(method, path)
        error_of(answer, 405, "method_not_allowed")
        assert answer.headers["allow"]


def test_sql_that_fails_only_while_it_runs_is_told_in_one_line(start: Start, shop: Path) -> None:
    (shop / "endpoints" / "fragile.pipe").write_text(
        "NODE fragile_node\nSQL >\n    %\n"
        "    SELECT throwIf({{Int32(fail, 0)}} = 1, 'it was asked to') AS x,"
        " toDate({{String(day, '2025-01-01')}}) AS day\n\nTYPE endpoint\n"
    )
    server = start([shop])
    assert server.pipe("fragile").status_code == 200
    body = error_of(server.pipe("fragile", fail="1"), 400, "query_error")
    assert "it was asked to" in str(body["error"])
    error_of(server.pipe("fragile", day="never"), 400, "query_error")


def test_an_endpoint_needs_a_token(five: Server) -> None:
    with httpx.Client(base_url=five.url) as bare:
        for path in ("/v0/pipes/total_events.json", "/v0/pipes/secret.json", "/v0/sql?q=SELECT+1"):
            error_of(bare.get(path), 403, "bad_token")
            error_of(bare.get(path, params={"token": "x"}), 403, "bad_token")


# free SQL -----------------------------------------------------------------------------------------

ATTACKS = [
    "INSERT INTO messages (message_id) VALUES ('x')",
    "SELECT * FROM file('/etc/passwd', 'LineAsString')",
    "SELECT file('/etc/passwd')",
    "SELECT * APPLY(x -> file('/etc/passwd')) FROM messages",
    "SELECT 1; DROP TABLE messages",
    "SELECT 1 INTO OUTFILE '/tmp/pipehouse_outfile'",
    "SELECT * FROM system.tables",
    "SELECT * FROM system.settings",
    "SELECT * FROM information_schema.tables",
    "SELECT * FROM url('http://127.0.0.1:1/', 'LineAsString')",
    "SELECT * FROM remote('127.0.0.1', system.one)",
    "SELECT * FROM executable('id', 'TSV', 'x String')",
    "SELECT * FROM merge('system', '.*')",
    "SELECT * FROM pipehouse.deployments",
    "DROP TABLE messages",
    "ALTER TABLE messages DELETE WHERE 1",
    "TRUNCATE TABLE messages",
    "SYSTEM STOP MERGES",
    "KILL QUERY WHERE 1",
    "SET readonly = 0",
    "SHOW TABLES",
    "EXPLAIN SELECT 1",
    "WITH (SELECT file('/etc/passwd')) AS f SELECT f",
    "SELECT 1 SETTINGS readonly = 0",
    "SELECT getServerPort('tcp_port')",
    "SELECT dictGet('d', 'x', 1)",
    "SELECT hostName()",
    "SELECT sleep(3)",
    "",
]


@pytest.mark.parametrize("sql", ATTACKS)
def test_free_sql_is_one_select_over_the_project(five: Server, sql: str) -> None:
    tables = five.count("messages"), five.count("messages_quarantine")
    for answer in (
        five.client.get("/v0/sql", params={"q": sql}),
        five.client.post("/v0/sql", content=sql),
    ):
        assert 400 <= answer.status_code < 500, answer.text
        assert "\n" not in answer.json()["error"]
        assert "root:" not in answer.text
    assert (five.count("messages"), five.count("messages_quarantine")) == tables
    assert not Path("/tmp/pipehouse_outfile").exists()


def test_an_answer_over_the_limit_is_broken_off_also_where_the_engine_does_not_see_it(
    five: Server,
) -> None:
    sql = "SELECT repeat('x', 1000000) FROM (SELECT arrayJoin(range(101)))"
    # The limit is reached long after the status was sent: nobody can take a part for the whole.
    with pytest.raises(httpx.RemoteProtocolError):
        five.client.get("/v0/sql", params={"q": sql})
    assert "The answer has more than 100000000 bytes" in five.err()


# a full disk --------------------------------------------------------------------------------------


def limit_file_size(server: Server, size_bytes: int) -> None:
    """No file of the running server may grow beyond that; what a full disk is to it."""
    pid = server.process.pid
    hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)[1]
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (size_bytes, hard))


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="limits another process on Linux only")
@pytest.mark.parametrize("room_bytes", [0, 1 * _MIB], ids=["no room", "a megabyte"])
def test_a_full_disk_is_answered_503_and_loses_nothing(
    start: Start, shop: Path, room_bytes: int
) -> None:
    server = start([shop])
    accepted = 0
    refused = 0

    def post(number: int) -> httpx.Response:
        event = {
            "event_time": "2025-05-12 06:18:15",
            "channel": os.urandom(1000).hex(),
            "campaign": "c",
            "user_id": str(number),
            "event_type": "click",
        }
        return server.send("marketing_events", "\n".join([json.dumps(event)] * 100))

    assert post(-1).status_code == 202
    accepted += 1
    limit_file_size(server, room_bytes)
    for number in range(30):
        answer = post(number)
        if answer.status_code == 202:
            accepted += 1
        else:
            refused += 1
            body = error_of(answer, 503, "log_unavailable")
            assert "disk" in str(body["error"])
            assert answer.headers["retry-after"]
    assert refused > 0
    assert server.process.poll() is None
    ready = server.client.get("/ready")
    assert ready.status_code == 503
    assert "disk" in ready.json()["checks"]["log"]
    limit_file_size(server, resource.RLIM_INFINITY)
    wait_for(lambda: server.client.get("/ready").status_code == 200, "it is ready again")
    wait_for(lambda: post(1000).status_code == 202, "events are taken again")
    accepted += 1
    server.wait_for_rows("marketing_events", accepted * 100, 20)
    server.stop()
    again = start([shop])
    assert again.count("marketing_events") == accepted * 100
    assert again.query("SELECT uniqExact(user_id) AS n FROM marketing_events") == [{"n": accepted}]


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="limits another process on Linux only")
def test_a_stop_on_a_full_disk_keeps_what_was_accepted_for_the_next_start(
    start: Start, shop: Path
) -> None:
    server = start([shop])
    event = (
        b'{"event_time":"2025-05-12 06:18:15","channel":"","campaign":"","user_id":"",'
        b'"event_type":""}\n'
    )
    assert server.send("marketing_events", event * 50).status_code == 202
    limit_file_size(server, 0)
    server.stop()
    again = start([shop])
    again.wait_for_rows("marketing_events", 50)
    again.store("marketing_events", json.loads(event))
    assert again.count("marketing_events") == 51


# a start that fails -------------------------------------------------------------------------------


def one_line(text: str) -> str:
    """The only line of a command's complaint, be it of the command or of its log."""
    assert "Traceback" not in text
    assert text.count("\n") == 1, text
    if text.startswith("{"):
        entry = json.loads(text)
        assert (entry["event"], entry["level"]) == ("cannot start", "error")
        return str(entry["error"])
    assert text.startswith("pipehouse: ")
    return text


def test_a_second_server_on_the_same_data_folder_ends_with_4(five: Server) -> None:
    second = run_command("dev", PROJECTS / "marketing", "--port", "0", "--data", five.data)
    assert second.returncode == 4, second.stderr
    assert str(five.data) in one_line(second.stderr)
    assert five.pipe("total_events").status_code == 200


def test_a_port_in_use_ends_with_4(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        ended = run_command(
            "dev", PROJECTS / "marketing", "--port", port, "--data", tmp_path / "data"
        )
    assert ended.returncode == 4, ended.stderr
    assert port in one_line(ended.stderr)


def test_a_bad_setting_ends_with_4(tmp_path: Path) -> None:
    environ = {"PIPEHOUSE_BATCH_MAX_AGE_S": "-1"}
    data = tmp_path / "data"
    ended = run_command("dev", PROJECTS / "marketing", "--data", data, environ=environ)
    assert ended.returncode == 4, ended.stderr
    line = one_line(ended.stderr)
    assert "PIPEHOUSE_BATCH_MAX_AGE_S" in line
    assert "-1" in line


def test_a_data_folder_that_cannot_be_made_ends_with_4(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    ended = run_command(
        "dev", PROJECTS / "marketing", "--port", "0", "--data", tmp_path / "file" / "data"
    )
    assert ended.returncode == 4, ended.stderr
    one_line(ended.stderr)


def test_an_address_for_others_needs_a_token_of_its_own(tmp_path: Path) -> None:
    ended = run_command(
        "dev", PROJECTS / "marketing", "--host", "0.0.0.0", "--data", tmp_path / "data"
    )
    assert ended.returncode == 4, ended.stderr
    assert "PIPEHOUSE_ADMIN_TOKEN" in one_line(ended.stderr)


@pytest.mark.parametrize("command", ["dev", "check"])
def test_an_unknown_folder_is_a_mistake_of_usage(tmp_path: Path, command: str) -> None:
    ended = run_command(command, tmp_path / "nothing")
    assert ended.returncode == 2
    assert "nothing" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_an_empty_project_is_served_and_fills_up_while_it_runs(
    start: Start, tmp_path: Path
) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()
    server = start([folder])
    assert server.client.get("/ready").status_code == 200
    error_of(server.send("events", "{}"), 404, "not_found")
    error_of(server.pipe("anything"), 404, "not_found")
    (folder / "events.datasource").write_text(
        'SCHEMA >\n    `id` Int64 `json:$.id`\n\nENGINE "MergeTree"\n'
    )
    wait_for(lambda: server.send("events", '{"id":1}').status_code == 202, "the data source")
    server.wait_for_rows("events", 1)


def test_nothing_of_all_this_was_a_mistake_of_ours(five: Server) -> None:
    assert "Traceback" not in five.err()
    assert "internal_error" not in five.err()
    assert "request failed" not in five.err()
