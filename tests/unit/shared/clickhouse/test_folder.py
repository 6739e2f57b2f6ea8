from __future__ import annotations

import fcntl
from pathlib import Path

import pytest

from shared.clickhouse.folder import claim_folder, release_folder
from shared.errors import ConfigError, DataFolderOwnedError


def test_a_folder_is_made_and_can_be_claimed_again_once_released(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    for _ in range(2):
        assert claim_folder(folder) == folder
        release_folder(folder)
    assert folder.is_dir()


def test_a_claimed_folder_keeps_every_other_one_out(tmp_path: Path) -> None:
    claim_folder(tmp_path / "first")
    try:
        for name in ("first", "second"):
            with pytest.raises(ConfigError, match="first"):
                claim_folder(tmp_path / name)
    finally:
        release_folder(tmp_path / "first")


def test_the_owner_is_named_while_the_lock_is_held(tmp_path: Path) -> None:
    status = tmp_path / "status"
    status.write_text("PID: 4242\nStarted at: some time ago\n")
    with status.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(DataFolderOwnedError, match="process 4242"):
            claim_folder(tmp_path)
    # A status file that nobody locks is left over and means nothing.
    assert claim_folder(tmp_path) == tmp_path
    release_folder(tmp_path)


def test_a_folder_that_cannot_be_made_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match="cannot be used"):
        claim_folder(tmp_path / "file" / "below")


def test_a_name_that_the_engine_would_misread_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="must not have"):
        claim_folder(tmp_path / "a?b")
    assert not (tmp_path / "a?b").exists()
