from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from watchfiles import Change

from deploy.watch import concerns_project, watch_project


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


def move_away_and_back(folder: Path) -> None:
    folder.rename(folder.parent / "away")


def remove(folder: Path) -> None:
    shutil.rmtree(folder)


@pytest.mark.parametrize("lose", [move_away_and_back, remove])
async def test_a_folder_that_comes_back_is_watched_again(
    tmp_path: Path, lose: Callable[[Path], None]
) -> None:
    shop, other = tmp_path / "shop", tmp_path / "other"
    shop.mkdir()
    other.mkdir()
    changes = watch_project([shop, other])
    beginning = asyncio.ensure_future(anext(changes))
    try:
        await told(beginning, other / "a.pipe")
        lose(shop)
        following = asyncio.ensure_future(anext(changes))
        told_times = 0
        while (await asyncio.wait([following], timeout=2.5))[0]:
            told_times += 1
            following = asyncio.ensure_future(anext(changes))
        assert told_times in (1, 2)
        away = tmp_path / "away"
        if away.exists():
            away.rename(shop)
        else:
            shop.mkdir()
        await asyncio.wait_for(following, 10)
        # The loss may have been told of more than once; files are told of for ever.
        for _ in range(4):
            await told(asyncio.ensure_future(anext(changes)), shop / "b.pipe")
    finally:
        await changes.aclose()


async def told(change: asyncio.Future[None], path: Path) -> None:
    """Write a file until a change is told: when watching begins is not to be seen."""
    deadline = asyncio.get_running_loop().time() + 10
    while not (await asyncio.wait([change], timeout=0.3))[0]:
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.to_thread(path.write_text, "NODE a")
    await change
