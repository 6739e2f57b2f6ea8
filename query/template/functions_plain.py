"""Functions on plain values: the part of Python's built-ins that templates use, and dates.

None changes a value it is given, and every list that one makes is weighed: see
``RenderState.weigh``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from query.template.state import EvaluationError, OverLimitError, RenderState, shorten
from query.template.values import BadValueError, read_date, read_datetime, read_float, read_integer

_MAX_TEXT = 1_000_000
_DATE_FORMAT = "%Y-%m-%d %H:%M:%S"
_DIRECTIVES = re.compile(r"(?:[^%]|%[YmdHMSfyjbBzZ%pIT])*")


def sequence(state: RenderState, value: object) -> Sequence[object]:
    """Whatever can be gone through, as a sequence.

    Raises:
        EvaluationError: It cannot be gone through.
    """
    if isinstance(value, list | tuple | range | str):
        items: Sequence[object] = value
    elif isinstance(value, dict | set):
        items = list(value)
    elif value is None and state.test_mode:
        items = []
    elif value is None:
        raise EvaluationError("A list is needed where there is no value")
    else:
        raise EvaluationError(f"A list is needed, not a {type(value).__name__}")
    state.charge(len(items) >> 4)
    return items


def _made(state: RenderState, items: list[object]) -> list[object]:
    state.weigh(items)
    return items


def length(state: RenderState, value: object) -> object:
    """How many items or characters."""
    return len(sequence(state, value))


def to_list(state: RenderState, value: object = ()) -> object:
    """A list of the items."""
    return _made(state, list(sequence(state, value)))


def to_tuple(state: RenderState, value: object = ()) -> object:
    """A tuple of the items."""
    return tuple(_made(state, list(sequence(state, value))))


def to_set(state: RenderState, value: object = ()) -> object:
    """The different items."""
    return set(_made(state, list(sequence(state, value))))


def to_dict(state: RenderState, value: object = ()) -> object:
    """A mapping from another, or from pairs."""
    if isinstance(value, dict):
        return dict(value)
    pairs = [tuple(sequence(state, pair)) for pair in sequence(state, value)]
    if any(len(pair) != 2 for pair in pairs):
        raise EvaluationError("dict() takes pairs")
    return dict(pairs)  # type: ignore[arg-type]


def to_text(state: RenderState, value: object = "") -> object:
    """The value as text."""
    state.weigh(value)
    text = value if isinstance(value, str) else str(value)
    return checked_text(state, text)


def checked_text(state: RenderState, text: str) -> str:
    """A text a template made, if it is not too long."""
    if len(text) > _MAX_TEXT:
        raise OverLimitError(f"A text is longer than {_MAX_TEXT} characters")
    state.charge(len(text) >> 10)
    return text


def check_text_size(size: int) -> None:
    """Refuse to make a text that would be too long."""
    if size > _MAX_TEXT:
        raise OverLimitError(f"A text is longer than {_MAX_TEXT} characters")


def to_int(state: RenderState, value: object = 0) -> object:
    """A whole number from a number or digits; fractions are cut off."""
    if isinstance(value, float | bool):
        return int(value)
    try:
        short = value.strip() if isinstance(value, str) and len(value) <= 100 else value
        return read_integer(short)
    except BadValueError:
        raise EvaluationError(f"int() takes a whole number, not '{shorten(value)}'") from None


def to_float(state: RenderState, value: object = 0.0) -> object:
    """A number from a number or text."""
    try:
        return read_float(int(value) if isinstance(value, bool) else value)
    except BadValueError:
        raise EvaluationError(f"float() takes a number, not '{shorten(value)}'") from None


def to_bool(state: RenderState, value: object = False) -> object:
    """Whether a condition would take the value as true."""
    return bool(value)


def _operands(state: RenderState, values: tuple[object, ...]) -> Sequence[object]:
    items = sequence(state, values[0]) if len(values) == 1 else values
    state.weigh(items)
    return items


def minimum(state: RenderState, *values: object) -> object:
    """The smallest of the values, or of the items of the only one."""
    return min(_operands(state, values))  # type: ignore[type-var]


def maximum(state: RenderState, *values: object) -> object:
    """The largest of the values, or of the items of the only one."""
    return max(_operands(state, values))  # type: ignore[type-var]


def total(state: RenderState, values: object, start: object = 0) -> object:
    """The sum of numbers."""
    items = [start, *sequence(state, values)]
    if not all(isinstance(item, int | float) for item in items):
        raise EvaluationError("sum() takes numbers")
    return sum(items)  # type: ignore[arg-type]


def absolute(state: RenderState, value: object) -> object:
    """The number without its sign."""
    return abs(value)  # type: ignore[arg-type]


def rounded(state: RenderState, value: object, digits: object = None) -> object:
    """The number rounded as Python does."""
    if digits is not None and not (isinstance(digits, int) and -400 < digits < 400):
        raise EvaluationError("round() takes a number of digits")
    return round(value, digits)  # type: ignore[call-overload]


def numbers(state: RenderState, *bounds: object) -> object:
    """Python's range."""
    if not all(isinstance(bound, int) for bound in bounds):
        raise EvaluationError("range() takes whole numbers; write Int32(...) around a parameter")
    checked: Any = bounds
    result = range(*checked)
    if result and (max(abs(result.start), abs(result.stop)) >= 2**62):
        raise OverLimitError("A range is too wide")
    if len(result) > state.limits.value_items:
        raise OverLimitError(f"A range has more than {state.limits.value_items} items")
    return result


def enumerated(state: RenderState, values: object, start: object = 0) -> object:
    """Pairs of position and item."""
    if not isinstance(start, int):
        raise EvaluationError("enumerate() starts at a whole number")
    return _made(state, list(enumerate(sequence(state, values), start)))


def enumerate_with_last(state: RenderState, values: object) -> object:
    """Pairs of whether it is the last, and the item."""
    items = sequence(state, values)
    last = len(items) - 1
    return _made(state, [(at == last, item) for at, item in enumerate(items)])


def zipped(state: RenderState, *values: object) -> object:
    """Items of several lists side by side, as many as the shortest has."""
    columns: list[Iterable[object]] = [sequence(state, value) for value in values]
    return _made(state, list(zip(*columns, strict=False)))


def reverse(state: RenderState, values: object) -> object:
    """The items from the last to the first."""
    return _made(state, list(sequence(state, values))[::-1])


def sort(state: RenderState, values: object, reverse: object = False) -> object:
    """The items in order."""
    items = list(sequence(state, values))
    state.weigh(items)
    state.charge(len(items))
    return sorted(items, reverse=bool(reverse))  # type: ignore[type-var]


def any_of(state: RenderState, values: object) -> object:
    """Whether one item is true."""
    return any(sequence(state, values))


def all_of(state: RenderState, values: object) -> object:
    """Whether every item is true."""
    return all(sequence(state, values))


def day_diff(state: RenderState, first: object, second: object) -> object:
    """Whole days between two ``YYYY-MM-DD``, without sign."""
    if state.test_mode and (first is None or second is None):
        return 0
    try:
        days = [datetime.fromisoformat(read_date(value)) for value in (first, second)]
    except BadValueError:
        raise EvaluationError("day_diff() takes two days as YYYY-MM-DD") from None
    return abs((days[1] - days[0]).days)


def _difference_s(
    state: RenderState,
    first: object,
    second: object,
    date_format: object,
    backup_date_format: object,
) -> int | None:
    if state.test_mode and (first is None or second is None):
        return 0
    formats = [each for each in (date_format, backup_date_format) if each is not None]
    moments = [_moment(value, formats) for value in (first, second)]
    if moments[0] is None or moments[1] is None:
        return None
    return int(abs((moments[1] - moments[0]).total_seconds()))


def _moment(value: object, formats: list[object]) -> datetime | None:
    text = value if isinstance(value, str) else ""
    if not text or len(text) > 100:
        return None
    for each in formats:
        if not isinstance(each, str) or len(each) > 100 or not _DIRECTIVES.fullmatch(each):
            raise EvaluationError("A date format is not one that is known")
        if each == _DATE_FORMAT:
            try:
                return datetime.fromisoformat(read_datetime(text)[:26]).replace(tzinfo=UTC)
            except (BadValueError, ValueError):
                continue
        try:
            moment = datetime.strptime(text, each)  # noqa: DTZ007 - differences need no zone
        except (ValueError, re.error):
            continue
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return None


class _Unit:
    """``date_diff_in_<unit>(d0, d1, date_format, …)``: whole units between two times."""

    def __init__(self, name: str, seconds: int) -> None:
        self._name = name
        self._seconds = seconds

    def __call__(
        self,
        state: RenderState,
        date_1: object,
        date_2: object,
        date_format: object = _DATE_FORMAT,
        default: object = None,
        backup_date_format: object = None,
        none_if_error: object = False,
    ) -> object:
        difference = _difference_s(state, date_1, date_2, date_format, backup_date_format)
        if difference is not None:
            return difference // self._seconds
        if default is not None or none_if_error:
            return default
        shape = "YYYY-MM-DD hh:mm:ss" if date_format == _DATE_FORMAT else date_format
        raise EvaluationError(f"{self._name}() takes two times as {shape}")


DATE_DIFFERENCES = {
    f"date_diff_in_{unit}": _Unit(f"date_diff_in_{unit}", seconds)
    for unit, seconds in (("seconds", 1), ("minutes", 60), ("hours", 3600), ("days", 86_400))
}
