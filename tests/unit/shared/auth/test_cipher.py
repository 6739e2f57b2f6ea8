import base64
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.auth.cipher import TokenCipher, load_or_create_secret
from shared.errors import ConfigError

CIPHER = TokenCipher("a-secret-for-tests")
OTHER = TokenCipher("another-secret-for-tests")


@given(st.text(), st.text())
def test_what_is_encrypted_comes_back(token: str, bound_to: str) -> None:
    assert CIPHER.decrypt(CIPHER.encrypt(token, bound_to), bound_to) == token


def test_the_same_token_never_looks_the_same_and_never_like_itself() -> None:
    sealed = {CIPHER.encrypt("p.token", "id") for _ in range(10)}
    assert len(sealed) == 10
    assert not any(b"p.token" in base64.b64decode(text) for text in sealed)


@pytest.mark.parametrize("damage", ["bit", "short", "other id", "other secret", "no base64"])
def test_what_was_changed_is_refused_and_never_decrypted_to_something_else(damage: str) -> None:
    sealed = CIPHER.encrypt("p.token", "id")
    raw = bytearray(base64.b64decode(sealed))
    raw[-1] ^= 1
    cases = {
        "bit": lambda: CIPHER.decrypt(base64.b64encode(raw).decode(), "id"),
        "short": lambda: CIPHER.decrypt(sealed[:8], "id"),
        "other id": lambda: CIPHER.decrypt(sealed, "id2"),
        "other secret": lambda: OTHER.decrypt(sealed, "id"),
        "no base64": lambda: CIPHER.decrypt("é", "id"),
    }
    with pytest.raises(ConfigError, match="cannot be decrypted"):
        cases[damage]()


def test_everything_derived_depends_on_the_secret_alone() -> None:
    again = TokenCipher("a-secret-for-tests")
    assert again.digest(b"p.token") == CIPHER.digest(b"p.token") != OTHER.digest(b"p.token")
    assert again.key_id == CIPHER.key_id != OTHER.key_id
    assert again.derived_id("x") == CIPHER.derived_id("x") != OTHER.derived_id("x")
    assert CIPHER.decrypt(again.encrypt("p.token", "id"), "id") == "p.token"


def test_the_secret_is_not_shown() -> None:
    assert "secret" not in repr(CIPHER)


def test_a_new_secret_is_kept_in_a_file_that_only_its_owner_can_read(tmp_path: Path) -> None:
    secret = load_or_create_secret(tmp_path, None)
    assert len(secret) >= 40
    assert stat.S_IMODE((tmp_path / "secret").stat().st_mode) == 0o600
    assert load_or_create_secret(tmp_path, None) == secret


def test_a_weak_setting_is_refused_without_showing_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="PIPEHOUSE_SECRET") as caught:
        load_or_create_secret(tmp_path, "hunter2")
    assert "hunter2" not in str(caught.value)
