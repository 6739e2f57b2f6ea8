"""ENGINE lines: which table engine, and whether its keys and columns fit the schema."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from shared.datafile.diagnostics import Diagnostics
from shared.datafile.lexer import Instruction
from shared.datafile.quoting import split_commas
from shared.model.resources import Column, EngineSpec, Span
from shared.model.types import parse_type
from shared.model.workspace import did_you_mean

ENGINES = (
    *("MergeTree", "ReplacingMergeTree", "SummingMergeTree", "AggregatingMergeTree"),
    *("CollapsingMergeTree", "VersionedCollapsingMergeTree", "Null"),
)
ENGINE_COMMANDS = {
    "ENGINE_PARTITION_KEY": "partition_key",
    "ENGINE_SORTING_KEY": "sorting_key",
    "ENGINE_PRIMARY_KEY": "primary_key",
    "ENGINE_SAMPLING_KEY": "sampling_key",
    "ENGINE_TTL": "ttl",
    "ENGINE_SETTINGS": "settings",
    "ENGINE_VER": "ver",
    "ENGINE_IS_DELETED": "is_deleted",
    "ENGINE_COLUMNS": "columns",
    "ENGINE_SIGN": "sign",
    "ENGINE_VERSION": "version",
}
_SPECIFIC = {
    "ENGINE_VER": ("ReplacingMergeTree",),
    "ENGINE_IS_DELETED": ("ReplacingMergeTree",),
    "ENGINE_COLUMNS": ("SummingMergeTree",),
    "ENGINE_SIGN": ("CollapsingMergeTree", "VersionedCollapsingMergeTree"),
    "ENGINE_VERSION": ("VersionedCollapsingMergeTree",),
}
_NEEDED = {
    "ReplacingMergeTree": ("ENGINE_SORTING_KEY",),
    "CollapsingMergeTree": ("ENGINE_SIGN",),
    "VersionedCollapsingMergeTree": ("ENGINE_SIGN", "ENGINE_VERSION"),
}
_COLUMN_TYPES = {"ENGINE_SIGN": "Int8", "ENGINE_IS_DELETED": "UInt8"}
_KEYS = (
    *("ENGINE_SORTING_KEY", "ENGINE_PRIMARY_KEY", "ENGINE_PARTITION_KEY"),
    "ENGINE_SAMPLING_KEY",
)

_NAME = re.compile(r"[A-Za-z_][\w.]*|`[^`]+`")
_TOKEN = re.compile(r"'(?:[^'\\]|\\.)*'|\d[\w.]*|(?P<name>[A-Za-z_][\w.]*|`[^`]+`)|\s+|(?P<mark>.)")
_SIMPLE_MARKS = frozenset("(),+-*/%=<>")
_AGGREGATES = frozenset(
    {"count", "sum", "avg", "min", "max", "any", "anylast", "uniq", "uniqexact", "grouparray"}
    | {"argmax", "argmin", "quantile", "countif", "sumif", "countmerge", "summerge", "uniqmerge"}
)
_NULLABLE_KEY_ALLOWED = re.compile(r"allow_nullable_key\s*=\s*1")


def parse_engine(
    instructions: Mapping[str, Instruction],
    values: Mapping[str, str],
    columns: Sequence[Column],
    diagnostics: Diagnostics,
) -> EngineSpec:
    """The engine of a data source.

    Args:
        instructions: The ENGINE and ENGINE_* lines by command.
        values: Their values with secrets put in.
        columns: The schema; empty where it could not be read, then nothing is compared with it.
        diagnostics: Where mistakes go.
    """
    name = values.get("ENGINE", "") or "MergeTree"
    given = {c: v for c, v in values.items() if c in ENGINE_COMMANDS and v}
    if name not in ENGINES:
        diagnostics.error(
            "unknown_engine",
            f"Engine '{name[:60]}' is not supported.",
            instructions["ENGINE"].body.start,
            _engine_hint(name),
        )
        return EngineSpec()
    _check_options(name, given, instructions, diagnostics)
    for command, engines in _SPECIFIC.items():
        if name not in engines:
            given.pop(command, None)
    if columns:
        check = _Check({c.name: c for c in columns}, given, instructions, diagnostics)
        check.keys()
        check.engine_columns()
    return EngineSpec(name=name, **{ENGINE_COMMANDS[c]: v for c, v in given.items()})


def _engine_hint(name: str) -> str:
    for prefix in ("Replicated", "Shared"):
        if name.removeprefix(prefix) in ENGINES and name.startswith(prefix):
            return f"Write {name.removeprefix(prefix)}; replication is a setting of the cluster."
    by_lower = {engine.lower(): engine for engine in ENGINES}
    bare = name.partition("(")[0].strip().lower()
    if bare in by_lower:
        return f"Did you mean '{by_lower[bare]}'?"
    return did_you_mean(name, ENGINES) or f"Supported: {', '.join(ENGINES)}."


def _check_options(
    name: str,
    given: Mapping[str, str],
    instructions: Mapping[str, Instruction],
    diagnostics: Diagnostics,
) -> None:
    for command, engines in _SPECIFIC.items():
        if command in given and name not in engines:
            diagnostics.warning(
                "engine_option_ignored",
                f"{command} has no meaning for {name}.",
                instructions[command].span,
                f"It belongs to {' and '.join(engines)}.",
            )
    needed = _NEEDED.get(name, ())
    if "ENGINE_IS_DELETED" in given and name == "ReplacingMergeTree":
        needed = (*needed, "ENGINE_VER")
    for command in needed:
        if command not in given:
            span = instructions["ENGINE"].span
            diagnostics.error("engine_column", f"{name} needs {command}.", span)


class _Check:
    """Compares keys and engine options with the columns of the schema."""

    def __init__(
        self,
        columns: Mapping[str, Column],
        given: Mapping[str, str],
        instructions: Mapping[str, Instruction],
        diagnostics: Diagnostics,
    ) -> None:
        self._columns = columns
        self._given = given
        self._instructions = instructions
        self._diagnostics = diagnostics

    def keys(self) -> None:
        for command in _KEYS:
            for item in key_items(self._given.get(command, "")):
                names = simple_names(item)
                if _NAME.fullmatch(item) and self._known(command, item):
                    if command == "ENGINE_SORTING_KEY":
                        self._sortable(command, item)
                    continue
                for name in names if not _NAME.fullmatch(item) else ():
                    self._known(command, name)
                self._no_aggregate(command, item)

    def engine_columns(self) -> None:
        for command in ("ENGINE_VER", "ENGINE_IS_DELETED", "ENGINE_SIGN", "ENGINE_VERSION"):
            name = self._given.get(command)
            if name is None or not self._known(command, name):
                continue
            column = self._columns[name.strip("`")]
            wanted = _COLUMN_TYPES.get(command, column.type)
            if column.type != wanted:
                message = f"{command} must be {wanted}, '{column.name}' is {column.type}."
                self._diagnostics.error("engine_column", message, self._at(command, name))
        for name in split_commas(self._given.get("ENGINE_COLUMNS", "").strip("()")):
            self._known("ENGINE_COLUMNS", name)
        ver = self._given.get("ENGINE_VER")
        if ver is not None and ver in key_items(self._given.get("ENGINE_SORTING_KEY", "")):
            self._diagnostics.error(
                "key_column",
                f"ENGINE_VER '{ver}' may not be part of the sorting key.",
                self._at("ENGINE_SORTING_KEY", ver),
                "Rows that differ in a key column never replace each other.",
            )

    def _at(self, command: str, name: str) -> Span:
        body = self._instructions[command].body
        match = re.search(rf"(?<![\w.]){re.escape(name)}(?![\w.])", body.text)
        return body.span(match.start() if match else 0)

    def _known(self, command: str, name: str) -> bool:
        bare = name.strip("`")
        # Columns that begin with __ are added by the table itself; a.b may be a part of column a.
        if bare in self._columns:
            return True
        if bare.startswith("__") or bare.partition(".")[0] in self._columns:
            return False
        self._diagnostics.error(
            "unknown_column",
            f"'{bare}' column is not present in schema.",
            self._at(command, name),
            did_you_mean(bare, self._columns),
        )
        return False

    def _sortable(self, command: str, name: str) -> None:
        column = self._columns[name.strip("`")]
        type_ = parse_type(column.type)
        settings = self._given.get("ENGINE_SETTINGS", "")
        if type_.is_nullable and not _NULLABLE_KEY_ALLOWED.search(settings):
            self._diagnostics.error(
                "key_column",
                f"Sorting key contains nullable column '{column.name}'.",
                self._at(command, name),
                "Make the column not nullable with a DEFAULT, or take it out of the key.",
            )
        elif type_.name == "AggregateFunction":
            self._diagnostics.error(
                "key_column",
                f"Sorting key contains aggregate state '{column.name}'.",
                self._at(command, name),
            )

    def _no_aggregate(self, command: str, item: str) -> None:
        call = re.match(r"([A-Za-z_]\w*)\s*\(", item)
        if call is not None and call[1].lower() in _AGGREGATES and command == "ENGINE_SORTING_KEY":
            self._diagnostics.error(
                "key_column",
                f"Sorting key contains aggregate function '{call[1]}'.",
                self._at(command, call[1]),
            )


def key_items(key: str) -> tuple[str, ...]:
    """The expressions of a key, with or without brackets or ``tuple`` around them."""
    text = key.strip()
    text = re.sub(r"\Atuple\s*(?=\()", "", text, flags=re.IGNORECASE)
    if text.startswith("(") and text.endswith(")") and _closes_last(text):
        text = text[1:-1]
    return split_commas(text)


def _closes_last(text: str) -> bool:
    depth = 0
    for position, character in enumerate(text):
        depth += {"(": 1, ")": -1}.get(character, 0)
        if depth == 0:
            return position == len(text) - 1
    return False


def simple_names(expression: str) -> tuple[str, ...]:
    """The columns an expression reads; nothing where it is more than calls and operators.

    Two words in a row (``INTERVAL 1 day``, ``a DESC``, ``x AS y``) or an arrow make an expression
    that only ClickHouse can judge.
    """
    names: list[str] = []
    previous = ""
    for token in _TOKEN.finditer(expression):
        text = token[0]
        if text.isspace():
            continue
        is_word = token["name"] is not None or text[0].isdigit()
        follows_word = bool(previous) and (previous[-1].isalnum() or previous[-1] in "_`'")
        if (is_word and follows_word) or (token["mark"] and text not in _SIMPLE_MARKS):
            return ()
        if (previous, text) == ("-", ">"):
            return ()
        if text == "(" and names and previous == names[-1]:
            names.pop()
        elif token["name"] is not None and text.lower() not in ("null", "true", "false"):
            names.append(text)
        previous = text
    return tuple(names)
