"""Answers from the cache over HTTP, and the short way to those that have been asked for before.

A request that comes again byte for byte needs no parameters read and nothing planned: its token is
looked at, then the version of the data, then the kept bytes are sent.
"""

from __future__ import annotations

from collections import OrderedDict

from litestar.types import HTTPScope, Receive, Send
from msgspec import Struct
from msgspec.structs import replace

from query.cache import AnswerCache, CacheKey, Found
from query.client import ClientWatch
from query.plan import Planner
from query.planned import Planned
from query.respond import Order, capped, check_size, statistics
from shared.auth.tokens import Grant, GrantLimits
from shared.auth.tokens import Scope as TokenScope
from shared.clickhouse.contract import ClickHouse, Result
from shared.web.compression import MIN_BYTES, negotiate

_REMEMBERED_REQUESTS = 4096
_MAX_REMEMBERED_BYTES = 2048
_METHODS = ("GET", "HEAD")

_RequestText = tuple[str, bytes, str]


class Known(Struct, frozen=True, kw_only=True):
    """What a request came to when it was planned, and what that depended on."""

    name: str
    key: CacheKey
    media_type: bytes
    is_packable: bool
    planner: Planner
    scopes: tuple[TokenScope, ...]
    limits: GrantLimits


class CachedAnswers:
    """Gives answers from the cache.

    Args:
        cache: Where they are kept.
        clickhouse: Where they come from.
    """

    def __init__(self, cache: AnswerCache, clickhouse: ClickHouse) -> None:
        self._cache = cache
        self._clickhouse = clickhouse
        self._known: OrderedDict[_RequestText, Known] = OrderedDict()

    async def recall(
        self, scope: HTTPScope, grant: Grant, planner: Planner
    ) -> tuple[Known, Found] | None:
        """The kept answer to a request seen before, where it still holds.

        Errors as in ``AnswerCache.answer``.
        """
        text = (scope["path"], scope["query_string"], grant.name)
        known = self._known.get(text)
        if known is None or scope["method"] not in _METHODS:
            return None
        # Its project and the rights of the token are as they were, or it is planned anew.
        if (
            known.planner is not planner
            or known.scopes != grant.scopes
            or known.limits != grant.limits
        ):
            self._known.pop(text, None)
            return None
        found = await self._cache.find(known.key)
        if found is not None and text in self._known:
            self._known.move_to_end(text)
        return (known, found) if found is not None else None

    async def respond(
        self,
        planned: Planned,
        order: Order,
        scope: HTTPScope,
        receive: Receive,
        send: Send,
        *,
        remember: tuple[str, Grant, Planner],
    ) -> int | None:
        """Answer with kept or new bytes; returns the status, None where nothing can be kept.

        Errors as in ``Responder.respond``, all of them before the answer begins.
        """
        key = self._cache.key(planned, order.statement)
        if key is None:
            return None
        with ClientWatch(receive):
            found = await self._cache.answer(key, lambda: self._fetch(order))
        if found is None:
            return None
        name, grant, planner = remember
        known = Known(
            name=name,
            key=key,
            media_type=order.media_type.encode(),
            is_packable=order.is_packable,
            planner=planner,
            scopes=grant.scopes,
            limits=grant.limits,
        )
        if scope["method"] in _METHODS:
            self._remember((scope["path"], scope["query_string"], grant.name), known)
        return await self.send(known, found, scope, send)

    async def send(self, known: Known, found: Found, scope: HTTPScope, send: Send) -> int:
        """Send an answer, or 304 where the caller has it; returns the status."""
        answer = found.answer
        none_match = accept = b""
        for name, value in scope["headers"]:
            if name == b"if-none-match":
                none_match = value
            elif name == b"accept-encoding":
                accept = value
        headers = [
            (b"etag", answer.etag),
            (b"cache-control", _cache_control(known.key, found)),
            (b"vary", b"Accept-Encoding, Authorization"),
            (b"x-data-as-of", found.versions.as_of),
            (b"x-cache", b"hit" if found.is_hit else b"miss"),
        ]
        if none_match and matches(none_match, answer.etag):
            await send({"type": "http.response.start", "status": 304, "headers": headers})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
            return 304
        body = answer.body
        encoding = negotiate(accept) if accept else None
        if encoding is not None and known.is_packable and len(body) >= MIN_BYTES:
            body = await self._cache.packed(answer, encoding)
            headers.append((b"content-encoding", encoding.encode()))
        headers += (
            (b"content-type", known.media_type),
            (b"content-length", b"%d" % len(body)),
            (b"x-db-statistics", statistics(answer.summary)),
        )
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        sent = b"" if scope["method"] == "HEAD" else body
        await send({"type": "http.response.body", "body": sent, "more_body": False})
        return 200

    async def _fetch(self, order: Order) -> Result:
        most_bytes = self._cache.max_answer_bytes
        limits = capped(order.statement.limits, most_bytes)
        result = await self._clickhouse.fetch(replace(order.statement, limits=limits))
        # The engine counts columns before they are formatted, and a constant only once.
        check_size(len(result.body), limits.max_result_bytes)
        return result

    def _remember(self, text: _RequestText, known: Known) -> None:
        if len(text[0]) + len(text[1]) > _MAX_REMEMBERED_BYTES:
            return
        self._known[text] = known
        self._known.move_to_end(text)
        if len(self._known) > _REMEMBERED_REQUESTS:
            self._known.popitem(last=False)


def matches(if_none_match: bytes, etag: bytes) -> bool:
    """Whether the caller has what the tag names; weak and strong tags are the same here."""
    wanted = etag.removeprefix(b"W/")
    sent = (tag.strip() for tag in if_none_match.split(b","))
    return any(tag == b"*" or tag.removeprefix(b"W/") == wanted for tag in sent)


def _cache_control(key: CacheKey, found: Found) -> bytes:
    """How long browsers may keep it: as long as the template says, else they ask each time."""
    if key.max_age_s is None:
        return b"private, no-cache"
    left_s = key.max_age_s - (int(found.age_s) if key.expires else 0)
    return b"private, max-age=%d" % max(0, left_s)
