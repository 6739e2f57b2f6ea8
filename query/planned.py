"""A planned statement, and the value that grows into one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec import Struct, field

from query.access import NO_FILTERS, RowFilters
from query.template.render import Rendered
from query.threads import fewer
from shared.auth.tokens import Grant
from shared.clickhouse.contract import Limits, SettingValue, Statement
from shared.clickhouse.sql import ParameterValue
from shared.errors import ParameterError

# Of what ``activate()`` names; the analyzer is what every plan is written for.
_ACTIVATED: Mapping[str, Mapping[str, SettingValue]] = {
    "analyzer": {},
    "parallel_replicas": {"enable_parallel_replicas": 1},
    "optimize_aggregation_in_order": {"optimize_aggregation_in_order": 1},
}


class Planned(Struct, frozen=True, kw_only=True):
    """One statement, its bindings, and what its templates asked for.

    ``settings`` must be sent with it: the row filters of the token are among them. ``tables`` are
    the data sources and quarantine tables it reads, ``names`` everything that its WITH clauses
    read or define; ``has_operands``: some of that right of IN. ``cache_ttl_s`` is the shortest that
    a template asked for. ``is_volatile``: the same data may give another answer a moment later.
    ``secret_bindings`` are those no log may show.
    """

    sql: str
    bindings: Mapping[str, ParameterValue]
    tables: frozenset[str] = frozenset()
    names: frozenset[str] = frozenset()
    has_operands: bool = False
    settings: Mapping[str, SettingValue] = field(default_factory=dict)
    cache_ttl_s: int | None = None
    is_volatile: bool = False
    secret_bindings: frozenset[str] = frozenset()

    def statement(
        self,
        format_: str | None,
        *,
        limits: Limits,
        settings: Mapping[str, SettingValue] | None = None,
    ) -> Statement:
        """What the engine is sent: read-only, and with its own settings whatever else is asked.

        Args:
            format_: The output format, None where the text has one.
            limits: What it may use.
            settings: Of the output; they cannot take the place of the statement's own.
        """
        return Statement(
            sql=self.sql,
            parameters=self.bindings,
            format=format_,
            readonly=True,
            limits=limits,
            settings={**(settings or {}), **self.settings},
        )


class Request(Struct, frozen=True, kw_only=True):
    """Who asks, and with what.

    ``grant`` None is the project itself: nothing is withheld. ``test_mode`` puts stand-ins where
    values are missing.
    """

    arguments: Mapping[str, object] = field(default_factory=dict)
    grant: Grant | None = None
    test_mode: bool = False


class Growth(Struct, kw_only=True):
    """A statement while it is put together; mutable for that reason.

    ``max_threads`` is the most it may use, 0 where nothing bounds it.
    """

    request: Request
    filters: RowFilters = NO_FILTERS
    bindings: dict[str, ParameterValue] = field(default_factory=dict)
    tables: set[str] = field(default_factory=set)
    names: set[str] = field(default_factory=set)
    has_operands: bool = False
    problems: list[ParameterError] = field(default_factory=list)
    next_binding: int = 1
    max_threads: int = 0
    settings: dict[str, SettingValue] = field(default_factory=dict)
    cache_ttl_s: int | None = None
    is_volatile: bool = False
    secret_bindings: set[str] = field(default_factory=set)

    def add(self, rendered: Rendered) -> None:
        """Take over the bindings of a template and what it asked for."""
        self.next_binding = rendered.next_binding
        self.bindings.update(rendered.bindings)
        self.secret_bindings.update(rendered.secret_bindings)
        for feature in rendered.activate:
            self.settings.update(_ACTIVATED[feature])
        if rendered.max_threads is not None:
            self.settings["max_threads"] = fewer(rendered.max_threads, self.max_threads)
        if rendered.cache_ttl_s is not None:
            self.cache_ttl_s = min(rendered.cache_ttl_s, self.cache_ttl_s or rendered.cache_ttl_s)

    def finished(self, sql: str) -> Planned:
        """The statement.

        Raises:
            ParameterError: Every missing and bad parameter of all its templates.
        """
        if self.problems:
            raise all_of(self.problems)
        return Planned(
            sql=sql,
            bindings=self.bindings,
            tables=frozenset(self.tables),
            names=frozenset(self.names),
            has_operands=self.has_operands,
            settings=self.settings,
            cache_ttl_s=self.cache_ttl_s,
            is_volatile=self.is_volatile,
            secret_bindings=frozenset(self.secret_bindings),
        )


def all_of(problems: Sequence[ParameterError]) -> ParameterError:
    """Every bad parameter of a request as one error, each of them once."""
    if len(problems) == 1:
        return problems[0]
    errors = {str(e.get("error")): e for problem in problems for e in problem.errors}
    return ParameterError(" ".join(errors), errors=list(errors.values()))
