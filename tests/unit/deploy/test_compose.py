"""The compose file is one by its specification, and starts what the product has."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.cli import main
from shared.settings import SETTINGS

ROOT = Path(__file__).parents[3]
COMPOSE = ROOT / "compose.yaml"
ROLES = ("deploy", "events", "query", "ingest")


def services() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())["services"]
    return found


def validate(path: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", path],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_the_compose_file_is_valid_by_the_specification() -> None:
    done = validate(COMPOSE)
    assert done.returncode == 0, done.stdout


def test_a_mistake_in_a_compose_file_would_be_found(tmp_path: Path) -> None:
    broken = tmp_path / "compose.yaml"
    broken.write_text(COMPOSE.read_text().replace("mem_limit", "memory_limit"))
    assert validate(broken).returncode == 1


def test_docker_compose_accepts_the_file() -> None:
    docker = shutil.which("docker")
    if docker is None or subprocess.run([docker, "compose", "version"], check=False).returncode:
        pytest.skip("docker compose is not installed here")
    secrets = ("PIPEHOUSE_ADMIN_TOKEN", "PIPEHOUSE_SECRET", "CLICKHOUSE_PASSWORD")
    environ = {**os.environ, **dict.fromkeys(secrets, "x" * 32)}
    subprocess.run(
        [docker, "compose", "--file", COMPOSE, "config", "--quiet"], env=environ, check=True
    )


@pytest.mark.parametrize("role", ROLES)
def test_each_role_runs_a_command_that_exists(role: str) -> None:
    command = services()[role]["command"][0]
    assert command in main.commands


@pytest.mark.parametrize("role", ROLES)
def test_each_role_is_given_settings_that_exist(role: str) -> None:
    known = {setting.variable for setting in SETTINGS}
    assert set(services()[role]["environment"]) <= known


def test_every_file_that_is_mounted_exists() -> None:
    for name, service in services().items():
        for volume in service.get("volumes", []):
            source = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", volume).split(":")[0]
            assert not source.startswith(".") or (ROOT / source).exists(), (name, volume)


def test_secrets_have_no_default() -> None:
    text = COMPOSE.read_text()
    for name in ("PIPEHOUSE_ADMIN_TOKEN", "PIPEHOUSE_SECRET", "CLICKHOUSE_PASSWORD"):
        assert re.findall(rf"\$\{{{name}:[^}}]*\}}", text)
        assert not re.search(rf"\$\{{{name}(:-[^}}]*)?\}}", text), name


def test_every_service_has_a_limit_of_memory_and_all_but_the_one_shot_start_again() -> None:
    for name, service in services().items():
        assert "mem_limit" in service, name
        assert service["restart"] == ("no" if name == "deploy" else "unless-stopped"), name
