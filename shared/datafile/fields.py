"""The lines that several kinds of datafile have: names, descriptions, tokens, tags."""

from __future__ import annotations

import textwrap

from shared.clickhouse.sql import is_identifier
from shared.datafile.diagnostics import Diagnostics
from shared.datafile.lexer import Instruction
from shared.datafile.quoting import split_commas, words
from shared.datafile.source import SourceFile
from shared.model.resources import TokenGrant
from shared.model.workspace import did_you_mean

RESERVED_NAMES = frozenset(
    {"tinybird", "system", "public", "default", "main", "origin", "live", "snapshot"}
    | {"information_schema", "pipehouse"}
)


def check_resource_name(source: SourceFile, diagnostics: Diagnostics) -> None:
    """Report a file name that cannot be the name of a resource."""
    name = source.stem
    if not is_identifier(name):
        diagnostics.error(
            "bad_name",
            f"The file name '{name}' is not an identifier.",
            source.span(),
            "Use letters, digits and _, and begin with a letter or _.",
        )
    elif name.lower() in RESERVED_NAMES:
        diagnostics.error("reserved_name", f"The name '{name}' is reserved.", source.span())


def description(instruction: Instruction | None) -> str:
    """The text without its indentation, empty where there is no such line."""
    if instruction is None:
        return ""
    return textwrap.dedent(instruction.value).strip()


def token_grant(
    instruction: Instruction, value: str, permissions: tuple[str, ...], diagnostics: Diagnostics
) -> TokenGrant | None:
    """A TOKEN line; None where it was reported."""
    parts = words(value)
    known = " or ".join(permissions)
    if len(parts) != 2:
        diagnostics.error(
            "bad_token",
            f"TOKEN takes a name and a permission, found {len(parts)} words.",
            instruction.span,
            f'Write: TOKEN "name" {known}',
        )
        return None
    name, permission = parts[0], parts[1].upper()
    if permission not in permissions:
        diagnostics.error(
            "bad_token",
            f"Permission '{parts[1]}' of token '{name}' cannot be given here.",
            instruction.body.span(max(0, instruction.body.text.rfind(parts[1]))),
            did_you_mean(permission, permissions) or f"Only {known}.",
        )
        return None
    return TokenGrant(name, permission)


def tags(instruction: Instruction, value: str, diagnostics: Diagnostics) -> tuple[str, ...]:
    """The tags of a TAGS line in order, each once."""
    found = split_commas(value)
    if not found or any(not tag.partition("=")[0].strip() for tag in found):
        diagnostics.error("bad_tag", "TAGS needs names, separated by commas.", instruction.span)
    return tuple(dict.fromkeys(found))


def require_value(instruction: Instruction, value: str, diagnostics: Diagnostics) -> bool:
    """Whether there is a value; its absence is reported."""
    if value.strip():
        return True
    diagnostics.error("missing_value", f"{instruction.command} has no value.", instruction.span)
    return False
