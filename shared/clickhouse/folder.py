"""Who owns an engine's data folder: found out before the engine is asked, for a clear message."""

from __future__ import annotations

import fcntl
import re
import threading
from pathlib import Path

from shared.clickhouse.orphans import remove_orphans
from shared.errors import ConfigError, DataFolderOwnedError

_PID = re.compile(r"PID:\s*(\d+)")

_lock = threading.Lock()
_claimed: set[Path] = set()


def claim_folder(folder: Path) -> Path:
    """Make the folder ready for an engine in this process and return its absolute path.

    The engine locks ``<folder>/status`` while it runs. The kernel lets go of that lock with the
    process, so it is never stale, however the owner ended.

    Raises:
        DataFolderOwnedError: Another process runs an engine there.
        ConfigError: This process has an engine open, or the folder cannot be used.
    """
    path = folder.absolute()
    if "?" in str(path):
        raise ConfigError(f"The data folder '{path}' must not have a '?' in its name.")
    with _lock:
        for other in _claimed:
            raise ConfigError(
                f"This process has the data folder '{other}' open and cannot open '{path}' too.",
                hint="One process runs one embedded ClickHouse.",
            )
        try:
            path.mkdir(parents=True, exist_ok=True)
            _require_free(path)
            remove_orphans(path)
        except OSError as error:
            reason = error.strerror or str(error)
            raise ConfigError(f"The data folder '{path}' cannot be used: {reason}.") from None
        _claimed.add(path)
    return path


def release_folder(path: Path) -> None:
    """Let another engine be opened in this process."""
    with _lock:
        _claimed.discard(path)


def _require_free(path: Path) -> None:
    status = path / "status"
    if not status.exists():
        return
    with status.open("r", encoding="utf-8", errors="replace") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            found = _PID.search(file.read())
            owner = f"process {found.group(1)}" if found else "another process"
            raise DataFolderOwnedError(
                f"The data folder '{path}' is in use by {owner}.",
                hint="Stop it, or talk to it over HTTP.",
            ) from None
