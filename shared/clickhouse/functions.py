"""Which SQL functions free SQL may call: an allow-list over the engine's own catalogue; pure.

Whole categories are allowed where every member only computes. What reads files, dictionaries,
other tables, the network, the process or the session is in no list, and so is whatever a later
engine adds under a category that is not named here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

from msgspec import Struct

Verdict = Literal["allowed", "disabled", "unknown"]

# The query whose rows ``functions_from_rows`` takes, in order of its fields.
FUNCTIONS_SQL = (
    "SELECT name, categories, alias_to, toBool(is_aggregate), toBool(case_insensitive)"
    " FROM system.functions"
)
COMBINATORS_SQL = "SELECT name FROM system.aggregate_function_combinators"

_ALLOWED_CATEGORIES = frozenset(
    {
        "Aggregate Functions",
        "Arithmetic",
        "Arrays",
        "Bit",
        "Bitmap",
        "Comparison",
        "Conditional",
        "Dates and Times",
        "Distance",
        "Encoding",
        "Encryption",
        "Financial",
        "Geo",
        "Geo Polygon",
        "Hash",
        "IP Address",
        "JSON",
        "Logical",
        "Map",
        "Mathematical",
        "Null",
        "NumericIndexedVector",
        "QBit",
        "Random Number",
        "Rounding",
        "String",
        "String Replacement",
        "String Search",
        "String Splitting",
        "Time Window",
        "Tuple",
        "Type Conversion",
        "URL",
        "UUID",
    }
)

# From the mixed categories, one by one.
_ALLOWED_NAMES = frozenset(
    [
        "bar",
        "blockNumber",
        "blockSize",
        "byteSize",
        "caseWithExpression",
        "colorOKLABToSRGB",
        "colorOKLCHToSRGB",
        "colorSRGBToOKLAB",
        "colorSRGBToOKLCH",
        "countDigits",
        "currentDatabase",
        "defaultValueOfArgumentType",
        "defaultValueOfTypeName",
        "digits",
        "errorCodeToName",
        "finalizeAggregation",
        "flipCoordinates",
        "formatReadableDecimalSize",
        "formatReadableQuantity",
        "formatReadableSize",
        "formatReadableTimeDelta",
        "getSizeOfEnumType",
        "getSubcolumn",
        "icebergBucket",
        "icebergTruncate",
        "identity",
        "ignore",
        "indexHint",
        "initializeAggregation",
        "isConstant",
        "isDecimalOverflow",
        "lowCardinalityIndices",
        "lowCardinalityKeys",
        "MACNumToString",
        "MACStringToNum",
        "MACStringToOUI",
        "materialize",
        "minSampleSizeContinuous",
        "minSampleSizeConversion",
        "neighbor",
        "normalizedQueryHash",
        "normalizedQueryHashKeepNames",
        "normalizeQuery",
        "normalizeQueryKeepNames",
        "parseISO8601Duration",
        "parseReadableSize",
        "parseReadableSizeOrNull",
        "parseReadableSizeOrZero",
        "parseTimeDelta",
        "rowNumberInAllBlocks",
        "rowNumberInBlock",
        "runningAccumulate",
        "runningDifference",
        "runningDifferenceStartingWithFirstValue",
        "seriesDecomposeSTL",
        "seriesOutliersDetectTukey",
        "seriesPeriodDetectFFT",
        "throwIf",
        "toColumnTypeName",
        "toTypeName",
        "transform",
        "variantElement",
        "variantType",
        "version",
        "visibleWidth",
    ]
)

# What the grammar knows without a function behind it.
_SYNTAX_NAMES = frozenset({"exists", "grouping", "lambda", "untuple"})

_CLOCK_NAMES = frozenset(
    {"localtime", "now", "now64", "nowInBlock", "nowInBlock64", "today", "UTCTimestamp"}
    | {"yesterday"}
)
_RANDOM_NAMES = frozenset(
    {"arrayRandomSample", "arrayShuffle", "arrayPartialShuffle", "generateUUIDv4"}
    | {"generateUUIDv7", "dateTimeToUUIDv7", "generateSnowflakeID", "fuzzBits"}
)
_RANDOM_CATEGORY = "Random Number"


class EngineFunction(Struct, frozen=True):
    """One function of the engine, under its own name."""

    name: str
    category: str
    is_aggregate: bool


class Functions(Struct, frozen=True, kw_only=True):
    """The engine's functions by name, by lower-case name where case does not matter."""

    by_name: Mapping[str, EngineFunction]
    by_lower_name: Mapping[str, EngineFunction]
    combinators: tuple[str, ...]

    def find(self, name: str) -> EngineFunction | None:
        """The function that a name stands for, aggregate combinators stripped."""
        found = self.by_name.get(name) or self.by_lower_name.get(name.lower())
        if found is not None:
            return found
        for combinator in self.combinators:
            base = name.removesuffix(combinator)
            if base and base != name:
                aggregate = self.find(base)
                if aggregate is not None and aggregate.is_aggregate:
                    return aggregate
        return None

    def verdict(self, name: str) -> Verdict:
        """Whether free SQL may call a function."""
        function = self.find(name)
        if function is None:
            return "allowed" if name in _SYNTAX_NAMES else "unknown"
        if function.category in _ALLOWED_CATEGORIES or function.name in _ALLOWED_NAMES:
            # Only a name of the engine, which says its own version.
            return "allowed" if function.name != "chdb" else "disabled"
        return "disabled"

    def is_volatile(self, name: str) -> bool:
        """Whether a function answers differently from call to call: a clock, or chance."""
        function = self.find(name)
        return function is not None and (
            function.name in _CLOCK_NAMES
            or function.name in _RANDOM_NAMES
            or function.category == _RANDOM_CATEGORY
        )


def functions_from_rows(
    rows: Iterable[tuple[str, str, str, bool, bool]], combinators: Iterable[str]
) -> Functions:
    """The catalogue from the rows of ``FUNCTIONS_SQL`` and ``COMBINATORS_SQL``."""
    listed = list(rows)
    by_name = {
        name: EngineFunction(name, category, is_aggregate)
        for name, category, alias_to, is_aggregate, _ in listed
        if not alias_to
    }
    for name, _, alias_to, _, _ in listed:
        if alias_to in by_name:
            by_name[name] = by_name[alias_to]
    by_lower_name = {
        name.lower(): by_name[name]
        for name, _, _, _, case_insensitive in listed
        if case_insensitive and name in by_name
    }
    # The longest first: an MergeState is no State of a Merge.
    ordered = tuple(sorted(combinators, key=lambda name: (-len(name), name)))
    return Functions(by_name=by_name, by_lower_name=by_lower_name, combinators=ordered)
