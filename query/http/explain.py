"""``GET /v0/pipes/{name}/explain?…``: what a request would do, for whoever may read the pipe."""

from __future__ import annotations

from collections.abc import Iterable

from query.explain import Explanation, explain
from query.parameters import merge_arguments
from query.serving import Serving
from shared.auth.tokens import PIPES_READ, Grant
from shared.clickhouse.contract import ClickHouse, Limits

SUFFIX = "/explain"


async def explain_endpoint(
    serving: Serving,
    clickhouse: ClickHouse,
    limits: Limits,
    grant: Grant,
    name: str,
    pairs: Iterable[tuple[str, str]],
) -> Explanation:
    """Explain a request to an endpoint.

    Args:
        serving: Where the pipe is found.
        clickhouse: Who is asked.
        limits: What the questions may use.
        grant: Of the token; its row filters and fixed parameters count.
        name: The pipe.
        pairs: The query string.

    Raises:
        PermissionDeniedError: The token may not read the pipe.
        NotFoundError: There is no such endpoint.
        UserError: The request itself would be refused.
    """
    grant.require(PIPES_READ, name)
    pipe, node = serving.endpoint(name)
    arguments = merge_arguments(pairs, None, grant.fixed_params(name))
    planned = await serving.planner.plan(pipe, node, arguments, grant=grant)
    return await explain(clickhouse, planned, limits)
