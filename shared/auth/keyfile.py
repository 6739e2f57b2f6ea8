"""A secret kept in a file that only its owner can read, made on first use."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from shared.errors import ConfigError

MIN_SECRET_CHARS = 16


def kept_secret(path: Path, what: str, new: str) -> str:
    """The secret of the file; ``new`` is written there first where there is no file.

    Processes that start at the same moment agree on one secret.

    Args:
        path: The file; mode 0600 afterwards, whoever made it.
        what: What is kept there, for the message of an error.
        new: The secret of a new file.

    Raises:
        ConfigError: The file cannot be read or written, or what it holds is too weak.
    """
    try:
        if not path.exists():
            _create(path, new)
        path.chmod(0o600)
        return checked_secret(path.read_text("utf-8").strip(), str(path), what)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"The {what} cannot be kept in {path}: {error}.") from error


def checked_secret(secret: str, origin: str, what: str = "token") -> str:
    """The secret, where it is worth the name.

    Raises:
        ConfigError: It is shorter than 16 characters or has white space in it.
    """
    if len(secret) < MIN_SECRET_CHARS:
        raise ConfigError(
            f"The {what} in {origin} has {len(secret)} characters, "
            f"expected at least {MIN_SECRET_CHARS}."
        )
    if any(char.isspace() for char in secret):
        raise ConfigError(f"The {what} in {origin} has white space in it.")
    return secret


def _create(path: Path, text: str) -> None:
    """Write the file whole or not at all; one that appeared meanwhile stays."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(draft, path)
        except FileExistsError:
            return
    finally:
        draft.unlink()
