"""The project as it is live right now."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from shared.model.workspace import Workspace


@runtime_checkable
class Catalog(Protocol):
    """Knows the live project; it may be another one at the next look."""

    @property
    def workspace(self) -> Workspace:
        """The live project, one consistent value."""
        ...


class StaticCatalog:
    """A catalog whose project changes only when it is replaced."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace

    @property
    def workspace(self) -> Workspace:
        """See ``Catalog``."""
        return self._workspace

    def replace(self, workspace: Workspace) -> None:
        """Make another project the live one."""
        self._workspace = workspace
