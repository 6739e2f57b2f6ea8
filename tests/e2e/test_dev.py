"""What ``pipehouse dev`` and its neighbours promise, on the five example projects."""

from __future__ import annotations

import gzip
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
import zstandard

from tests.e2e.conftest import PROJECT_NAMES, PROJECTS, Server, run_command, wait_for

Start = Callable[..., Server]

PIPES = sorted(p.stem for p in PROJECTS.glob("*/endpoints/*.pipe"))
FIXTURES = sorted(PROJECTS.glob("*/fixtures/*.ndjson"))
REQUIRED = {"get_user_message_stats": {"user_id": "user_361"}}
FORMATS = {"json": b"{", "csv": b'"', "ndjson": b"", "parquet": b"PAR1"}


def click(number: int, **fields: str) -> dict[str, str]:
    """A marketing event."""
    return {
        "event_time": "2025-05-12 06:18:15",
        "channel": "search",
        "campaign": "spring",
        "user_id": f"user_{number}",
        "event_type": "click",
        **fields,
    }


def events_of(channel: str) -> str:
    return f"SELECT user_id, campaign FROM marketing_events WHERE channel = '{channel}'"


def edit(path: Path, old: str, new: str) -> None:
    """Change a file as editors do: the new text takes the place of the old one at once."""
    text = path.read_text()
    assert old in text
    fresh = path.with_suffix(".new")
    fresh.write_text(text.replace(old, new))
    fresh.replace(path)


@pytest.fixture(scope="module")
def filled(module_path: Path) -> Iterator[Server]:
    folders = [PROJECTS / name for name in PROJECT_NAMES]
    server = Server(folders, module_path / "filled", "--fixtures")
    for path in FIXTURES:
        server.wait_for_rows(path.stem, len(path.read_bytes().splitlines()))
    yield server
    server.stop()


# endpoints ----------------------------------------------------------------------------------------


def test_every_endpoint_answers_in_every_format_on_empty_tables(
    start: Start,
) -> None:
    server = start([PROJECTS / name for name in PROJECT_NAMES])
    for pipe in PIPES:
        for name, start_bytes in FORMATS.items():
            answer = server.client.get(f"/v0/pipes/{pipe}.{name}", params=REQUIRED.get(pipe))
            assert answer.status_code == 200, (pipe, name, answer.text)
            assert answer.content.startswith(start_bytes), (pipe, name)
            assert answer.headers["x-request-id"]
        body = server.pipe(pipe, **REQUIRED.get(pipe, {})).json()
        assert body["rows"] == len(body["data"])
        assert all(set(column) == {"name", "type"} for column in body["meta"])


def test_every_endpoint_answers_in_every_format_on_fixtures(filled: Server) -> None:
    for pipe in PIPES:
        params = REQUIRED.get(pipe, {})
        rows = filled.pipe_rows(pipe, **params)

        def read(format_: str, pipe: str = pipe, params: dict[str, str] = params) -> httpx.Response:
            return filled.client.get(f"/v0/pipes/{pipe}.{format_}", params=params)

        assert [json.loads(line) for line in read("ndjson").text.splitlines()] == rows, pipe
        text = read("csv").text
        if rows:
            assert text.splitlines()[0].replace('"', "").split(",") == list(rows[0]), pipe
        parquet = read("parquet").content
        assert parquet.startswith(b"PAR1"), pipe
        assert parquet.endswith(b"PAR1"), pipe


def test_the_materialized_view_counts_what_the_table_has(filled: Server) -> None:
    by_day = "GROUP BY date, event_type ORDER BY date, event_type"
    table = filled.query(
        "SELECT toDate(timestamp) AS date, event_type, toUInt64(count()) AS events,"
        f" uniq(user_id) AS users FROM user_events {by_day}"
    )
    view = filled.query(
        "SELECT date, event_type, toUInt64(sum(d.events)) AS events,"
        f" uniqMerge(d.users) AS users FROM user_events_daily AS d {by_day}"
    )
    assert view == table
    assert table


# what is printed ----------------------------------------------------------------------------------


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_every_printed_line_works_when_pasted_and_shows_the_event(five: Server) -> None:
    def blocks() -> list[str]:
        return [b for b in five.out().split("\n\n") if ": send an event, read it back" in b]

    # The last one has lines that read it back, and they are there to their end.
    wait_for(lambda: len(blocks()) == 5 and blocks()[-1].count("curl") > 1, "all lines")
    wait_for(lambda: five.out().endswith("\n"), "the last line")
    export = re.search(r"export TOKEN=.*", five.out())
    assert export is not None
    for block in blocks():
        post, *reads = [line.strip() for line in block.splitlines() if "curl" in line]
        answer = paste(export[0], post)
        assert answer == '{"successful_rows":1,"quarantined_rows":0}', post
        assert reads
        shown = [line for line in reads if json.loads(paste(export[0], line))["rows"]]
        assert shown == reads


def paste(export: str, line: str) -> str:
    return subprocess.run(
        ["sh", "-c", f"{export}\n{line} -sS"],
        capture_output=True,
        text=True,
        timeout=20,
        check=True,
    ).stdout


# events -------------------------------------------------------------------------------------------


def test_an_event_answered_202_can_be_queried_within_a_second(five: Server) -> None:
    figures_s = []
    for number in range(3):
        event = click(1, channel=f"fresh_{number}")
        before = five.count("marketing_events")
        assert five.send("marketing_events", json.dumps(event)).status_code == 202
        figures_s.append(five.wait_for_rows("marketing_events", before + 1))
    shown = ", ".join(f"{s * 1000:.0f} ms" for s in figures_s)
    sys.stdout.write(f"202 to queryable: {shown}\n")
    # The best of three, because the machine may have other things to do.
    assert min(figures_s) < 1.0


def test_wait_answers_200_once_the_rows_can_be_queried(five: Server) -> None:
    five.store("marketing_events", click(1, channel="waited"))
    assert five.query(events_of("waited")) == [{"user_id": "user_1", "campaign": "spring"}]


Shape = tuple[str, str | bytes, dict[str, str], dict[str, str]]

# Channel of the events, body, parameters, headers.
SHAPES: tuple[Shape, ...] = (
    ("pretty", json.dumps(click(1, channel="pretty"), indent=4), {}, {}),
    (
        "lines",
        "\r\n".join(json.dumps(click(n, channel="lines")) for n in (1, 2)),
        {},
        {},
    ),
    (
        "array",
        json.dumps([click(n, channel="array") for n in (1, 2, 3)], indent=1),
        {"format": "json"},
        {},
    ),
    (
        "form",
        json.dumps(click(1, channel="form")),
        {},
        {"Content-Type": "application/x-www-form-urlencoded"},
    ),
    (
        "octets",
        json.dumps(click(1, channel="octets")),
        {},
        {"Content-Type": "application/octet-stream"},
    ),
    (
        "multipart",
        json.dumps(click(1, channel="multipart")),
        {},
        {"Content-Type": "multipart/form-data; boundary=x"},
    ),
    (
        "gzip",
        gzip.compress(json.dumps(click(1, channel="gzip")).encode()),
        {},
        {"Content-Encoding": "gzip"},
    ),
    (
        "zstd",
        zstandard.compress(json.dumps(click(1, channel="zstd")).encode()),
        {},
        {"Content-Encoding": "zstd"},
    ),
)


def test_events_come_in_many_shapes(five: Server) -> None:
    expected = {name: 1 for name, *_ in SHAPES} | {"lines": 2, "array": 3}
    for name, body, params, headers in SHAPES:
        answer = five.client.post(
            "/v0/events",
            params={"name": "marketing_events", **params},
            content=body,
            headers=headers,
        )
        assert answer.status_code == 202, (name, answer.text)
        assert answer.json() == {"successful_rows": expected[name], "quarantined_rows": 0}
    five.store("marketing_events", click(1, channel="last"))
    counts = {row["channel"]: row["event_count"] for row in five.pipe_rows("events_by_channel")}
    assert {name: counts.get(name) for name in expected} == expected


def test_a_token_may_stand_in_the_query_or_in_the_header(five: Server) -> None:
    bare = httpx.Client(base_url=five.url)
    with bare:
        in_query = bare.get("/v0/pipes/total_events.json", params={"token": five.token})
        in_header = bare.get(
            "/v0/pipes/total_events.json", headers={"Authorization": f"Bearer {five.token}"}
        )
        assert (in_query.status_code, in_header.status_code) == (200, 200)
        event = json.dumps(click(1, channel="query_token"))
        sent = bare.post(
            "/v0/events",
            params={"name": "marketing_events", "wait": "true", "token": five.token},
            content=event,
        )
        assert sent.status_code == 200


# parameters ---------------------------------------------------------------------------------------


def test_parameters_may_come_in_the_query_a_form_or_a_json_object(filled: Server) -> None:
    user = filled.query("SELECT user_id FROM user_events LIMIT 1")[0]["user_id"]
    path = "/v0/pipes/user_event_timeline.json"
    arguments = {"user_id": user, "limit": "2"}
    in_query = filled.client.get(path, params=arguments).json()["data"]
    form = filled.client.post(path, data=arguments).json()["data"]
    typed = filled.client.post(path, json={"user_id": user, "limit": 2}).json()["data"]
    assert in_query == form == typed
    assert 1 <= len(in_query) <= 2


ATTEMPTS = (
    "' OR 1 = 1 --",
    "'; DROP TABLE user_events; --",
    "\\' UNION ALL SELECT 1 --",
    "{{String(x)}} {p1:String} %s $1",
    "a\tb\nc\\d\0e'f\"g`h",
    "') SETTINGS readonly = 0 --",
    "\\N",
    "",
)


def test_an_attempt_at_sql_comes_back_as_data(five: Server) -> None:
    event = {
        "session_id": "s",
        "event_type": "click",
        "page_url": "/",
        "referrer": "",
        "device_type": "",
        "browser": "",
        "country": "",
        "city": "",
        "properties": "{}",
        "timestamp": time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime()),
    }
    before = five.count("user_events")
    attempts = list(enumerate(ATTEMPTS))
    five.store(
        "user_events", *({**event, "event_id": f"ev_{n}", "user_id": v} for n, v in attempts)
    )
    for number, value in attempts:
        rows = five.pipe_rows("user_event_timeline", user_id=value)
        assert [row["event_id"] for row in rows] == [f"ev_{number}"], value
        hexed = value.encode().hex().upper()
        stored = five.query(f"SELECT event_id FROM user_events WHERE hex(user_id) = '{hexed}'")
        assert stored == [{"event_id": f"ev_{number}"}]
    assert five.count("user_events") == before + len(ATTEMPTS)


# what operators ask -------------------------------------------------------------------------------


def test_health_readiness_metrics_and_the_error_page_need_no_token(five: Server) -> None:
    five.store("marketing_events", click(1, channel="measured"))
    with httpx.Client(base_url=five.url) as bare:
        assert bare.get("/health").json() == {"status": "ok"}
        ready = bare.get("/ready")
        assert ready.status_code == 200
        assert ready.json()["status"] == "ok"
        assert set(ready.json()["checks"]) == {"clickhouse", "log"}
        metrics = bare.get("/metrics").text
        assert re.search(r"pipehouse_\w*rows\w*\{.*marketing_events.*\} [1-9]", metrics)
        page = bare.get("/docs/errors")
        assert page.headers["content-type"].startswith("text/html")
        assert 'id="parameter_error"' in page.text


def test_a_request_id_is_made_up_or_taken_over(five: Server) -> None:
    first = five.client.get("/health").headers["x-request-id"]
    second = five.client.get("/health").headers["x-request-id"]
    assert first != second
    own = five.client.get("/v0/pipes/total_events.json", headers={"X-Request-Id": "abc-123"})
    assert own.headers["x-request-id"] == "abc-123"
    failed = five.client.get("/v0/pipes/nothing.json", headers={"X-Request-Id": "abc-124"})
    assert failed.headers["x-request-id"] == "abc-124"


# stop and start -----------------------------------------------------------------------------------


def test_a_stop_right_after_202_stores_everything_once_and_a_restart_keeps_it(
    start: Start, shop: Path
) -> None:
    server = start([shop])
    for number in range(20):
        answer = server.send("marketing_events", json.dumps(click(number)))
        assert answer.status_code == 202
    bad = server.send("marketing_events", '{"event_time":"soon"}')
    assert bad.json() == {"successful_rows": 0, "quarantined_rows": 1}
    server.stop()
    again = start([shop])
    # At once: the drain stored them, not the start.
    stored = again.query("SELECT user_id FROM marketing_events ORDER BY __offset")
    assert [row["user_id"] for row in stored] == [f"user_{n}" for n in range(20)]
    assert again.count("marketing_events_quarantine") == 1
    assert again.token == server.token
    again.store("marketing_events", click(20))
    assert again.pipe_rows("total_events") == [{"total_events": 21}]


def test_fixtures_are_loaded_once_and_ctrl_c_ends_with_130(start: Start, shop: Path) -> None:
    rows = len((shop / "fixtures" / "marketing_events.ndjson").read_bytes().splitlines())
    server = start([shop], "--fixtures")
    server.wait_for_rows("marketing_events", rows)
    server.stop(signal.SIGINT)
    again = start([shop], "--fixtures")
    again.store("marketing_events", click(1))
    assert again.count("marketing_events") == rows + 1


# live reload --------------------------------------------------------------------------------------


def test_edits_go_live_and_broken_ones_keep_the_last_good_version(start: Start, shop: Path) -> None:
    server = start([shop])
    server.store("marketing_events", click(1), click(2))
    pipe = shop / "endpoints" / "total_events.pipe"
    total = {"total_events": 2}

    edit(pipe, "FROM marketing_events", "FROM marketing_evnts")
    wait_for(lambda: "marketing_evnts" in server.err(), "the mistake is told")
    told = server.err()
    line = next(n for n, t in enumerate(pipe.read_text().splitlines(), 1) if "_evnts" in t)
    assert re.search(rf"total_events\.pipe:{line}:\d+: ", told), told
    assert "marketing_events" in told[told.index("marketing_evnts") :]
    assert server.pipe_rows("total_events") == [total]

    edit(pipe, "count() AS total_events", "count() * 10 AS tenfold")
    edit(pipe, "FROM marketing_evnts", "FROM marketing_events")
    wait_for(lambda: server.pipe_rows("total_events") == [{"tenfold": 20}], "the mended pipe")


def test_a_new_column_goes_live_and_a_refused_type_change_keeps_the_old_one(
    start: Start, shop: Path
) -> None:
    server = start([shop])
    server.store("marketing_events", click(1))
    datasource = shop / "datasources" / "marketing_events.datasource"
    last = "`event_type` String `json:$.event_type`"
    edit(datasource, last, f"{last},\n    `cost` Float64 `json:$.cost` DEFAULT 0.5")
    reloads = "Reloaded:"
    wait_for(lambda: reloads in server.out(), "the new column")
    server.store("marketing_events", click(2), {**click(3), "cost": 2.25})
    costs = server.query("SELECT user_id, cost FROM marketing_events ORDER BY user_id")
    assert [row["cost"] for row in costs] == [0.5, 0.5, 2.25]

    told_bytes = len(server.err())
    edit(datasource, "`cost` Float64", "`cost` Array(String)")
    wait_for(lambda: server.out().count(reloads) == 2, "the refusal")
    told = server.err()[told_bytes:]
    assert re.search(r"marketing_events\.datasource:\d+:\d+: ", told), told
    assert "cost" in told
    server.store("marketing_events", {**click(4), "cost": 4.0})
    assert server.query("SELECT sum(cost) AS s FROM marketing_events") == [{"s": 7.25}]


def test_files_that_appear_and_disappear_are_served_and_no_longer_served(
    start: Start, shop: Path
) -> None:
    server = start([shop])
    pipe = shop / "endpoints" / "late.pipe"
    datasource = shop / "datasources" / "visits.datasource"
    datasource.write_text('SCHEMA >\n    `page` String `json:$.page`\n\nENGINE "MergeTree"\n')
    pipe.write_text("NODE late_node\nSQL >\n    SELECT page FROM visits\n\nTYPE endpoint\n")
    wait_for(lambda: server.pipe("late").status_code == 200, "the new pipe")
    server.store("visits", {"page": "/"})
    assert server.pipe_rows("late") == [{"page": "/"}]
    pipe.unlink()
    wait_for(lambda: server.pipe("late").status_code == 404, "the pipe is gone")
    datasource.unlink()
    wait_for(lambda: server.send("visits", "{}").status_code == 404, "the data source is gone")
    assert server.pipe_rows("total_events") == [{"total_events": 0}]


def test_a_project_that_is_broken_from_the_start_is_served_once_it_is_mended(
    start: Start, shop: Path
) -> None:
    datasource = shop / "datasources" / "marketing_events.datasource"
    edit(datasource, "DateTime", "DateTme")
    server = start([shop])
    assert "Did you mean 'DateTime'?" in server.err()
    answer = server.send("marketing_events", json.dumps(click(1)))
    assert answer.status_code == 404
    edit(datasource, "DateTme", "DateTime")
    wait_for(lambda: server.pipe("total_events").status_code == 200, "the mended project")
    server.store("marketing_events", click(1))
    assert server.pipe_rows("total_events") == [{"total_events": 1}]
    # As a change of branches does it: the whole folder goes, and comes back different.
    pipes = shop / "endpoints"
    shutil.rmtree(pipes)
    wait_for(lambda: server.pipe("total_events").status_code == 404, "the folder is gone")
    shutil.copytree(PROJECTS / "marketing" / "endpoints", pipes)
    edit(pipes / "total_events.pipe", "count() AS total_events", "count() + 1 AS total_events")
    wait_for(lambda: server.pipe("total_events").status_code == 200, "the folder is back")
    wait_for(lambda: server.pipe_rows("total_events") == [{"total_events": 2}], "as it is now")


def test_a_view_that_breaks_goes_on_and_one_that_changes_counts_from_then_on(
    start: Start, tmp_path: Path
) -> None:
    folder = tmp_path / "project"
    shutil.copytree(PROJECTS / "user_behavior", folder)
    view = folder / "materializations" / "user_events_daily_view.pipe"
    server = start([folder])
    event = json.loads(FIXTURES[-1].read_bytes().splitlines()[0])
    total = "SELECT sum(d.events) AS n FROM user_events_daily AS d"
    edit(view, "count() AS events", "cuont() AS events")
    wait_for(lambda: "'cuont'" in server.err(), "the mistake is told")
    server.store("user_events", event)
    assert server.query(total) == [{"n": 1}]
    edit(view, "cuont() AS events", "10 * count() AS events")
    wait_for(lambda: "Reloaded: 2 changes" in server.out(), "the view is replaced")
    server.store("user_events", event)
    assert server.query(total) == [{"n": 11}]


# the other commands -------------------------------------------------------------------------------


def test_check_and_test_pass_on_the_five_projects() -> None:
    folders = [PROJECTS / name for name in PROJECT_NAMES]
    checked = run_command("check", *folders)
    assert (checked.returncode, checked.stderr) == (0, "")
    assert "are fine" in checked.stdout
    tested = run_command("test", *folders)
    assert tested.returncode == 0, tested.stdout
    assert "FAILED" not in tested.stdout


def test_a_case_that_fails_ends_test_with_1_and_a_diff(shop: Path) -> None:
    edit(shop / "tests" / "total_events.yaml", '{"total_events":240}', '{"total_events":241}')
    tested = run_command("test", shop)
    assert tested.returncode == 1
    assert "FAILED" in tested.stdout
    assert re.search(r'^-.*"total_events":241', tested.stdout, re.MULTILINE), tested.stdout
    assert re.search(r'^\+.*"total_events":240', tested.stdout, re.MULTILINE), tested.stdout
    assert "Traceback" not in tested.stderr


def test_a_fixture_that_does_not_fit_is_told_with_its_line(shop: Path) -> None:
    fixture = shop / "fixtures" / "marketing_events.ndjson"
    fixture.write_text("\n{broken\n")
    tested = run_command("test", shop)
    assert tested.returncode == 3
    assert f"{fixture}:2: The record is not valid JSON" in tested.stderr
    assert "1 row of the fixtures does not fit" in tested.stderr


def test_every_row_of_fixtures_that_does_not_fit_is_told_up_to_a_bound(shop: Path) -> None:
    fixture = shop / "fixtures" / "marketing_events.ndjson"
    fixture.write_text("{broken\n" * 30)
    tested = run_command("test", shop)
    assert tested.returncode == 3
    told = [line for line in tested.stderr.splitlines() if line.startswith(f"{fixture}:")]
    assert [line.split(":")[1] for line in told] == [str(n) for n in range(1, 21)]
    assert "30 rows of the fixtures do not fit" in tested.stderr


def test_fixtures_that_nobody_reads_are_told(shop: Path, start: Start) -> None:
    fixtures = shop / "fixtures"
    (fixtures / "marketing_event.ndjson").write_text("{}\n")
    (fixtures / "marketing_events.csv").write_text("a,b\n")
    tested = run_command("test", shop)
    assert tested.returncode == 0
    assert (
        f"{fixtures}/marketing_event.ndjson: skipped: no data source has this name."
        " Did you mean 'marketing_events'?" in tested.stderr
    )
    assert f"{fixtures}/marketing_events.csv: skipped: fixtures are NDJSON" in tested.stderr
    output = start([shop], "--fixtures").err()
    assert "marketing_event.ndjson: skipped" in output
    assert "marketing_events.csv: skipped" in output


def test_a_broken_project_ends_check_with_3_and_the_place(shop: Path) -> None:
    edit(shop / "endpoints" / "total_events.pipe", "count()", "cuont()")
    edit(shop / "datasources" / "marketing_events.datasource", "DateTime", "DateTme")
    checked = run_command("check", shop)
    assert checked.returncode == 3
    assert re.search(r"marketing_events\.datasource:\d+:\d+: ", checked.stderr), checked.stderr
    assert "Traceback" not in checked.stderr
    edit(shop / "datasources" / "marketing_events.datasource", "DateTme", "DateTime")
    as_json = run_command("check", "--json", shop)
    assert as_json.returncode == 3
    problems = [json.loads(line) for line in as_json.stdout.splitlines()]
    assert any("cuont" in problem["error"] for problem in problems), problems


def test_generate_prints_events_that_the_server_takes(five: Server) -> None:
    options = ["--rows", "50", "--seed", "7", "--until", "2025-05-12"]
    for project, name in (("messaging", "messages"), ("user_behavior", "user_events")):
        made = run_command("generate", name, *options, "--project", PROJECTS / project)
        assert (made.returncode, made.stderr) == (0, "")
        assert made.stdout.count("\n") == 50
        answer = five.send(name, made.stdout, wait="true")
        assert answer.json() == {"successful_rows": 50, "quarantined_rows": 0}
    again = run_command("generate", name, *options, "--project", PROJECTS / project)
    assert again.stdout == made.stdout


def test_generate_tells_the_near_miss_of_an_unknown_data_source() -> None:
    made = run_command("generate", "mesages", "--project", PROJECTS / "messaging")
    assert made.returncode == 1
    assert made.stdout == ""
    assert "messages" in made.stderr
    assert made.stderr.count("\n") == 1


def test_the_token_file_is_for_its_owner_only(five: Server) -> None:
    assert (five.data / "admin_token").stat().st_mode & 0o777 == 0o600
    assert five.token not in five.out() + five.err()
