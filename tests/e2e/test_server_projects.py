"""The five projects on a ClickHouse server: every case of ``pipehouse test``."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.clickhouse_target import opened, targets
from tests.e2e.conftest import PROJECT_NAMES, PROJECTS, run_command


@pytest.fixture(scope="module", params=targets())
def server_url(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    with opened(request.param, tmp_path_factory.mktemp("server")) as url:
        yield url


def test_every_case_of_the_projects_passes_on_a_server(server_url: str) -> None:
    folders = [PROJECTS / name for name in PROJECT_NAMES]
    environ = {"PIPEHOUSE_CLICKHOUSE_URL": server_url}
    on_server = run_command("test", "--verbose", *folders, environ=environ)
    assert on_server.returncode == 0, on_server.stdout + on_server.stderr
    embedded = run_command("test", "--verbose", *folders)
    assert on_server.stdout == embedded.stdout
    assert ", 0 failed" in on_server.stdout
