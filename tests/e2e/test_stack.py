"""Every process of an installation, as its users meet them: Kafka, a server, six processes."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.conftest import PROJECTS, ROOT, clean_environment, wait_for
from tests.kafka.fixture import KafkaBroker
from tests.stack import Stack, stack


@pytest.fixture(scope="module")
def project(module_path: Path) -> Path:
    """A project that tests may edit and deploy."""
    folder = module_path / "clickstream"
    shutil.copytree(PROJECTS / "clickstream", folder)
    return folder


@pytest.fixture(scope="module")
def site(module_path: Path, project: Path, kafka_broker: KafkaBroker) -> Iterator[Stack]:
    """A whole installation, with topics and groups of its own."""
    own = uuid.uuid4().hex[:8]
    environ = clean_environment(
        {
            "PIPEHOUSE_KAFKA_BOOTSTRAP_SERVERS": kafka_broker.bootstrap_servers,
            "PIPEHOUSE_TOPIC_PREFIX": f"{own}.events.",
            "PIPEHOUSE_GROUP_PREFIX": f"{own}.",
            "PIPEHOUSE_TOPIC_PARTITIONS": "2",
        }
    )
    with stack([project], module_path, usual_ports=False, environ=environ) as running:
        yield running


def client(site: Stack, name: str) -> httpx.Client:
    token = site.environ["PIPEHOUSE_ADMIN_TOKEN"]
    return httpx.Client(
        base_url=site.urls[name], headers={"Authorization": f"Bearer {token}"}, timeout=30
    )


def command(site: Stack, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "deploy.cli", *map(str, arguments)],
        cwd=ROOT,
        env={**site.environ, "PIPEHOUSE_URL": site.urls["query-1"]},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def click(number: int) -> dict[str, Any]:
    return {
        "event_id": f"e{number}",
        "user_id": f"u{number}",
        "session_id": f"s{number % 7}",
        "event_type": "page_view",
        "page_url": "/",
        "page_title": "",
        "referrer": "",
        "timestamp": "2025-05-12 06:18:15",
        "device_type": "mobile",
        "browser": "b",
        "properties": "{}",
    }


def send(site: Stack, count: int, *, wait: bool = True) -> httpx.Response:
    body = "\n".join(json.dumps(click(i)) for i in range(count))
    with client(site, "events-1") as events:
        return events.post(
            "/v0/events",
            params={"name": "clickstream_events", "wait": "true" if wait else "false"},
            content=body,
        )


def count(site: Stack, name: str = "query-1") -> int:
    with client(site, name) as reader:
        answer = reader.get("/v0/sql", params={"q": "SELECT count() FROM clickstream_events"})
    assert answer.status_code == 200, answer.text
    return int(answer.text)


def test_an_event_sent_to_one_process_is_answered_by_every_reader(site: Stack) -> None:
    before = count(site)
    answer = send(site, 100)
    assert answer.status_code == 200, answer.text
    assert answer.json() == {"successful_rows": 100, "quarantined_rows": 0}
    assert count(site, "query-1") == count(site, "query-2") == before + 100


def test_each_process_is_alive_ready_and_counted(site: Stack) -> None:
    for name, url in site.urls.items():
        assert httpx.get(f"{url}/health").json() == {"status": "ok"}, name
        ready = httpx.get(f"{url}/ready")
        assert ready.status_code == 200, ready.text
        checks = set(ready.json()["checks"])
        assert {"clickhouse", "deployment"} <= checks, name
        assert ("log" in checks) is (not name.startswith("query")), name
        assert "pipehouse_" in httpx.get(f"{url}/metrics").text, name


def test_a_deployment_goes_live_in_running_processes_within_seconds(
    site: Stack, project: Path
) -> None:
    (project / "endpoints").mkdir(exist_ok=True)
    pipe = project / "endpoints" / "fresh.pipe"
    pipe.write_text("NODE a\nSQL >\n    SELECT 42 AS answer\nTYPE endpoint\n")
    plan = command(site, "deploy", "--check", project)
    assert plan.returncode == 0 and "no table or view changes" in plan.stdout
    with client(site, "query-2") as reader:
        assert reader.get("/v0/pipes/fresh.json").status_code == 404
        done = command(site, "deploy", project)
        assert done.returncode == 0, done.stderr
        took_s = wait_for(
            lambda: reader.get("/v0/pipes/fresh.json").status_code == 200, "fresh is served"
        )
    assert took_s < 5
    history = command(site, "deploy", "--history").stdout.splitlines()
    assert len(history) >= 2 and " live " in history[0]


def test_a_new_column_is_stored_by_running_workers_and_nothing_is_lost_meanwhile(
    site: Stack, project: Path
) -> None:
    before = count(site)
    file = next(project.rglob("clickstream_events.datasource"))
    last = "`properties` String `json:$.properties`"
    column = "`campaign` String `json:$.campaign` DEFAULT 'none'"
    file.write_text(file.read_text().replace(last, f"{last},\n    {column}"))
    sent = sum(send(site, 10, wait=False).status_code == 202 for _ in range(5))
    done = command(site, "deploy", project)
    assert done.returncode == 0, done.stderr
    assert "at rest meanwhile: clickstream_events" in done.stdout
    with client(site, "events-1") as events:
        answer = None
        end_s = time.monotonic() + 10
        while time.monotonic() < end_s:
            answer = events.post(
                "/v0/events",
                params={"name": "clickstream_events", "wait": "true"},
                content=json.dumps({**click(1), "campaign": "spring"}),
            )
            sent += 1
            if _campaigns(site) == {"none", "spring"}:
                break
    assert answer is not None and answer.status_code == 200, answer and answer.text
    assert _campaigns(site) == {"none", "spring"}
    total = before + 50 + sent - 5
    assert count(site) == total
    assert command(site, "audit").returncode == 0


def _campaigns(site: Stack) -> set[str]:
    with client(site, "query-1") as reader:
        answer = reader.get(
            "/v0/sql", params={"q": "SELECT DISTINCT campaign FROM clickstream_events"}
        )
    return set(answer.text.split())


def test_what_would_rewrite_data_is_refused_with_the_reason(site: Stack, project: Path) -> None:
    file = next(project.rglob("clickstream_events.datasource"))
    good = file.read_text()
    file.write_text(good.replace("`browser` String", "`browser` UInt64"))
    try:
        done = command(site, "deploy", project)
    finally:
        file.write_text(good)
    assert done.returncode == 1
    assert "browser" in done.stderr and "Traceback" not in done.stderr


def test_a_broken_project_is_not_deployed(site: Stack, project: Path) -> None:
    bad = project / "endpoints" / "bad.pipe"
    bad.write_text("NODE a\nSQL >\n    SELECT nothing FROM clickstream_events\nTYPE endpoint\n")
    try:
        done = command(site, "deploy", project)
    finally:
        bad.unlink()
    assert done.returncode == 3
    assert "bad.pipe:3" in done.stderr


def test_a_worker_that_is_killed_is_replaced_by_the_other_and_nothing_is_doubled(
    site: Stack,
) -> None:
    before = count(site)
    for _ in range(5):
        assert send(site, 200, wait=False).status_code == 202
    site.processes["ingest-1"].send_signal(signal.SIGKILL)
    for _ in range(5):
        assert send(site, 200, wait=False).status_code == 202
    wait_for(lambda: count(site) >= before + 2000, "the other worker stores the rest", 60)
    assert count(site) == before + 2000
    assert command(site, "audit", "clickstream_events").returncode == 0


def test_every_process_ends_with_143_after_a_drain(site: Stack) -> None:
    before = count(site)
    assert send(site, 500, wait=False).status_code == 202
    wait_for(lambda: count(site) >= before + 500, "all is stored", 20)
    for name in ("events-1", "ingest-2", "query-2", "query-1"):
        process = site.processes[name]
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 143, name


@pytest.mark.parametrize(("arguments", "code"), [(["--help"], 0), ([], 2)])
def test_help_and_a_missing_folder_start_nothing(arguments: list[str], code: int) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.stack", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == code
    assert (done.stdout or done.stderr).startswith("usage: ")
