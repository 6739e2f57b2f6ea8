"""What is being served right now: a workspace and its planner, replaced together."""

from __future__ import annotations

from collections.abc import Mapping

from query.plan import Parse, Planner
from shared.errors import NotFoundError
from shared.model.resources import Node, Pipe
from shared.model.workspace import Workspace


class Serving:
    """The live workspace; a ``Catalog`` for everybody else.

    Args:
        parse: The engine's own parser.
        database: Where the engine has the tables; its current database by default.
        strict_enums: Whether values that a template does not list are refused.
        max_threads: See ``Planner``.
    """

    def __init__(
        self,
        parse: Parse,
        database: str = "",
        *,
        strict_enums: bool = False,
        max_threads: int = 0,
    ) -> None:
        self.parse = parse
        self._database = database
        self._strict_enums = strict_enums
        self._max_threads = max_threads
        self._broken: Mapping[str, str] = {}
        self.planner = self.planner_for(Workspace())

    @property
    def workspace(self) -> Workspace:
        """See ``Catalog``."""
        return self.planner.workspace

    def planner_for(self, workspace: Workspace) -> Planner:
        """A planner as the one of this service, for another workspace."""
        return Planner(
            workspace,
            self.parse,
            database=self._database,
            strict_enums=self._strict_enums,
            max_threads=self._max_threads,
        )

    def replace(self, workspace: Workspace, broken: Mapping[str, str]) -> None:
        """Serve another workspace from the next request on.

        Args:
            workspace: What can be served.
            broken: Pipes of the project that cannot, each with the place of its first problem.
        """
        self._broken = broken
        self.planner = self.planner_for(workspace)

    def endpoint(self, name: str) -> tuple[Pipe, Node]:
        """The pipe of that name and the node that answers for it.

        Raises:
            NotFoundError: There is none, it has no endpoint, or it is broken.
        """
        if name not in self.workspace.pipes and name in self._broken:
            raise NotFoundError(
                f"Pipe '{name}' is not served: {self._broken[name].rstrip('.')}.",
                hint="Mend its datafile, or set what it needs.",
            )
        pipe = self.workspace.pipe(name)
        node = pipe.endpoint
        if node is None:
            raise NotFoundError(
                f"Pipe '{name}' has no endpoint.", hint="Add TYPE endpoint to one of its nodes."
            )
        return pipe, node
