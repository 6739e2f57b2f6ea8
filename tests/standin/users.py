"""Users of a stand-in: passwords, settings profiles and grants, also by SQL.

Emulated: CREATE, ALTER and DROP of USER (password, SETTINGS, SETTINGS PROFILE) and of SETTINGS
PROFILE (values, MIN, MAX, CONST), GRANT and REVOKE of privileges on ``*.*``, ``db.*`` and
``db.table``, SHOW GRANTS. Roles, quotas, row policies and grants on columns are not.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec
from msgspec import Struct

from shared.clickhouse.sql import literal
from tests.standin.errors import ServerError
from tests.standin.privileges import Grant, missing_grant
from tests.standin.text import Token, tokens

_CLAUSES = {"IDENTIFIED", "NOT", "HOST", "SETTINGS", "DEFAULT", "GRANTEES", "VALID", "TO"}
_ABOUT_ACCESS = re.compile(
    r"\s*(?:(?:CREATE|ALTER|DROP)\s+(?:USER|ROLE|QUOTA|ROW\s+POLICY|POLICY|SETTINGS\s+PROFILE"
    r"|PROFILE)|GRANT|REVOKE|SET\s+(?:DEFAULT\s+)?ROLE)\b",
    re.I,
)
_SHOW_GRANTS = re.compile(r"\s*SHOW\s+GRANTS(?:\s+FOR\s+[`\"]?([^`\";\s]+)[`\"]?)?\s*;?\s*\Z", re.I)


class Limit(Struct, kw_only=True):
    """A setting of a profile; the bounds are what a user may change it to."""

    value: str | None = None
    least: str | None = None
    most: str | None = None
    constant: bool = False


class User(Struct, kw_only=True):
    """A user; ``readonly`` as the engine's setting, no ``grants`` (None) means all of them."""

    password: str = ""
    readonly: int = 0
    grants: list[Grant] | None = None
    profile: str = ""
    settings: dict[str, Limit] = {}


class _Kept(Struct):
    """What SQL made, as it is kept in the data folder."""

    users: dict[str, User] = {}
    profiles: dict[str, dict[str, Limit]] = {}


class Users:
    """Everybody who may connect; used from many threads.

    Args:
        given: Users that exist from the start and are not kept.
        path: Where those that SQL made are kept.
    """

    def __init__(self, given: Mapping[str, User], path: Path) -> None:
        self._lock = threading.Lock()
        self._given = dict(given)
        self._path = path
        self._kept = _Kept()
        if path.exists():
            self._kept = msgspec.json.decode(path.read_bytes(), type=_Kept)

    def authenticate(self, name: str, password: str) -> User:
        """The user of that name, as the profile makes it.

        Raises:
            ServerError: Unknown, or another password.
        """
        user = self._find(name)
        if user is None or user.password != password:
            raise ServerError(
                516,
                "AUTHENTICATION_FAILED",
                f"{name}: Authentication failed: password is incorrect, or there is no user with"
                " such name",
            )
        settings = {**self._kept.profiles.get(user.profile, {}), **user.settings}
        level = settings.get("readonly")
        readonly = int(level.value) if level and level.value else user.readonly
        return msgspec.structs.replace(user, settings=settings, readonly=readonly)

    def _find(self, name: str) -> User | None:
        return self._kept.users.get(name) or self._given.get(name)

    def check(self, name: str, user: User, sql: str, database: str) -> None:
        """Whether a user may run a statement.

        Raises:
            ServerError: A grant is missing.
        """
        if user.grants is None:
            return
        missing = missing_grant(sql, database, user.grants)
        if missing is not None:
            raise ServerError(
                497,
                "ACCESS_DENIED",
                f"{name}: Not enough privileges. To execute this query, it's necessary to have"
                f" the grant {missing}",
            )

    def shown_to(self, user: User) -> frozenset[str] | None:
        """The tables of the system database that a user sees in its list; None for all.

        Everybody may read some more of them, but only what was granted is listed.
        """
        grants = user.grants
        if grants is None or any(
            g.database == "*" and g.table == "*"
            for g in grants
            if g.privilege in ("ALL", "SELECT", "SHOW")
        ):
            return None
        return frozenset(g.table for g in grants if g.database == "system")

    def settings_of(self, user: User, wanted: Mapping[str, str]) -> dict[str, str]:
        """What a statement runs under: the profile's settings, changed as the client asks.

        Raises:
            ServerError: The profile does not let a setting be changed so.
        """
        settings = {
            name: limit.value
            for name, limit in user.settings.items()
            if limit.value is not None and name != "readonly"
        }
        for name, value in wanted.items():
            if user.readonly == 1 and settings.get(name) != value:
                raise ServerError(
                    164, "READONLY", f"Cannot modify '{name}' setting in readonly mode"
                )
            _check_limit(name, value, user.settings.get(name))
            settings[name] = value
        return settings

    def run(self, sql: str, user: User) -> bool:
        """Run a statement about users; False where it is not one.

        Raises:
            ServerError: It is refused or not emulated.
        """
        if _ABOUT_ACCESS.match(sql) is None:
            return False
        if user.grants is not None:
            raise ServerError(497, "ACCESS_DENIED", "Not enough privileges: ACCESS MANAGEMENT")
        with self._lock:
            _Change(list(tokens(sql)), sql, self._kept, self._given).run()
            self._path.write_bytes(msgspec.json.encode(self._kept))
        return True

    def grants_sql(self, sql: str, name: str) -> str | None:
        """A query that answers SHOW GRANTS, None for any other statement."""
        match = _SHOW_GRANTS.match(sql)
        if match is None:
            return None
        asked = match.group(1) or name
        user = self._find(asked)
        if user is None:
            raise ServerError(192, "UNKNOWN_USER", f"There is no user `{asked}`")
        lines = ["GRANT ALL ON *.* TO " + asked]
        if user.grants is not None:
            lines = [
                f"GRANT {g.privilege} ON {g.database}.{g.table} TO {asked}" for g in user.grants
            ]
        column = f"GRANTS FOR {asked}"
        return f"SELECT arrayJoin([{', '.join(map(literal, lines))}]::Array(String)) AS `{column}`"


def _check_limit(name: str, value: str, limit: Limit | None) -> None:
    if limit is None or value == limit.value:
        return
    if limit.constant:
        raise ServerError(
            452, "SETTING_CONSTRAINT_VIOLATION", f"Setting {name} should not be changed"
        )
    bound, word = None, ""
    if limit.most is not None and float(value) > float(limit.most):
        bound, word = limit.most, "greater"
    elif limit.least is not None and float(value) < float(limit.least):
        bound, word = limit.least, "less"
    if bound is not None:
        raise ServerError(
            452,
            "SETTING_CONSTRAINT_VIOLATION",
            f"Setting {name} shouldn't be {word} than {bound}",
        )


class _Change:
    """One statement about users, read and carried out."""

    def __init__(self, found: list[Token], sql: str, kept: _Kept, given: dict[str, User]) -> None:
        self._tokens = [token for token in found if token.text != ";"]
        self._at = 0
        self._sql = sql
        self._kept = kept
        self._given = given

    def run(self) -> None:
        verb = self._next().upper
        if verb in ("GRANT", "REVOKE"):
            self._grant(verb == "GRANT")
            return
        kind = self._next().upper
        if kind == "SETTINGS":
            kind = self._next().upper
        if kind not in ("USER", "PROFILE"):
            raise self._not_emulated()
        known = self._kept.users if kind == "USER" else self._kept.profiles
        mode = self._mode()
        names = list(self._names())
        for name in names:
            exists = name in known or (kind == "USER" and name in self._given)
            if exists and verb == "CREATE" and mode == "":
                raise ServerError(493, "ACCESS_ENTITY_ALREADY_EXISTS", f"`{name}` already exists")
            if not exists and verb != "CREATE" and mode == "":
                raise ServerError(192, "UNKNOWN_USER", f"There is no user `{name}`")
        start = self._at
        for name in names:
            self._at = start
            if verb == "DROP":
                known.pop(name, None)
            elif kind == "PROFILE":
                self._profile(name, fresh=verb == "CREATE", mode=mode)
            else:
                self._user(name, fresh=verb == "CREATE", mode=mode)

    def _peek(self) -> Token:
        return self._tokens[self._at] if self._at < len(self._tokens) else Token("end", "", 0, 0)

    def _next(self) -> Token:
        token = self._peek()
        self._at += 1
        return token

    def _take(self, *words: str) -> bool:
        ahead = [token.upper for token in self._tokens[self._at : self._at + len(words)]]
        if ahead != list(words):
            return False
        self._at += len(words)
        return True

    def _not_emulated(self) -> ServerError:
        return ServerError(
            48, "NOT_IMPLEMENTED", f"The stand-in does not emulate this: {self._sql[:200]}"
        )

    def _mode(self) -> str:
        if self._take("IF", "NOT", "EXISTS") or self._take("IF", "EXISTS"):
            return "if"
        return "replace" if self._take("OR", "REPLACE") else ""

    def _names(self) -> Iterator[str]:
        while True:
            token = self._next()
            name = token.string if token.kind == "string" else token.name
            if name is None:
                raise ServerError(62, "SYNTAX_ERROR", f"Syntax error: {self._sql[:200]}")
            yield name
            if not self._take(","):
                return

    def _user(self, name: str, *, fresh: bool, mode: str) -> None:
        existing = self._kept.users.get(name) or self._given.get(name)
        if fresh and mode == "if" and existing is not None:
            return
        user = User(grants=[]) if fresh or existing is None else msgspec.structs.replace(existing)
        while self._peek().kind != "end":
            if self._take("IDENTIFIED"):
                if self._take("WITH") and self._next().upper not in (
                    "SHA256_PASSWORD",
                    "PLAINTEXT_PASSWORD",
                    "DOUBLE_SHA1_PASSWORD",
                    "BCRYPT_PASSWORD",
                ):
                    raise self._not_emulated()
                if not self._take("BY"):
                    raise self._not_emulated()
                user.password = self._next().string or ""
            elif self._take("NOT", "IDENTIFIED"):
                user.password = ""
            elif self._take("SETTINGS", "PROFILE") or self._take("PROFILE"):
                user.profile = next(self._names())
            elif self._take("SETTINGS"):
                user.settings = self._limits()
            elif self._take("HOST", "ANY") or self._take("DEFAULT", "DATABASE"):
                if self._peek().upper not in _CLAUSES:
                    self._next()
            else:
                raise self._not_emulated()
        self._kept.users[name] = user

    def _profile(self, name: str, *, fresh: bool, mode: str) -> None:
        if fresh and mode == "if" and name in self._kept.profiles:
            return
        if not self._take("SETTINGS"):
            raise self._not_emulated()
        self._kept.profiles[name] = self._limits()
        if self._take("TO"):
            for user in self._names():
                self._kept.users[user].profile = name

    def _limits(self) -> dict[str, Limit]:
        limits: dict[str, Limit] = {}
        while (name := self._peek().name) is not None and self._peek().upper != "TO":
            self._next()
            limit = limits.setdefault(name, Limit())
            while self._peek().kind != "end" and self._peek().text != ",":
                if self._take("=") or self._peek().kind in ("number", "string"):
                    limit.value = self._value()
                elif self._take("MIN"):
                    self._take("=")
                    limit.least = self._value()
                elif self._take("MAX"):
                    self._take("=")
                    limit.most = self._value()
                elif self._take("CONST") or self._take("READONLY"):
                    limit.constant = True
                elif self._take("WRITABLE") or self._peek().upper in _CLAUSES:
                    break
                else:
                    raise self._not_emulated()
            if not self._take(","):
                break
        return limits

    def _value(self) -> str:
        token = self._next()
        return token.string if token.string is not None else token.text

    def _grant(self, add: bool) -> None:
        privileges = []
        words: list[str] = []
        while self._peek().upper not in ("ON", ""):
            token = self._next()
            if token.text == "(":
                raise self._not_emulated()
            if token.text == ",":
                privileges.append(" ".join(words))
                words = []
            else:
                words.append(token.upper)
        privileges.append(" ".join(words))
        if not self._take("ON"):
            raise self._not_emulated()
        database, table = self._scope()
        if not self._take("TO") and not self._take("FROM"):
            raise self._not_emulated()
        for name in self._names():
            user = self._kept.users.get(name)
            if user is None:
                raise ServerError(192, "UNKNOWN_USER", f"There is no user `{name}`")
            for privilege in privileges:
                grant = Grant(privilege.removesuffix(" PRIVILEGES"), database, table)
                held = [other for other in user.grants or [] if other != grant]
                user.grants = [*held, grant] if add else held

    def _scope(self) -> tuple[str, str]:
        first = self._next()
        names = [first.name or first.text]
        if self._take("."):
            second = self._next()
            names.append(second.name or second.text)
        return (names[0], names[1]) if len(names) == 2 else ("*", names[0])
