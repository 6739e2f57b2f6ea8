"""A compiled template and the arguments of a request to SQL and its bindings."""

from __future__ import annotations

from collections.abc import Container, Mapping

from msgspec import Struct

from query.template.compile import Template
from query.template.emit import check_output
from query.template.source import template_error
from query.template.state import (
    DEFAULT_LIMITS,
    OverLimitError,
    RenderLimits,
    RenderState,
    parameter_error,
)
from shared.clickhouse.sql import ParameterValue
from shared.errors import TemplateCustomError, TemplateError

_NO_SECRETS: Mapping[str, str] = {}


class Rendered(Struct, frozen=True, kw_only=True):
    """SQL whose values are beside it, and what the template asked for.

    ``bindings`` are named ``p1``, ``p2``, … in the order in which they stand in ``sql``;
    ``next_binding`` is the number to go on with in the same statement. ``secret_bindings`` names
    those that no log may show.
    """

    sql: str
    bindings: dict[str, ParameterValue]
    next_binding: int
    max_threads: int | None = None
    cache_ttl_s: int | None = None
    activate: tuple[str, ...] = ()
    disable: tuple[str, ...] = ()
    secret_bindings: tuple[str, ...] = ()


def render(
    template: Template,
    arguments: Mapping[str, object],
    *,
    resources: Container[str] = (),
    readable: Container[str] | None = None,
    secrets: Mapping[str, str] = _NO_SECRETS,
    first_binding: int = 1,
    test_mode: bool = False,
    strict_enums: bool = False,
    limits: RenderLimits = DEFAULT_LIMITS,
) -> Rendered:
    """Render a template.

    Args:
        template: What to render.
        arguments: Values by name: text from a URL, or anything JSON has.
        resources: What ``table()`` may name by the template's own words.
        readable: What it may name by the caller's; None means all of ``resources``.
        secrets: Values for ``tb_secret()``, with or without the prefix ``tb_secret_``.
        first_binding: The number of the first binding, where several templates share a statement.
        test_mode: Put stand-ins where values are missing, to see whether the SQL holds.
        strict_enums: Refuse values that are not among those which the template lists.
        limits: What the render may use.

    Raises:
        ParameterError: Every missing or bad parameter of this render.
        TemplateError: The template cannot be rendered; ``errors`` has line and column.
        TemplateCustomError: The template itself refused, with ``error()`` or ``custom_error()``.
    """
    state = RenderState(
        arguments,
        resources=resources,
        readable=resources if readable is None else readable,
        secrets=secrets,
        first_binding=first_binding,
        test_mode=test_mode,
        limits=limits,
    )
    if strict_enums:
        state.strict_enums = True
    sql = _run(template, state)
    return Rendered(
        sql=sql,
        bindings=state.bindings,
        next_binding=state.next_binding,
        max_threads=state.max_threads,
        cache_ttl_s=state.cache_ttl_s,
        activate=state.activate,
        disable=state.disable,
        secret_bindings=state.secret_bindings,
    )


def _run(template: Template, state: RenderState) -> str:
    """The SQL, once nothing is wrong with the request."""
    try:
        template.run(state)
        sql = check_output(state)
    except OverLimitError as error:
        raise template_error(str(error), template.sql, 0, limit=True) from None
    except (TemplateError, TemplateCustomError):
        # After a stand-in for a bad parameter anything may follow; the parameter is the cause.
        if state.problems:
            raise parameter_error(state.problems) from None
        raise
    if state.problems:
        raise parameter_error(state.problems)
    return sql
