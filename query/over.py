"""SQL over the result of an endpoint: ``?q=SELECT count() FROM _``."""

from __future__ import annotations

from msgspec.structs import replace

from query.access import NO_OUTER_COLUMNS, check_capture
from query.plan import Parse
from query.planned import Planned
from query.threads import bounded
from query.with_clause import attach
from shared.clickhouse.allowlist import check_select
from shared.errors import QueryError

RESULT = "_"


async def over_result(parse: Parse, planned: Planned, sql: str, *, max_threads: int = 0) -> Planned:
    """The statement that runs ``sql`` over what ``planned`` answers, which it calls ``_``.

    It may read nothing else, so it can tell no more than the endpoint itself.

    Raises:
        QueryError: It does not parse, is no SELECT, or does what free SQL may not do.
        PermissionDeniedError: It reads something else than ``_``.
    """
    sql = sql.strip().rstrip(";").rstrip()
    if not sql:
        raise QueryError("The parameter 'q' is empty.", hint="For instance q=SELECT * FROM _.")
    analysis = await parse(sql)
    if analysis.format is not None:
        raise QueryError(
            "'q' names a format.", hint="The ending of the URL does that: leave FORMAT out."
        )
    if analysis.parameters:
        raise QueryError("'q' cannot have query parameters.")
    check_select(analysis, tables={RESULT})
    check_capture(analysis, planned.names)
    sql = await bounded(parse, sql, analysis, max_threads)
    return replace(
        planned,
        sql=attach({RESULT: planned.sql}, sql),
        settings={**planned.settings, **(NO_OUTER_COLUMNS if planned.has_operands else {})},
        is_volatile=planned.is_volatile or analysis.is_volatile,
    )
