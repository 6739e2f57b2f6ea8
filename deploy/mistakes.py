"""Which SQL parts of a data source ClickHouse refuses, each with its place in the file.

About a table ClickHouse tells of one mistake, in terms of the whole statement. So an empty
temporary table is made of the bare columns, and again with more and more of the parts: where one
part more is refused, it is that part, which is left out from there on.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable, Sequence

from msgspec import Struct

from deploy.ddl import default_sorting_key
from shared.clickhouse.contract import ClickHouse, Statement
from shared.clickhouse.sql import quote_identifier
from shared.datafile.diagnostics import Diagnostic
from shared.errors import QueryError
from shared.model.identity import IDENTITY_COLUMNS, carries_identity
from shared.model.resources import Datasource, Span
from shared.model.workspace import did_you_mean

_SORTING_KEY = "ENGINE_SORTING_KEY"
# How each clause begins and ends, in the order in which they are written.
_CLAUSES = {
    "ENGINE_PARTITION_KEY": ("PARTITION BY (", ")"),
    _SORTING_KEY: ("ORDER BY (", ")"),
    "ENGINE_PRIMARY_KEY": ("PRIMARY KEY (", ")"),
    "ENGINE_SAMPLING_KEY": ("SAMPLE BY (", ")"),
    "ENGINE_TTL": ("TTL ", ""),
    "ENGINE_SETTINGS": ("SETTINGS ", ""),
}
_IN_SORTING_KEY = ("ENGINE_PRIMARY_KEY", "ENGINE_SAMPLING_KEY")

_POSITION = re.compile(r"failed at position (\d+)")
# What ClickHouse adds about the statement around the part.
_STATEMENT = re.compile(
    r"(?: while processing: |:? While processing |: Or unknown |: When validating "
    r"|: for storage ).*",
    re.DOTALL,
)
_NAMED = re.compile(r"[`']([^`']+)[`']|unction (\w+)|codec family: (\w+)")
_MISSING = re.compile(r"(?:Missing columns:|identifier) [`']([^`']+)[`']")


class _Part(Struct, frozen=True, kw_only=True):
    """One SQL text of a datafile: where it goes in a statement, where it stands in the file."""

    slot: str
    label: str
    text: str
    span: Span | None
    before: str = ""
    after: str = ""


async def find_mistakes(
    clickhouse: ClickHouse, datasource: Datasource, error: QueryError
) -> list[Diagnostic]:
    """Every part that is refused; where none is by itself, the error at the place of the engine.

    Args:
        clickhouse: Where; nothing is left there.
        datasource: With its places in the file.
        error: What ClickHouse said about the whole of it.
    """
    found = await _Trial(clickhouse, datasource).run()
    if found:
        return sorted(found, key=lambda d: (d.span.line, d.span.column))
    place = dict(datasource.engine_spans).get("ENGINE") or datasource.span
    message = "The table's SQL has a syntax error." if _is_syntax(error) else error.message
    return [_diagnostic(error, message, place or Span(datasource.name, 1), error.hint)]


class _Trial:
    """A table that grows by what is accepted."""

    def __init__(self, clickhouse: ClickHouse, datasource: Datasource) -> None:
        self._clickhouse = clickhouse
        self._datasource = datasource
        self._accepted = {_SORTING_KEY: "ORDER BY tuple()"}

    async def run(self) -> list[Diagnostic]:
        if await self._refused(()) is not None:
            # Not the parts are at fault: this user may not make such tables, for example.
            return []
        # Where a column is missing, everything that names it would be refused too.
        if found := await self._add(list(_types(self._datasource))):
            return found
        if self._datasource.engine.name == "Null":
            return await self._add(list(_column_parts(self._datasource)))
        # A key may need a setting.
        found = await self._add(self._clauses("ENGINE_SETTINGS"))
        found += await self._add(list(_column_parts(self._datasource)))
        found += await self._add(list(_index_parts(self._datasource)))
        found += await self._add(self._clauses("ENGINE_PARTITION_KEY", "ENGINE_TTL"))
        sorting = await self._add(self._clauses(_SORTING_KEY))
        if not self._datasource.engine.sorting_key:
            key = default_sorting_key(self._datasource)
            self._accepted[_SORTING_KEY] = f"ORDER BY ({key})"
        if not sorting:
            return found + await self._add(self._clauses(*_IN_SORTING_KEY))
        # They have to fit the sorting key; without it, it still shows whether they are keys.
        for name in _IN_SORTING_KEY:
            sorting += await self._add(self._clauses(name, slot=_SORTING_KEY))
        return found + sorting

    def _clauses(self, *names: str, slot: str | None = None) -> list[_Part]:
        spans = dict(self._datasource.engine_spans)
        found = []
        for name in names:
            text = getattr(self._datasource.engine, name.removeprefix("ENGINE_").lower())
            if text:
                before, after = _CLAUSES[slot or name]
                found.append(
                    _Part(
                        slot=slot or name,
                        label=name,
                        text=text.rstrip("; \t\r\n"),
                        span=spans.get(name),
                        before=before,
                        after=after,
                    )
                )
        return found

    async def _add(self, parts: Sequence[_Part]) -> list[Diagnostic]:
        """Accept what can be; the others as problems."""
        if not parts:
            return []
        error = await self._refused(parts)
        if error is None:
            self._accepted |= {p.slot: p.before + p.text + p.after for p in parts}
            return []
        if len(parts) == 1:
            return [self._problem(parts[0], error)]
        middle = len(parts) // 2
        return await self._add(parts[:middle]) + await self._add(parts[middle:])

    async def _refused(self, parts: Sequence[_Part]) -> QueryError | None:
        name = _new_name()
        try:
            await self._clickhouse.execute(Statement(sql=self._statement(name, parts)))
        except QueryError as error:
            return error
        await self._clickhouse.execute(Statement(sql=f"DROP TEMPORARY TABLE IF EXISTS {name}"))
        return None

    def _statement(self, name: str, parts: Sequence[_Part]) -> str:
        texts = self._accepted | {p.slot: p.before + p.text + p.after for p in parts}
        body = ["`__trial` UInt8"]
        if carries_identity(self._datasource):
            visible = {c.name for c in self._datasource.columns}
            body += [
                f"{quote_identifier(column)} {type_}"
                for column, type_ in IDENTITY_COLUMNS
                if column not in visible
            ]
        body += [
            f"{texts[_slot('TYPE', c.name)]} {texts.get(_slot('DEFAULT', c.name), '')}"
            f" {texts.get(_slot('CODEC', c.name), '')}"
            for c in self._datasource.columns
            if _slot("TYPE", c.name) in texts
        ]
        body += [text for slot, text in texts.items() if slot.startswith("INDEX ")]
        clauses = [texts[c] for c in _CLAUSES if c in texts]
        return (
            f"CREATE TEMPORARY TABLE {name} (\n{', '.join(body)}\n)"
            f" ENGINE = MergeTree {' '.join(clauses)}"
        )

    def _problem(self, part: _Part, error: QueryError) -> Diagnostic:
        if _is_syntax(error):
            offset = self._stumbled(part, error)
            near = f" at '{_word(part.text[offset:])}'" if offset else ""
            message = f"Syntax error{near}: {part.text}"
            brackets = "Unmatched parentheses" in error.message
            hint = "Its brackets do not match." if brackets else None
        else:
            message = _STATEMENT.sub("", error.message).rstrip(" ,.:") + "."
            offset, hint = _named(part.text, message), error.hint
            if missing := _MISSING.search(message):
                hint = did_you_mean(missing[1], [c.name for c in self._datasource.columns])
        span = part.span or self._datasource.span or Span(self._datasource.name, 1)
        # Lines of a part may be indented otherwise in the file.
        if "\n" not in part.text[:offset] and part.span is not None:
            span = Span(span.path, span.line, span.column + offset)
        return _diagnostic(error, f"{part.label}: {message}", span, hint)

    def _stumbled(self, part: _Part, error: QueryError) -> int:
        """Where in a part the parser gave up; 0 where that was behind it, or is not known."""
        found = _POSITION.search(error.message)
        # Any name will do, they are equally long.
        name = _new_name()
        sql = self._statement(name, [part])
        mark = _Part(slot=part.slot, label="", text="\0", span=None)
        begin = self._statement(name, [mark]).index("\0") + len(part.before)
        # Counted in bytes, from 1.
        at = int(found[1]) - 1 if found else 0
        offset = len(sql.encode()[:at].decode("utf-8", "ignore")) - begin
        return offset if 0 <= offset < len(part.text) else 0


def _new_name() -> str:
    """A name of its own for each table: it may be dropped in another session than its own."""
    return quote_identifier("__trial_" + uuid.uuid4().hex)


def _types(datasource: Datasource) -> Iterable[_Part]:
    for column in datasource.columns:
        yield _Part(
            slot=_slot("TYPE", column.name),
            label=f"Type of '{column.name}'",
            text=column.type,
            span=column.span,
            before=f"{quote_identifier(column.name)} ",
        )


def _column_parts(datasource: Datasource) -> Iterable[_Part]:
    for column in datasource.columns:
        if column.default is not None:
            yield _Part(
                slot=_slot("DEFAULT", column.name),
                label=f"DEFAULT of '{column.name}'",
                text=column.default,
                span=column.default_span,
                before="DEFAULT ",
            )
        if column.codec is not None:
            yield _Part(
                slot=_slot("CODEC", column.name),
                label=f"CODEC of '{column.name}'",
                text=column.codec,
                span=column.span,
                before="CODEC(",
                after=")",
            )


def _index_parts(datasource: Datasource) -> Iterable[_Part]:
    for index in datasource.indexes:
        yield _Part(
            slot=_slot("INDEX", index.name),
            label=f"INDEX '{index.name}'",
            text=f"{index.expression} TYPE {index.type}",
            span=index.span,
            before=f"INDEX {quote_identifier(index.name)} ",
            after=f" GRANULARITY {index.granularity}",
        )


def _slot(kind: str, name: str) -> str:
    return f"{kind} {name}"


def _is_syntax(error: QueryError) -> bool:
    return error.message.startswith("Syntax error")


def _word(text: str) -> str:
    return text.split(maxsplit=1)[0][:40] if text.strip() else text


def _named(text: str, message: str) -> int:
    """Where the first name of a message stands in a text, else 0."""
    for groups in _NAMED.findall(message):
        for name in filter(None, groups):
            if found := re.search(rf"(?<![\w.]){re.escape(name)}(?!\w)", text):
                return found.start()
    return 0


def _diagnostic(error: QueryError, message: str, span: Span, hint: str | None) -> Diagnostic:
    return Diagnostic(code=error.code, severity="error", message=message, span=span, hint=hint)
