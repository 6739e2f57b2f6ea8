"""Dates and times: which texts and numbers are accepted, and the form in which they are stored.

Texts are ``YYYY-MM-DD`` with an optional ``HH:MM:SS[.fraction]`` behind a space or ``T`` and an
optional ``Z`` or offset; without one they are in the column's time zone. Numbers are seconds since
1970; for DateTime64 whole numbers from 10^11 on are milliseconds, from 10^14 on microseconds, from
10^17 on nanoseconds. Digits beyond the column's precision are cut. A Date is the day as written.

The engine saturates what is out of range without a word, so calendar and range are checked here.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from datetime import UTC, date, datetime, timedelta
from decimal import ROUND_FLOOR, Decimal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from msgspec import Struct

from shared.errors import DatafileError
from shared.model.types import ColumnType

_TEXT = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})"
    r"(?:[ T]([0-9]{2}:[0-9]{2}:[0-9]{2})(?:\.([0-9]+))?(Z|[+-][0-9]{2}(?::?[0-9]{2})?)?)?\Z"
)
_DIGITS_TO_ZERO = bytes.maketrans(b"123456789", b"000000000")
# A tens digit is one of the bits 1 (0), 2 (1), 4 (2) and 8 (3 and more), see _pairs_fit.
_TENS = bytes.maketrans(b"0123456789", b"\1\2\4" + b"\x08" * 7)
_MONTH_UNITS = bytes.maketrans(b"0123456789", b"\x0d" + b"\x0c" * 2 + b"\x0e" * 7)
_DAY_UNITS = bytes.maketrans(b"0123456789", b"\x09" + b"\x08" * 8 + b"\x0c")
_HOUR_UNITS = bytes.maketrans(b"0123456789", b"\x08" * 4 + b"\x0c" * 6)
_DAY_LENGTH = 10
_LENGTHS = {"Date": 10, "Date32": 10, "DateTime": 19}
_FEW = 4
_SHAPE = re.compile(rb"0000-00-00(?:[ T]00:00:00(?:\.0+)?Z?)?\Z")
_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - wall clock times are compared without a zone
_MAX_SECONDS_32 = 2**32 - 1
_UNITS = ((10**11, 1), (10**14, 10**3), (10**17, 10**6))
_DAY = timedelta(days=1)
_NANO = Decimal("1e-9")
_BOUNDS = {
    "Date": ("1970-01-01 00:00:00", "2149-06-06 23:59:59"),
    "Date32": ("1900-01-01 00:00:00", "2299-12-31 23:59:59"),
    "DateTime": ("1970-01-01 00:00:00", "2106-02-07 06:28:15"),
    "DateTime64": ("1900-01-01 00:00:00", "2299-12-31 23:59:59"),
}
_LAST_NANOSECOND = "2262-04-11 23:47:15"
_LAST_MILLISECOND = 9_223_372_036_000


class Refusal(Struct, frozen=True):
    """Why a value cannot be stored, as one sentence without the column's name."""

    message: str


class TimeRule(Struct, frozen=True, kw_only=True):
    """What one date or time column takes; the bounds are wall clock times, both inclusive.

    ``zone`` is None for UTC. ``precision`` counts fractional digits. From ``first_day`` to
    ``last_day`` every second is in range in any zone.
    """

    kind: str
    lowest: datetime
    highest: datetime
    first_day: str
    last_day: str
    precision: int = 0
    zone: ZoneInfo | None = None


def time_rule(column_type: ColumnType) -> TimeRule:
    """The rule of a Date, Date32, DateTime or DateTime64.

    Raises:
        DatafileError: Its time zone does not exist.
    """
    kind = column_type.name
    precision = next((c for c in column_type.constants if isinstance(c, int)), 0)
    name = next((c for c in column_type.constants if isinstance(c, str)), "UTC")
    try:
        zone = None if name in ("UTC", "Etc/UTC") else ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError):
        raise DatafileError(f"Unknown time zone '{name}'.") from None
    low, high = _BOUNDS[kind]
    if kind == "DateTime64" and precision == 9:
        high = _LAST_NANOSECOND
    lowest, highest = datetime.fromisoformat(low), datetime.fromisoformat(high)
    margin = timedelta() if zone is None else 2 * _DAY
    return TimeRule(
        kind=kind,
        lowest=lowest,
        highest=highest,
        first_day=str((lowest + margin).date()),
        last_day=str((highest - _DAY - margin).date()),
        precision=precision,
        zone=zone,
    )


def normalise_all(rule: TimeRule, values: list[Hashable]) -> list[Hashable]:
    """The values as they are stored, a ``Refusal`` for each that cannot be.

    The very same list comes back where nothing has to be rewritten.
    """
    stored = _normalise_uniform(rule, values) or _normalise_numbers(rule, values)
    if stored is not None:
        return stored
    forms: dict[Hashable, Hashable] = {}
    for group in _by_length(values):
        forms.update(zip(group, _normalise_group(rule, group), strict=True))
    return [forms[value] for value in values]


def _normalise_numbers(rule: TimeRule, values: list[Hashable]) -> list[Hashable] | None:
    """Check whole numbers that all are seconds, or for DateTime64 milliseconds, at once."""
    if set(map(type, values)) != {int}:
        return None
    numbers: list[int] = values  # type: ignore[assignment]  # just seen
    low, high = min(numbers), max(numbers)
    if rule.kind == "DateTime" and low >= 0 and high <= _MAX_SECONDS_32:
        return values
    if rule.kind == "DateTime64" and low >= 10**12 and high < _LAST_MILLISECOND:
        # Ten digits and a fraction are read as seconds since 1970.
        end = 10 + min(rule.precision, 3)
        if end == 10:
            return [str(number)[:10] for number in numbers]
        return [f"{text[:10]}.{text[10:end]}" for text in map(str, numbers)]
    return None


def _by_length(values: list[Hashable]) -> list[list[Hashable]]:
    """Each distinct value once; texts of one length are probably of one shape."""
    groups: dict[int, list[Hashable]] = {}
    for value in set(values):
        groups.setdefault(len(value) if isinstance(value, str) else -1, []).append(value)
    return list(groups.values())


def _normalise_group(rule: TimeRule, values: list[Hashable]) -> list[Hashable]:
    """Halves what cannot be checked together, so that one bad value costs few others."""
    stored = _normalise_uniform(rule, values)
    if stored is not None:
        return stored
    if len(values) <= _FEW:
        return [normalise(rule, value) for value in values]
    middle = len(values) // 2
    halves = values[:middle], values[middle:]
    return _normalise_group(rule, halves[0]) + _normalise_group(rule, halves[1])


def _normalise_uniform(rule: TimeRule, values: list[Hashable]) -> list[Hashable] | None:
    """Check many texts of one shape at once; None where they have to be looked at singly."""
    first = values[0] if values else None
    if not isinstance(first, str):
        return None
    shape = first.encode().translate(_DIGITS_TO_ZERO)
    if _SHAPE.match(shape) is None or (rule.zone is not None and shape.endswith(b"Z")):
        return None
    texts: list[str] = values  # type: ignore[assignment]  # join raises for anything else
    try:
        joined = "\n".join(texts)
    except TypeError:
        return None
    lines = joined.encode() + b"\n"
    if lines.translate(_DIGITS_TO_ZERO) != (shape + b"\n") * len(texts):
        return None
    width = len(shape) + 1
    if not _is_common(lines, width) and not _days_fit(rule, {text[:10] for text in texts}):
        return None
    if len(shape) > _DAY_LENGTH and not _clock_fits(lines, width):
        return None
    return _in_form(rule, texts, shape)


def _in_form(rule: TimeRule, texts: list[str], shape: bytes) -> list[Hashable]:
    """Good texts of one shape as they are stored."""
    kept = _LENGTHS.get(rule.kind, len(shape))
    if kept < len(shape):
        texts = [text[:kept] for text in texts]
    if kept > _DAY_LENGTH and (b"T" in shape or b"Z" in shape):
        return list("\n".join(texts).replace("T", " ").replace("Z", "").split("\n"))
    return texts  # type: ignore[return-value]  # a list of str, never written to


def _is_common(lines: bytes, width: int) -> bool:
    """Whether every day is from the 1st to the 28th of a month from 2000 to 2099.

    Such days are in every calendar and range. Seen from the digits in the columns of equal lines,
    this costs a third of cutting the days out.
    """
    return (
        lines[0::width].count(b"2") == lines[1::width].count(b"0") == len(lines) // width
        and _pairs_fit(lines, 5, width, _MONTH_UNITS)
        and _pairs_fit(lines, 8, width, _DAY_UNITS)
    )


def _days_fit(rule: TimeRule, days: set[str]) -> bool:
    """Whether these days are in the calendar and every second of them is in range."""
    if min(days) < rule.first_day or max(days) > rule.last_day:
        return False
    try:
        for day in days:
            date.fromisoformat(day)
    except ValueError:
        return False
    return True


def _clock_fits(lines: bytes, width: int) -> bool:
    """Whether every ``HH:MM:SS`` is a time of day."""
    return (
        _pairs_fit(lines, 11, width, _HOUR_UNITS)
        and not lines[14::width].strip(b"012345")
        and not lines[17::width].strip(b"012345")
    )


def _pairs_fit(lines: bytes, place: int, width: int, units: bytes) -> bool:
    """Whether the two digits at ``place`` of every line are allowed together.

    Each tens digit is a bit; ``units`` has for each units digit the bits that must not meet it.
    """
    tens = int.from_bytes(lines[place::width].translate(_TENS), "little")
    refused = int.from_bytes(lines[place + 1 :: width].translate(units), "little")
    return not tens & refused


def normalise(rule: TimeRule, value: object) -> str | int | Refusal:
    """One text or number (int or Decimal) as it is stored, or why it is refused."""
    if isinstance(value, str):
        return _from_text(rule, value)
    if rule.kind in ("Date", "Date32"):
        return Refusal(f"{value} is a number, not a date like 2025-01-31.")
    if isinstance(value, int):
        return _from_whole_number(rule, value)
    if isinstance(value, Decimal) and abs(value) < 10**11:
        nanoseconds = int(value.quantize(_NANO, rounding=ROUND_FLOOR).scaleb(9))
        seconds, rest = divmod(nanoseconds, 10**9)
        return _from_epoch(rule, seconds, f"{rest:09d}".rstrip("0"))
    return Refusal(f"{value} is out of range for {rule.kind}.")


def _from_whole_number(rule: TimeRule, value: int) -> str | int | Refusal:
    if rule.kind == "DateTime":
        if 0 <= value <= _MAX_SECONDS_32:
            return value
        return Refusal(f"{value} is out of range for DateTime, which counts seconds since 1970.")
    per_second = next((unit for limit, unit in _UNITS if abs(value) < limit), 10**9)
    seconds, rest = divmod(value, per_second)
    digits = len(str(per_second)) - 1
    return _from_epoch(rule, seconds, f"{rest:0{digits}d}" if digits else "")


def _from_text(rule: TimeRule, text: str) -> str | int | Refusal:
    match = _TEXT.match(text)
    if match is None:
        return Refusal(f"'{text[:80]}' is not a {_noun(rule)}.")
    day, time, fraction, offset = match.groups()
    time = time or "00:00:00"
    try:
        moment = datetime.fromisoformat(f"{day} {time}")
        shift = _offset(offset) if offset else None
    except ValueError:
        return Refusal(f"'{text}' is not in the calendar.")
    if time >= "24":
        return Refusal(f"'{text}' is not in the calendar.")
    if rule.kind in ("Date", "Date32"):
        return day if rule.lowest <= moment <= rule.highest else _out_of_range(rule, text)
    if shift is not None:
        return _from_epoch(rule, _seconds(moment) - shift, fraction or "")
    if not _in_range(rule, moment):
        return _out_of_range(rule, text)
    return _with_fraction(rule, f"{day} {time}", fraction or "")


def _noun(rule: TimeRule) -> str:
    if rule.kind in ("Date", "Date32"):
        return "date like 2025-01-31"
    return "date and time like 2025-01-31 23:59:59"


def _offset(text: str) -> int:
    if text == "Z":
        return 0
    hours, minutes = int(text[1:3]), int(text[3:].lstrip(":") or 0)
    if hours > 23 or minutes > 59:
        raise ValueError(text)
    return (hours * 3600 + minutes * 60) * (-1 if text[0] == "-" else 1)


def _seconds(wall: datetime) -> int:
    return (wall - _EPOCH) // timedelta(seconds=1)


def _in_range(rule: TimeRule, wall: datetime) -> bool:
    if rule.zone is None or rule.kind != "DateTime":
        return rule.lowest <= wall <= rule.highest
    if not rule.lowest - _DAY <= wall <= rule.highest + _DAY:
        return False
    return 0 <= wall.replace(tzinfo=rule.zone).timestamp() <= _MAX_SECONDS_32


def _out_of_range(rule: TimeRule, text: str) -> Refusal:
    return Refusal(f"'{text}' is out of range for {rule.kind}.")


def _with_fraction(rule: TimeRule, second: str, fraction: str) -> str:
    kept = fraction[: rule.precision]
    return f"{second}.{kept}" if kept else second


def _from_epoch(rule: TimeRule, seconds: int, fraction: str) -> str | int | Refusal:
    if rule.kind == "DateTime":
        if 0 <= seconds <= _MAX_SECONDS_32:
            return seconds
        return Refusal(f"{seconds} seconds since 1970 are out of range for DateTime.")
    low, high = _seconds(rule.lowest), _seconds(rule.highest)
    if not low <= seconds <= high:
        return Refusal(f"{seconds} seconds since 1970 are out of range for {rule.kind}.")
    # Wall clock times are ambiguous when clocks go back; ten digits are read as seconds.
    if rule.zone is not None and 10**9 <= seconds < 10**10:
        return _with_fraction(rule, str(seconds), fraction)
    wall = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)
    if rule.zone is not None:
        wall = wall.astimezone(rule.zone)
    return _with_fraction(rule, wall.strftime("%Y-%m-%d %H:%M:%S"), fraction)
