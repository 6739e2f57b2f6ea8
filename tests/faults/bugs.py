"""Mistakes that are planted into workers, to see that rounds find them.

The model of the protocol in ``tests/unit/ingest`` finds more of them, in worlds that are smaller;
these are here because a run that could find nothing would pass too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from msgspec import structs

from ingest import delivery
from ingest.messages import Event, Insert, Metadata, State
from ingest.messages import Intent as IntentMessage
from ingest.partition import PartitionDelivery

VARIABLE = "PIPEHOUSE_TEST_BUG"


def commit_before_insert() -> None:
    """The position moves before the rows are stored."""
    insert = PartitionDelivery._insert

    async def hasty(self: PartitionDelivery, action: Insert) -> Event:
        metadata = delivery._metadata(self._state, None)
        await self._source.commit(self._partition, action.next, metadata.encode())
        return await insert(self, action)

    PartitionDelivery._insert = hasty  # type: ignore[method-assign]


def second_token() -> None:
    """Every attempt at a range has a token of its own."""
    token = delivery.insert_token

    def varied(state: State, intent: IntentMessage) -> str:
        return f"{token(state, intent)}:r{state.attempt}"

    delivery.insert_token = varied


def no_intent() -> None:
    """Nobody is told which range is being inserted."""
    encode = Metadata.encode

    def silent(self: Metadata) -> str:
        return encode(structs.replace(self, intent=None))

    Metadata.encode = silent  # type: ignore[method-assign]


BUGS: Mapping[str, Callable[[], None]] = {
    "commit-before-insert": commit_before_insert,
    "second-token": second_token,
    "no-intent": no_intent,
}
