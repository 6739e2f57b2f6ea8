"""The arguments of one request: query string, body, and what the token fixes; pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

# Meant for the request itself, and no names that a template could declare. Whatever else clients
# send along (``utm_source``, ``debug``, ``cli_version``) is kept: a template may ask for it, and
# one that does not never looks.
_REQUEST_OWN = frozenset({"token", "q", "format", "from"})
_REQUEST_PREFIX = "__tb__"


def merge_arguments(
    query: Iterable[tuple[str, str]],
    body: Mapping[str, object] | None,
    fixed: Mapping[str, object],
) -> dict[str, object]:
    """Arguments by name; the body wins over the query string, the token over both.

    Args:
        query: Names and values of the query string, in order; values stay text, and those of a
            repeated name are joined with commas, which is how lists are written.
        body: A form or JSON object; a null says nothing.
        fixed: What the token fixes, so that nobody can see the rows of others.
    """
    arguments: dict[str, object] = {}
    for name, value in query:
        if not _is_own(name):
            before = arguments.get(name)
            arguments[name] = value if before is None else f"{before},{value}"
    for name, given in (body or {}).items():
        if not _is_own(name) and given is not None:
            arguments[name] = given
    arguments.update(fixed)
    return arguments


def _is_own(name: str) -> bool:
    return name in _REQUEST_OWN or name.startswith(_REQUEST_PREFIX)
