"""Which grants a statement needs; pure, and only as exact as tests of grants need it to be."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from msgspec import Struct

from tests.standin.text import Token, parse_insert, tokens

# Everybody may read these. Rows without a grant are hidden: in ``system.tables`` those of the
# system database, else not emulated.
_OPEN_SYSTEM_TABLES = {
    "one",
    "numbers",
    "databases",
    "tables",
    "columns",
    "settings",
    "functions",
    "formats",
    "build_options",
    "time_zones",
    "table_functions",
    "data_type_families",
    "current_roles",
    "enabled_roles",
}
_PARTS_OF_ALL = {"CREATE", "DROP", "ALTER", "SHOW", "SYSTEM"}
# First words of statements that need the privilege of the same name on what they name.
_ON_NAME = {"ALTER", "TRUNCATE", "OPTIMIZE", "CHECK"}


class Grant(Struct, frozen=True, array_like=True):
    """A privilege on a table, all tables (``*``) of a database, or of all databases."""

    privilege: str
    database: str
    table: str

    def covers(self, needed: Grant) -> bool:
        """Whether it is enough."""
        if self.database not in ("*", needed.database) or self.table not in ("*", needed.table):
            return False
        return self.privilege in ("ALL", needed.privilege) or (
            needed.privilege.split()[0] == self.privilege and self.privilege in _PARTS_OF_ALL
        )


def missing_grant(sql: str, database: str, held: Sequence[Grant]) -> str | None:
    """The first grant that a statement needs and nobody gave, as text."""
    for needed in needed_grants(sql, database):
        if not any(grant.covers(needed) for grant in held):
            return f"{needed.privilege} ON {needed.database}.{needed.table}"
    return None


def needed_grants(sql: str, database: str) -> Iterator[Grant]:
    """What a statement needs.

    Args:
        sql: The statement.
        database: Where names without a database are looked up.
    """
    found = list(tokens(sql[:65536]))
    first = found[0].upper if found else ""
    head = parse_insert(sql)
    if head is not None:
        yield Grant("INSERT", head.database or database, head.table)
        if head.format is not None:
            return
    elif first in ("CREATE", "DROP", "ATTACH", "DETACH"):
        yield _of_object(found, database)
    elif first in _ON_NAME:
        named = next((i for i, token in enumerate(found) if token.upper == "TABLE"), 0) + 1
        yield Grant(first, *_name_at(found, named, database))
    elif first == "DELETE":
        yield Grant("ALTER DELETE", *_name_at(found, 2, database))
    elif first in ("RENAME", "EXCHANGE"):
        yield Grant("DROP TABLE", database, "*")
    elif [token.upper for token in found[:3]] == ["SYSTEM", "SYNC", "REPLICA"]:
        yield Grant("SYSTEM SYNC REPLICA", *_name_at(found, 3, database))
    elif first == "SYSTEM":
        yield Grant("SYSTEM", "*", "*")
    for name in _read_tables(found, database):
        if name[0] != "system" or name[1] not in _OPEN_SYSTEM_TABLES:
            yield Grant("SELECT", *name)


def _of_object(found: list[Token], database: str) -> Grant:
    verb = "CREATE" if found[0].upper in ("CREATE", "ATTACH") else "DROP"
    kind = "TABLE"
    position = 1
    for position in range(1, len(found)):
        word = found[position].upper
        if word in ("TABLE", "VIEW", "DATABASE", "DICTIONARY", "FUNCTION"):
            kind = word
            break
    position += 1
    while position < len(found) and found[position].upper in ("IF", "NOT", "EXISTS"):
        position += 1
    if kind == "DATABASE":
        name = found[position].name if position < len(found) else None
        return Grant(f"{verb} DATABASE", name or "*", "*")
    return Grant(f"{verb} {kind}", *_name_at(found, position, database))


def _name_at(found: list[Token], position: int, database: str) -> tuple[str, str]:
    names: list[str] = []
    while position < len(found) and (name := found[position].name) is not None:
        names.append(name)
        if position + 1 >= len(found) or found[position + 1].text != ".":
            break
        position += 2
    if not names:
        return database, "*"
    return (names[0], names[1]) if len(names) > 1 else (database, names[0])


def _read_tables(found: list[Token], database: str) -> Iterator[tuple[str, str]]:
    defined = {
        token.name
        for token, behind, opening in zip(found, found[1:], found[2:], strict=False)
        if behind.upper == "AS" and opening.text == "("
    }
    for position, token in enumerate(found[:-1]):
        if token.upper not in ("FROM", "JOIN") or found[position + 1].name is None:
            continue
        # EXTRACT(… FROM x), TRIM(… FROM x): what follows is no table, and is rare enough.
        name = _name_at(found, position + 1, database)
        behind = position + 2
        if behind < len(found) and found[behind].text == "(":
            continue
        if found[position + 1].upper == "INFILE" or found[position + 1].name in defined:
            continue
        yield name
