"""Users of a stand-in: passwords, profiles and grants."""

from __future__ import annotations

from msgspec import Struct

from tests.standin.errors import ServerError


class User(Struct, kw_only=True):
    """A user; ``readonly`` as in ``Access``, None grants mean all."""

    password: str = ""
    readonly: int = 0
    grants: list[tuple[str, str, str]] | None = None


class Users:
    """Everybody who may connect."""

    def __init__(self, users: dict[str, User]) -> None:
        self._users = users

    def authenticate(self, name: str, password: str) -> User:
        """The user of that name.

        Raises:
            ServerError: Unknown, or another password.
        """
        user = self._users.get(name)
        if user is None or user.password != password:
            raise ServerError(
                516,
                "AUTHENTICATION_FAILED",
                f"{name}: Authentication failed: password is incorrect, or there is no user with"
                " such name.",
            )
        return user
