"""Does the steps of a plan, one at a time; a plan made again after a stop holds what is left."""

from __future__ import annotations

import structlog

from deploy.plan import Plan
from shared.clickhouse.contract import ClickHouse, Statement
from shared.errors import DataLossRefusedError

log = structlog.get_logger(__name__)


def refuse(plan: Plan) -> None:
    """Raise what the plan refuses.

    Raises:
        DataLossRefusedError: With every refusal.
    """
    if not plan.refusals:
        return
    first = plan.refusals[0]
    more = f" (and {len(plan.refusals) - 1} more)" if len(plan.refusals) > 1 else ""
    raise DataLossRefusedError(
        f"{first.resource}: {first.reason}{more}.",
        hint=first.hint,
        errors=[{"resource": r.resource, "error": r.reason, "hint": r.hint} for r in plan.refusals],
    )


async def apply(clickhouse: ClickHouse, plan: Plan) -> None:
    """Run every step in order; the data sources it disturbs must be at rest.

    Raises:
        DataLossRefusedError: The plan refuses something; nothing was done.
        QueryError: ClickHouse refused a step; the steps before it are done.
    """
    refuse(plan)
    for step in plan.steps:
        await clickhouse.execute(Statement(sql=step.sql))
        log.info("deployed", step=step.summary)
