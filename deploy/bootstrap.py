"""The databases and the least-privilege users of an installation, as statements; pure.

- **writer**: inserts into the project's tables. It also reads them, because exactly-once asks a
  table which offsets it holds, and makes scratch tables in a database where nothing else is.
- **reader**: reads, under a profile that cannot write and whose limits it cannot raise.
- **deployer**: makes and changes tables and views; grants nothing and sees no other database.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from urllib.parse import quote

from msgspec import Struct

from deploy.own_tables import OWN_TABLES
from deploy.record import DATABASE
from ingest.landing import SCRATCH_DATABASE
from shared.clickhouse.replicated import replicated
from shared.clickhouse.sql import literal, quote_identifier

ROLES = ("writer", "reader", "deployer")

_READER_PROFILE = "pipehouse_reader"
_READER_LIMITS = (
    # 2 and not 1: a reader may choose formats and lower its limits.
    "readonly = 2 CONST",
    # Without the lower bounds 0 would lift them.
    "max_execution_time = 60 MIN 0.001 MAX 600",
    "max_memory_usage = 4000000000 MIN 1 MAX 16000000000",
    "max_concurrent_queries_for_user = 100",
)
# What doctor, audit, the cache and recovery ask about; rows without a grant are hidden, that of
# ``one`` too, which everybody may read and which says when the server was started.
_SYSTEM_TABLES = (
    "one",
    "parts",
    "tables",
    "columns",
    "processes",
    "replicas",
    "mutations",
    "merge_tree_settings",
    "replicated_merge_tree_settings",
    "settings",
    "functions",
    "aggregate_function_combinators",
    "disks",
)


class User(Struct, frozen=True):
    """One of the users: its role, its name and its password."""

    role: str
    name: str
    password: str

    def url(self, host: str, database: str) -> str:
        """What a process of this role is given.

        Args:
            host: Hosts, ports and options of the URL of the server, ``host:9000`` and ``?…``.
            database: The project's database.
        """
        address, _, options = host.partition("?")
        tail = f"?{options}" if options else ""
        return (
            f"clickhouse://{self.name}:{quote(self.password, safe='')}@{address}/{database}{tail}"
        )


def users(database: str, passwords: Mapping[str, str]) -> Sequence[User]:
    """The three users of a project's database.

    Args:
        database: The project's database; part of the names, so that projects can share a server.
        passwords: By role.
    """
    return [User(role, f"{database}_{role}", passwords[role]) for role in ROLES]


def statements(database: str, accounts: Sequence[User], *, replicates: bool = False) -> list[str]:
    """Everything to run, in order, by a user who may create users; harmless to run again.

    With ``replicates`` several hosts share the databases, and it has to run on each of them.

    A user that exists keeps its password, so that processes which use it go on.
    """
    db = quote_identifier(database)
    shared = [f"CREATE DATABASE IF NOT EXISTS {db}", *OWN_TABLES]
    found = [
        *(map(replicated, shared) if replicates else shared),
        f"CREATE DATABASE IF NOT EXISTS {SCRATCH_DATABASE}",
        f"CREATE SETTINGS PROFILE IF NOT EXISTS {_READER_PROFILE} SETTINGS "
        + ", ".join(_READER_LIMITS),
    ]
    for user in accounts:
        name = quote_identifier(user.name)
        secret = f"IDENTIFIED WITH sha256_password BY {literal(user.password)}"
        found.append(f"CREATE USER IF NOT EXISTS {name} {secret}")
        found += [
            f"GRANT {what} TO {name}" for what in _grants(user.role, db, replicates=replicates)
        ]
        if user.role == "reader":
            found.append(f"ALTER USER {name} SETTINGS PROFILE {literal(_READER_PROFILE)}")
    return found


def _grants(role: str, db: str, *, replicates: bool) -> list[str]:
    system = [f"SELECT ON system.{table}" for table in _SYSTEM_TABLES]
    # Who comes to another host waits until that has what the one before stored.
    follow = ", SYSTEM SYNC REPLICA" if replicates else ""
    if role == "writer":
        return [
            f"SELECT, INSERT, SHOW{follow} ON {db}.*",
            f"SELECT, INSERT ON {DATABASE}.*",
            f"CREATE TABLE, DROP TABLE, SELECT, INSERT ON {SCRATCH_DATABASE}.*",
            "KILL QUERY ON *.*",
            *system,
        ]
    if role == "reader":
        return [f"SELECT, SHOW ON {db}.*", f"SELECT ON {DATABASE}.*", *system]
    rights = "SELECT, INSERT, ALTER, CREATE, DROP, SHOW, OPTIMIZE"
    return [
        f"{rights}{follow} ON {db}.*",
        f"{rights} ON {DATABASE}.*",
        f"{rights} ON {SCRATCH_DATABASE}.*",
        *system,
    ]
