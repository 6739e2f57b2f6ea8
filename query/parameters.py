"""The arguments of one request: query string, body, and what the token fixes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

# What clients send for themselves.
_OWN = frozenset({"token"})


def merge_arguments(
    query: Iterable[tuple[str, str]], body: Mapping[str, object], fixed: Mapping[str, object]
) -> dict[str, object]:
    """Arguments by name; the body wins over the query string, the token over both.

    Repeated names of the query string are joined with commas, which is how lists are written.
    Names that no template asks for do no harm: they are never looked up.
    """
    arguments: dict[str, object] = {}
    for name, value in query:
        if name in _OWN:
            continue
        before = arguments.get(name)
        arguments[name] = value if before is None else f"{before},{value}"
    arguments.update(body)
    arguments.update(fixed)
    return arguments
