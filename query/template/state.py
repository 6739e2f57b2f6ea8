"""One render while it runs: names, output, bindings, what is wrong so far, and what is left."""

from __future__ import annotations

import reprlib
from collections.abc import Container, Mapping, Sequence

from msgspec import UNSET, Struct, UnsetType

from query.template.sql_context import SqlState
from query.template.values import Secret
from shared.clickhouse.sql import ParameterValue
from shared.errors import ParameterError


class RenderLimits(Struct, frozen=True, kw_only=True):
    """What one render may use.

    ``steps`` counts turns of loops times what stands in them, and the work on long texts and
    lists. ``output_bytes`` bounds the SQL, and long bound values with it. ``value_items`` bounds
    every list and text that a template makes (a text counts one per 256 characters);
    ``nesting`` how deep lists lie in lists.
    """

    steps: int = 100_000
    output_bytes: int = 1_000_000
    value_items: int = 100_000
    nesting: int = 32


DEFAULT_LIMITS = RenderLimits()


_PROBLEM_STEPS = 20


class EvaluationError(Exception):
    """Something that cannot be evaluated; the statement around it adds line and column."""


class OverLimitError(EvaluationError):
    """A limit was reached; a template cannot catch it."""


class Problem(Struct, frozen=True, kw_only=True):
    """What is wrong with one parameter; ``value`` is unset where it is missing or secret."""

    parameter: str
    error: str
    expected: str
    example: str
    value: object | UnsetType = UNSET


def parameter_error(problems: Sequence[Problem]) -> ParameterError:
    """All problems of a request as one error, each of them once, in order of appearance."""
    errors: dict[tuple[str, str], dict[str, object]] = {}
    for problem in problems:
        entry: dict[str, object] = {"parameter": problem.parameter, "error": problem.error}
        if problem.value is not UNSET:
            entry["value"] = problem.value
        entry["expected"], entry["example"] = problem.expected, problem.example
        errors.setdefault((problem.parameter, problem.error), entry)
    message = " ".join(f"{entry['error']}" for entry in errors.values())
    return ParameterError(message, errors=list(errors.values()))


class RenderState:
    """Mutable on purpose, and private to one render.

    What most renders never change stands on the class, which makes a state in half the time.
    """

    problems: tuple[Problem, ...] = ()
    secret_bindings: tuple[str, ...] = ()
    activate: tuple[str, ...] = ()
    disable: tuple[str, ...] = ()
    max_threads: int | None = None
    cache_ttl_s: int | None = None
    catching = 0
    strict_enums = False
    size = 0
    scanned: tuple[int, SqlState] | None = None

    def __init__(
        self,
        arguments: Mapping[str, object],
        *,
        resources: Container[str],
        readable: Container[str],
        secrets: Mapping[str, str],
        first_binding: int,
        test_mode: bool,
        limits: RenderLimits,
    ) -> None:
        self.variables: dict[str, object] = dict(arguments)
        self.resources = resources
        self.readable = readable
        self.secrets = secrets
        self.next_binding = first_binding
        self.test_mode = test_mode
        self.limits = limits
        self.out: list[str] = []
        self.bindings: dict[str, ParameterValue] = {}
        self.steps = limits.steps

    def charge(self, steps: int) -> None:
        """Take steps off what is left.

        Raises:
            OverLimitError: None are left.
        """
        self.steps -= steps
        if self.steps < 0:
            raise OverLimitError(f"The template takes more than {self.limits.steps} steps")

    def grow(self, size: int) -> None:
        """Count output.

        Raises:
            OverLimitError: It is more than there may be.
        """
        self.size += size
        if self.size > self.limits.output_bytes:
            limit = self.limits.output_bytes
            raise OverLimitError(f"The rendered SQL and its values are longer than {limit} bytes")

    def weigh(self, value: object) -> None:
        """Charge for work on a value, and hold it to the limits on size and nesting.

        Every list is weighed when it is made and none changes afterwards, so that comparing,
        hashing or showing one is bounded too, however often it contains the same item.
        """
        if isinstance(value, str):
            weight = len(value) >> 8
        else:
            weight = self._weight(value, self.limits.value_items, self.limits.nesting)
        if weight > self.limits.value_items:
            raise OverLimitError(f"A value is larger than {self.limits.value_items} items")
        self.charge(weight >> 4)

    def _weight(self, value: object, room: int, depth: int) -> int:
        """One per item, stopping soon after ``room`` is exceeded."""
        if isinstance(value, str):
            return 1 + (len(value) >> 8)
        if isinstance(value, range):
            return len(value)
        if not isinstance(value, list | tuple | dict | set):
            return 1
        if depth == 0:
            raise OverLimitError(f"Lists are nested deeper than {self.limits.nesting} levels")
        weight = 1
        for item in value.values() if isinstance(value, dict) else value:
            weight += self._weight(item, room - weight, depth - 1)
            if weight > room:
                break
        return weight

    def report(self, problem: Problem) -> None:
        """Keep a problem for the end of the render, where all are raised together.

        Raises:
            ParameterError: At once, inside ``{% try %}``.
            OverLimitError: There are too many.
        """
        self.charge(_PROBLEM_STEPS)
        if self.catching:
            raise parameter_error([problem])
        self.problems += (problem,)

    def missing(self, parameter: str, expected: str, example: str) -> None:
        """Report a parameter without a value."""
        error = f"Parameter '{parameter}' is required."
        self.report(Problem(parameter=parameter, error=error, expected=expected, example=example))

    def bad(self, parameter: str, value: object, expected: str, example: str) -> None:
        """Report a parameter whose value is not what was expected."""
        if isinstance(value, Secret):
            error = f"Parameter '{parameter}' must be {expected}."
            shown: object | UnsetType = UNSET
        else:
            shown = shorten(value)
            error = f"Parameter '{parameter}' must be {expected}, not '{shown}'."
        self.report(
            Problem(
                parameter=parameter, error=error, expected=expected, example=example, value=shown
            )
        )


def shorten(value: object) -> str:
    """A value for a message: one line of at most 100 characters."""
    text = value[:400] if isinstance(value, str) else reprlib.repr(value)
    text = " ".join(text.split()) if "\n" in text else text
    return text if len(text) <= 100 else text[:99] + "…"
