"""A whole project: its resources by name, and look-ups that know the near miss."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping

from msgspec import Struct, field

from shared.errors import NotFoundError
from shared.model.resources import Connection, Datasource, Pipe


def near_miss(name: str, known: Iterable[str]) -> str | None:
    """The known name that ``name`` was probably meant to be, None where nothing is close."""
    matches = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return matches[0] if matches else None


def did_you_mean(name: str, known: Iterable[str]) -> str | None:
    """The hint that goes with an unknown name."""
    match = near_miss(name, known)
    return f"Did you mean '{match}'?" if match else None


class SecretValues(dict[str, str]):
    """Values by name that no log may show."""

    def __repr__(self) -> str:
        return f"SecretValues({', '.join(sorted(self))})"


class Workspace(Struct, frozen=True, kw_only=True):
    """Everything a deployment serves; ``secrets`` are those that its templates name."""

    datasources: Mapping[str, Datasource] = field(default_factory=dict)
    pipes: Mapping[str, Pipe] = field(default_factory=dict)
    connections: Mapping[str, Connection] = field(default_factory=dict)
    secrets: SecretValues = field(default_factory=SecretValues)

    def datasource(self, name: str) -> Datasource:
        """The data source of that name.

        Raises:
            NotFoundError: There is none; the hint names the near miss.
        """
        found = self.datasources.get(name)
        if found is None:
            raise NotFoundError(
                f"Data source '{name}' not found.", hint=did_you_mean(name, self.datasources)
            )
        return found

    def pipe(self, name: str) -> Pipe:
        """The pipe of that name.

        Raises:
            NotFoundError: There is none; the hint names the near miss.
        """
        found = self.pipes.get(name)
        if found is None:
            raise NotFoundError(f"Pipe '{name}' not found.", hint=did_you_mean(name, self.pipes))
        return found
