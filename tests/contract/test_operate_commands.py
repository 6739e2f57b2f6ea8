"""Operator commands as they are typed, against a server that answers for a real engine."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import httpx
import msgspec
import pytest
from msgspec import Struct

from deploy.operate.http import operate_route
from shared.auth.tokens import AdminTokenStore
from shared.clickhouse.contract import Statement
from shared.clickhouse.embedded import EmbeddedClickHouse
from shared.clock import Deadline
from shared.supervise import Service
from shared.web.app import create_app
from shared.web.server import listen, serve_http
from tests.contract.delivery_rig import CLOCK, Rig
from tests.contract.operate_rig import open_operate_rig, services
from tests.e2e.conftest import ROOT, clean_environment

TOKEN = "operate-test-token"


class Served(Struct, kw_only=True):
    """A rig, and the server that answers for it."""

    rig: Rig
    url: str


@pytest.fixture
async def served(engine: EmbeddedClickHouse, tmp_path: Path) -> AsyncIterator[Served]:
    async with open_operate_rig(engine, tmp_path) as rig:
        service = Service()
        listener = listen("127.0.0.1", 0)
        app = create_app([operate_route(services(rig), AdminTokenStore(TOKEN))])
        await serve_http(service, app, listener)
        yield Served(rig=rig, url=f"http://127.0.0.1:{listener.getsockname()[1]}")
        await service.close(Deadline(CLOCK, 5))


async def typed(
    url: str, *arguments: str, environ: Mapping[str, str] | None = None
) -> tuple[int, str, str]:
    """A command to its end: exit code, what it printed, what it complained about."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "deploy.cli",
        *arguments,
        cwd=ROOT,
        env=clean_environment({"PIPEHOUSE_URL": url, "PIPEHOUSE_TOKEN": TOKEN, **(environ or {})}),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(60):
        out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def deliver(rig: Rig) -> None:
    worker = rig.worker()
    await rig.stored(*await rig.send(10, bad=2))
    await worker.close(Deadline(CLOCK, 10))


async def test_commands_print_for_people_and_for_programs(served: Served) -> None:
    rig = served.rig
    await deliver(rig)
    code, out, _ = await typed(served.url, "audit", rig.name)
    assert (code, out.splitlines()[0]) == (
        0,
        f"{rig.name} (topic events.{rig.name}): each offset once",
    )
    assert "offsets 0..11: 10 rows stored, 2 in quarantine" in out
    code, out, _ = await typed(served.url, "doctor", rig.name)
    assert (code, f"{rig.name}: exactly once" in out) == (0, True)
    code, out, _ = await typed(served.url, "quarantine", "show", rig.name, "--json")
    shown = msgspec.json.decode(out)
    assert [row["offset"] for row in shown["rows"]] == [11, 10]
    code, out, _ = await typed(served.url, "trace", f"events.{rig.name}:0:11")
    assert (code, out.startswith(f"{rig.name}: quarantined.")) == (0, True)


async def test_what_is_bad_ends_with_1_and_names_it(served: Served) -> None:
    rig = served.rig
    await deliver(rig)
    await rig.engine.execute(Statement(sql=f"DELETE FROM {rig.name} WHERE __offset IN (4, 5)"))
    code, out, _ = await typed(served.url, "audit", rig.name)
    assert code == 1
    assert "missing: 2 offsets (4..5)" in out


async def test_mistakes_are_one_line(served: Served) -> None:
    for arguments, expected_code, text in (
        (("audit", "nothing"), 1, "There is no data source 'nothing'."),
        (("trace", "here"), 1, "'here' is not <topic>:<partition>:<offset>."),
        (("quarantine", "purge", served.rig.name), 1, "Say --yes to do it."),
        (("resolve", served.rig.name, "0"), 2, "Say --insert-missing or --skip."),
    ):
        code, out, err = await typed(served.url, *arguments)
        assert (code, out) == (expected_code, "")
        assert text in err
        assert "Traceback" not in err


async def test_a_server_that_does_not_run_is_one_line_and_exit_code_5() -> None:
    code, out, err = await typed("http://127.0.0.1:1", "audit")
    assert (code, out, len(err.splitlines())) == (5, "", 1)
    assert "No server answers at http://127.0.0.1:1." in err


async def test_the_route_is_for_administrators_and_checks_what_it_is_sent(served: Served) -> None:
    async with httpx.AsyncClient(base_url=served.url) as client:
        refused = await client.post("/v0/operate/audit")
        wrong = await client.post("/v0/operate/audit", params={"token": "no"})
        headers = {"Authorization": f"Bearer {TOKEN}"}
        unknown = await client.post("/v0/operate/explode", headers=headers)
        bad = await client.post("/v0/operate/audit", headers=headers, json={"datasorce": "x"})
        fine = await client.post("/v0/operate/quarantine-list", headers=headers)
    assert [a.status_code for a in (refused, wrong, unknown, bad, fine)] == [
        403,
        403,
        404,
        400,
        200,
    ]
    assert "quarantine-replay" in unknown.json()["error"]
    assert "datasorce" in bad.json()["error"]
    assert fine.json()["is_ok"]
