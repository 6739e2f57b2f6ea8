"""What producers send, and what must become of each message; pure.

Most messages are good. Between them are all kinds that cannot be stored, in every place of a batch.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Literal

from msgspec import Struct

Fate = Literal["stored", "quarantined", "nothing"]

BAD_SHARE = 0.05
# Of one kind in twelve: most batches have none, so that they are stored at their first attempt.
CONSTRAINT_SHARE = 0.2
HUGE_SHARE = 0.0005
HUGE_BYTES = 900_000


class Message(Struct, frozen=True, kw_only=True):
    """A record's value and its fate; ``id`` is None where it has none to be stored under."""

    value: bytes | None
    fate: Fate
    id: int | None = None


def messages(seed: int) -> Iterator[Message]:
    """An endless stream; ids count up from a number of the seed's own."""
    rng = random.Random(f"{seed}:messages")
    number = 0
    while True:
        number += 1
        chance = rng.random()
        if chance < HUGE_SHARE:
            yield _good(number, note="x" * HUGE_BYTES)
        elif chance < BAD_SHARE:
            yield _bad(number, rng)
        else:
            yield _good(number)


def _good(number: int, **more: object) -> Message:
    return Message(value=_json(number, **more), fate="stored", id=number)


def _json(number: int, **more: object) -> bytes:
    at = f"2024-0{number % 8 + 1}-03 00:00:00"
    return json.dumps({"id": number, "value": number % 1000, "at": at, **more}).encode()


def _bad(number: int, rng: random.Random) -> Message:
    """Each is unlike all others, except those that cannot be."""
    match rng.randrange(12):
        case 0 | 1:
            return Message(value=None, fate="nothing")
        case 2:
            value = _json(number)[:-1]
        case 3:
            value = b""
        case 4:
            value = b"null"
        case 5:
            value = _json(number, value="many")
        case 6:
            value = _json(number, value=3_000_000_000)
        case 7:
            value = b'{"value": %d}' % number
        case 8:
            value = _json(number, at="yesterday")
        case 9:
            value = b"\xff\xfe%d" % number
        case 10:
            value = b'["%d"]' % number
        case _ if rng.random() < CONSTRAINT_SHARE:
            # Only ClickHouse refuses it, by a constraint.
            value = _json(number, value=-1 - number % 7)
        case _:
            value = b"%d" % number
    return Message(value=value, fate="quarantined")


def fate_of(value: bytes | None) -> Message:
    """What must become of a record that was found in the log."""
    if value is None:
        return Message(value=None, fate="nothing")
    try:
        found = json.loads(value)
        is_good = isinstance(found["value"], int) and 0 <= found["value"] < 1000
        is_good = is_good and found["at"].startswith("2024-")
    except (ValueError, TypeError, KeyError):
        is_good = False
    if not is_good:
        return Message(value=value, fate="quarantined")
    return Message(value=value, fate="stored", id=found["id"])
