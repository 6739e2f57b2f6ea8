"""Does the steps of a plan, one at a time; a plan made again after a stop holds what is left."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

import structlog

from deploy.plan import Plan
from shared.clickhouse.contract import ClickHouse, Statement
from shared.errors import QueryError

log = structlog.get_logger(__name__)


async def _nothing() -> None:
    """Before a step that nobody else may do."""


async def apply(
    clickhouse: ClickHouse, plan: Plan, before_step: Callable[[], Awaitable[None]] = _nothing
) -> Mapping[str, QueryError]:
    """Run every step in order; the data sources it disturbs must be at rest.

    Steps of resources that the plan refuses are not there. When ClickHouse refuses a step, the
    remaining steps of its resource are left out and those of others go on.

    Args:
        clickhouse: Where.
        plan: What.
        before_step: Called before each step; what it raises ends everything.

    Returns:
        What ClickHouse said, for each resource with a step that it refused.

    Raises:
        ClickHouseUnavailableError: The steps before it are done.
    """
    failed: dict[str, QueryError] = {}
    for step in plan.steps:
        if step.resource in failed:
            continue
        await before_step()
        try:
            await clickhouse.execute(Statement(sql=step.sql))
        except QueryError as error:
            failed[step.resource] = error
        else:
            log.info("deployed", step=step.summary)
    return failed
