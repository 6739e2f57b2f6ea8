from __future__ import annotations

from pathlib import Path

import pytest
from watchfiles import Change

from deploy.watch import concerns_project


@pytest.mark.parametrize(
    ("path", "concerns"),
    [
        ("a.pipe", True),
        ("datasources/a.datasource", True),
        ("connections/k.connection", True),
        (".env.local", True),
        ("fixtures/a.ndjson", False),
        ("notes.txt", False),
        (".git/a.pipe", False),
        (".pipehouse/clickhouse/store/x.pipe", False),
    ],
)
@pytest.mark.parametrize("change", Change)
def test_datafiles_and_secrets_concern_a_project(
    tmp_path: Path, change: Change, path: str, concerns: bool
) -> None:
    assert concerns_project([tmp_path], change, tmp_path / path) is concerns


def test_a_new_folder_concerns_it_because_its_files_may_not_be_told_of(tmp_path: Path) -> None:
    for name in ("endpoints", ".pipehouse", ".pipehouse/store"):
        (tmp_path / name).mkdir()
    found = [
        concerns_project([tmp_path], change, tmp_path / name)
        for change in (Change.added, Change.deleted)
        for name in ("endpoints", ".pipehouse", ".pipehouse/store")
    ]
    assert found == [True, False, False, False, False, False]


def test_a_project_may_lie_in_a_hidden_folder(tmp_path: Path) -> None:
    home = tmp_path / ".projects" / "shop"
    assert concerns_project([home], Change.modified, home / "a.pipe")
    assert not concerns_project([home], Change.modified, tmp_path / "a.pipe")
