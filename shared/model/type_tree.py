"""The tree of a ClickHouse type and its canonical spelling."""

from __future__ import annotations

from msgspec import Struct

from shared.clickhouse.sql import is_identifier, literal, quote_identifier

# The words that ClickHouse puts in backticks when it prints the name of an element.
_QUOTED_WORDS = frozenset({"all", "distinct", "false", "from", "null", "select", "table"})
_QUOTED_WORDS |= {"true", "values"}


def _quoted_if_needed(name: str) -> str:
    is_bare = is_identifier(name) and name.lower() not in _QUOTED_WORDS
    return name if is_bare else quote_identifier(name)


class TypeSyntaxError(ValueError):
    """A type that cannot be read.

    Args:
        message: What is wrong, as one sentence.
        position: Offset in the parsed text, in characters from 0.
        hint: What to write instead.
    """

    def __init__(self, message: str, position: int, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.position = position
        self.hint = hint


class Constant(Struct, frozen=True):
    """A number or string among the arguments: a precision, a time zone, a length."""

    value: int | float | str

    def __str__(self) -> str:
        return repr(self.value) if isinstance(self.value, float) else literal(self.value)


class EnumMember(Struct, frozen=True):
    """One ``'name' = number`` of an Enum."""

    name: str
    value: int

    def __str__(self) -> str:
        return f"{literal(self.name)} = {self.value}"


class NamedType(Struct, frozen=True):
    """A named element of a Tuple or Nested, or a typed path of JSON (name ``a.b``)."""

    name: str
    type: ColumnType

    def __str__(self) -> str:
        return f"{_quoted_if_needed(self.name)} {self.type}"


class TypeSetting(Struct, frozen=True):
    """A ``name=number`` of JSON or Dynamic."""

    name: str
    value: int

    def __str__(self) -> str:
        return f"{self.name}={self.value}"


class SkippedPath(Struct, frozen=True):
    """A ``SKIP path`` or ``SKIP REGEXP 'pattern'`` of JSON."""

    path: str
    is_pattern: bool = False

    def __str__(self) -> str:
        if self.is_pattern:
            return f"SKIP REGEXP {literal(self.path)}"
        return f"SKIP {_quoted_if_needed(self.path)}"


class AggregateCall(Struct, frozen=True):
    """The function of an aggregate state, with its parameters: ``quantiles(0.5, 0.9)``."""

    name: str
    parameters: tuple[Constant, ...] = ()

    def __str__(self) -> str:
        if not self.parameters:
            return self.name
        return f"{self.name}({', '.join(str(p) for p in self.parameters)})"


class ColumnType(Struct, frozen=True):
    """One type: its name as ClickHouse prints it, and its arguments in order.

    ``Decimal32(S)`` and its sisters are stored as ``Decimal(9, S)``, ``Enum`` as ``Enum8`` or
    ``Enum16`` with every number written out.
    """

    name: str
    args: tuple[TypeArgument, ...] = ()

    def __str__(self) -> str:
        if not self.args and self.name != "Tuple":
            return self.name
        return f"{self.name}({', '.join(str(a) for a in self.args)})"

    @property
    def types(self) -> tuple[ColumnType, ...]:
        """The argument types in order, those of named elements included."""
        found: list[ColumnType] = []
        for arg in self.args:
            if isinstance(arg, ColumnType):
                found.append(arg)
            elif isinstance(arg, NamedType):
                found.append(arg.type)
        return tuple(found)

    @property
    def element_names(self) -> tuple[str, ...]:
        """The names of a Tuple's or Nested's elements, empty where they have none."""
        return tuple(arg.name for arg in self.args if isinstance(arg, NamedType))

    @property
    def constants(self) -> tuple[int | float | str, ...]:
        """The numbers and strings among the arguments, in order."""
        return tuple(arg.value for arg in self.args if isinstance(arg, Constant))

    @property
    def members(self) -> dict[str, int]:
        """The names of an Enum and their numbers, in order; empty for other types."""
        return {arg.name: arg.value for arg in self.args if isinstance(arg, EnumMember)}

    @property
    def is_nullable(self) -> bool:
        """Whether NULL is a value, also inside LowCardinality and SimpleAggregateFunction."""
        if self.name in ("LowCardinality", "SimpleAggregateFunction"):
            return self.types[0].is_nullable
        return self.name == "Nullable"

    @property
    def unwrapped(self) -> ColumnType:
        """The type of a value: without Nullable, LowCardinality and SimpleAggregateFunction."""
        if self.name in ("Nullable", "LowCardinality", "SimpleAggregateFunction"):
            return self.types[0].unwrapped
        return self


TypeArgument = (
    ColumnType | NamedType | Constant | EnumMember | TypeSetting | SkippedPath | AggregateCall
)
