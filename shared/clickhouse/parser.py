"""The engine as a parser of SQL: text in, ``Analysis`` out, remembered by text."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec

from shared.clickhouse.allowlist import Analysis, analyse
from shared.clickhouse.contract import Result, Statement
from shared.clickhouse.functions import (
    COMBINATORS_SQL,
    FUNCTIONS_SQL,
    Functions,
    functions_from_rows,
)
from shared.errors import QueryError

_REMEMBERED_TEXTS = 4096
# Texts above this are parsed each time: the memory is for templates, not for pasted data.
_REMEMBERED_CHARACTERS = 64 * 1024
_NOT_A_SELECT = ("does not support JSON serialization", "during AST JSON deserialization")
# Some engines read a lone expression as a SELECT, and then a misspelt word is one.
_SETTINGS = {"implicit_select": 0}

T = TypeVar("T")
Fetch = Callable[[Statement], Awaitable[Result]]


class Parser:
    """Parses with the engine behind ``fetch``, which must know ``parseQueryToJSON``."""

    def __init__(self, fetch: Fetch) -> None:
        self._fetch = fetch
        self._functions: Functions | None = None
        self._remembered: OrderedDict[str, Analysis] = OrderedDict()

    async def parse(self, sql: str) -> Analysis:
        """What a statement is and does; about 1 ms for a text not seen before.

        Raises:
            QueryError: It does not parse, holds several statements, or is of a kind that has no
                syntax tree; ``errors`` has line and column where the engine says them.
        """
        known = self._remembered.get(sql)
        if known is not None:
            self._remembered.move_to_end(sql)
            return known
        functions = self._functions or await self._load_functions()
        analysis = analyse(await self._tree(sql), functions)
        if len(sql) <= _REMEMBERED_CHARACTERS:
            self._remembered[sql] = analysis
            if len(self._remembered) > _REMEMBERED_TEXTS:
                self._remembered.popitem(last=False)
        return analysis

    async def _tree(self, sql: str) -> bytes:
        statement = Statement(
            sql="SELECT parseQueryToJSON({sql:String})",
            parameters={"sql": sql},
            format="TabSeparatedRaw",
            readonly=True,
            settings=_SETTINGS,
        )
        try:
            return (await self._fetch(statement)).body
        except QueryError as error:
            if any(text in error.message for text in _NOT_A_SELECT):
                raise QueryError("Only SELECT statements can be run.") from None
            raise

    async def _load_functions(self) -> Functions:
        rows = await self._rows(FUNCTIONS_SQL, tuple[str, str, str, bool, bool])
        combinators = await self._rows(COMBINATORS_SQL, tuple[str])
        self._functions = functions_from_rows(rows, [name for (name,) in combinators])
        return self._functions

    async def _rows(self, sql: str, row: type[T]) -> list[T]:
        result = await self._fetch(Statement(sql=sql, format="JSONCompactEachRow", readonly=True))
        return msgspec.json.Decoder(row).decode_lines(result.body)
