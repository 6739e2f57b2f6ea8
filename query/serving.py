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
    """

    def __init__(self, parse: Parse) -> None:
        self.parse = parse
        self._broken: Mapping[str, str] = {}
        self.planner = Planner(Workspace(), parse)

    @property
    def workspace(self) -> Workspace:
        """See ``Catalog``."""
        return self.planner.workspace

    def replace(self, workspace: Workspace, broken: Mapping[str, str]) -> None:
        """Serve another workspace from the next request on.

        Args:
            workspace: What can be served.
            broken: Pipes of the project that cannot, each with the place of its first problem.
        """
        self._broken = broken
        self.planner = Planner(workspace, self.parse)

    def endpoint(self, name: str) -> tuple[Pipe, Node]:
        """The pipe of that name and the node that answers for it.

        Raises:
            NotFoundError: There is none, it has no endpoint, or it is broken.
        """
        if name not in self.workspace.pipes and name in self._broken:
            raise NotFoundError(
                f"Pipe '{name}' is not served: {self._broken[name]}.", hint="Mend its datafile."
            )
        pipe = self.workspace.pipe(name)
        node = pipe.endpoint
        if node is None:
            raise NotFoundError(
                f"Pipe '{name}' has no endpoint.", hint="Add TYPE endpoint to one of its nodes."
            )
        return pipe, node
