"""Tokens at rest: encrypted, and found by a keyed digest that tells nothing without the secret."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import secrets
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from shared.auth.keyfile import checked_secret, kept_secret
from shared.errors import ConfigError

_SECRET_FILE = "secret"
_NONCE_BYTES = 12
# All processes must come to the same keys knowing the secret alone, so the salt is no secret.
_SALT = b"pipehouse tokens at rest, 1"


class TokenCipher:
    """What is done with one secret; takes about 50 ms to make, because secrets may be words.

    Args:
        secret: ``PIPEHOUSE_SECRET`` or the content of its file.
    """

    def __init__(self, secret: str) -> None:
        root = hashlib.scrypt(secret.encode(), salt=_SALT, n=1 << 14, r=8, p=1, dklen=32)
        self._aead = AESGCM(_derive(root, b"encryption"))
        self._digest_key = _derive(root, b"digest")
        self.key_id = _derive(root, b"key id")[:16].hex()
        self._identity_key = _derive(root, b"identity")

    def __repr__(self) -> str:
        return f"TokenCipher({self.key_id[:8]}…)"

    def encrypt(self, text: str, bound_to: str) -> str:
        """The text encrypted, as base64; it can be decrypted together with ``bound_to`` only."""
        nonce = os.urandom(_NONCE_BYTES)
        sealed = self._aead.encrypt(nonce, text.encode(), bound_to.encode())
        return base64.b64encode(nonce + sealed).decode()

    def decrypt(self, text: str, bound_to: str) -> str:
        """What ``encrypt`` was given.

        Raises:
            ConfigError: It was encrypted with another secret, or has been changed since.
        """
        try:
            raw = base64.b64decode(text, validate=True)
            plain = self._aead.decrypt(raw[:_NONCE_BYTES], raw[_NONCE_BYTES:], bound_to.encode())
            return plain.decode()
        except (InvalidTag, ValueError) as error:
            raise ConfigError("A stored token cannot be decrypted; it has been changed.") from error

    def digest(self, token: bytes) -> str:
        """What a token is looked up by."""
        return hmac.digest(self._digest_key, token, "sha256").hex()

    def derived_id(self, name: str) -> str:
        """An id in the form of a UUID that belongs to this secret and a name."""
        raw = hmac.digest(self._identity_key, name.encode(), "sha256").hex()
        return "-".join((raw[:8], raw[8:12], raw[12:16], raw[16:20], raw[20:32]))


def load_or_create_secret(data_folder: Path, setting: str | None) -> str:
    """The secret: the setting, else the file of the data folder, else a new one written there.

    Raises:
        ConfigError: It is shorter than 16 characters or has white space in it, or the file cannot
            be read or written.
    """
    if setting is not None:
        return checked_secret(setting, "PIPEHOUSE_SECRET", "secret")
    return kept_secret(data_folder / _SECRET_FILE, "secret", secrets.token_urlsafe(32))


def _derive(root: bytes, purpose: bytes) -> bytes:
    return HKDFExpand(algorithm=SHA256(), length=32, info=b"pipehouse " + purpose).derive(root)
