"""What the delivery protocol takes and gives, as values: commits, state, events and actions.

``ingest/delivery.py`` says what follows from what. Every action is answered with one event, but
for those that say otherwise.
"""

from __future__ import annotations

from enum import Enum

import msgspec
from msgspec import Struct

from shared.clickhouse.contract import Run

METADATA_VERSION = 1

# Commits --------------------------------------------------------------------------------------


class Intent(Struct, frozen=True, kw_only=True, array_like=True):
    """What is about to be inserted: the range from the committed offset up to ``next``.

    ``boot`` is the engine's boot id and ``schema`` the revision of the data source when it was
    declared. ``excluded`` are the offsets that stay out of the block: ClickHouse refused them for
    good, or the table had them before. Where they are too many for a commit, ``digest`` is what
    they are kept under elsewhere.
    """

    next: int
    at_ms: int
    boot: str
    schema: str
    shard: int = 0
    excluded: tuple[Run, ...] = ()
    digest: str = ""


class Metadata(Struct, frozen=True, kw_only=True, array_like=True):
    """What every commit carries beside its offset.

    ``partitions`` is how many the topic had when the group began.
    """

    version: int
    stream: int
    walk: str
    intent: Intent | None = None
    partitions: int = 0

    def encode(self) -> str:
        """The text that is committed."""
        return msgspec.json.encode(self).decode()


def decode_metadata(text: str | None) -> Metadata | None:
    """The metadata of a commit; None where the commit was not written by us."""
    if not text:
        return None
    try:
        found = msgspec.json.decode(text.encode(), type=Metadata)
    except msgspec.MsgspecError:
        return None
    return found if found.version == METADATA_VERSION else None


# State ----------------------------------------------------------------------------------------


class Phase(Enum):
    """Which answer a partition is waiting for."""

    NEW = "new"
    CLAIMING = "claiming"
    REREADING = "rereading"
    OPEN = "open"
    DECLARING = "declaring"
    INSERTING = "inserting"
    LOOKING = "looking"
    LOOKING_AHEAD = "looking ahead"
    VERIFYING = "verifying"
    SEARCHING = "searching"
    EXCLUDING = "excluding"
    QUARANTINING = "quarantining"
    CLOSING = "closing"
    HELD = "held"
    LOST = "lost"


class State(Struct, frozen=True, kw_only=True):
    """Everything a partition knows between two events.

    ``position`` is the committed offset, where ``intent`` begins. ``waiting`` is a batch that is
    ready but not declared. ``is_repeat``: an attempt before the running one may have stored
    something. ``unanswered``: the outcome of an earlier attempt is not known. ``refused``: the
    running attempt was refused for good. ``is_flowing``: records were let through. ``ahead`` are
    offsets behind the position that the table has already; ``partitions`` as in ``Metadata``.
    """

    name: str
    phase: Phase = Phase.NEW
    stream: int = 0
    walk: str = ""
    position: int = 0
    intent: Intent | None = None
    waiting: Intent | None = None
    attempt: int = 0
    is_repeat: bool = False
    unanswered: bool = False
    refused: bool = False
    draining: bool = False
    is_flowing: bool = False
    partitions: int = 0
    ahead: tuple[Run, ...] = ()


# Events ---------------------------------------------------------------------------------------


class Assigned(Struct, frozen=True, kw_only=True):
    """The partition is ours to claim.

    ``offset`` is the committed position, or where to start when there is none; ``metadata`` what
    was committed with it; ``walk`` a fresh draw, used when the position was not written by us.
    """

    offset: int
    metadata: Metadata | None
    stream: int
    walk: str
    partitions: int = 0


class Committed(Struct, frozen=True):
    """The commit was answered with success."""


class Fenced(Struct, frozen=True):
    """The partition is not ours any more.

    A commit was refused or not answered, or the lease had run out before an insert was sent.
    """


class Reread(Struct, frozen=True, kw_only=True):
    """The range of the intent was read again.

    ``log_start`` and ``log_end`` are what the log has: what lies before is gone, what lies behind
    was never there. ``is_certain``: the table and every view target still remember the tokens used
    since the intent was declared.
    """

    log_start: int
    log_end: int
    is_certain: bool


class Ahead(Struct, frozen=True, kw_only=True):
    """What lies behind the position: in the log, and in the table already.

    ``walk`` is a fresh draw, used when the table has anything there.
    """

    log_start: int
    log_end: int
    stored: tuple[Run, ...]
    walk: str


class Ready(Struct, frozen=True):
    """A batch is closed and can follow what is under way."""

    intent: Intent


class Stored(Struct, frozen=True):
    """The insert was acknowledged.

    ``is_doubtful``: the engine was restarted since the intent, and its memory of tokens may hold
    one whose rows were lost with it.
    """

    is_doubtful: bool = False


class Verified(Struct, frozen=True):
    """The table was compared with the range; these offsets should be there and are not."""

    missing: tuple[Run, ...]


class Fault(Enum):
    """How an insert failed."""

    RETRIABLE = "retriable"
    UNKNOWN = "unknown"
    VIEW = "view"
    REFUSED = "refused"


class InsertFailed(Struct, frozen=True):
    """The insert was not acknowledged."""

    fault: Fault


class Holding(Enum):
    """How much of a range the table holds."""

    NOTHING = "nothing"
    ALL = "all"
    PART = "part"


class Forgotten(Struct, frozen=True):
    """Before a repeated attempt: the memory of tokens is no longer certain. Not inserted."""


class Looked(Struct, frozen=True):
    """The table was asked what it holds of the range."""

    holding: Holding


class Found(Struct, frozen=True):
    """The search for guilty rows ended; no runs means none could be found."""

    guilty: tuple[Run, ...]


class Quarantined(Struct, frozen=True):
    """The quarantine table has what belongs there."""


class Drain(Struct, frozen=True):
    """Finish the range under way and declare nothing new."""


Event = (
    Assigned
    | Committed
    | Fenced
    | Reread
    | Ready
    | Ahead
    | Stored
    | Verified
    | InsertFailed
    | Forgotten
    | Looked
    | Found
    | Quarantined
    | Drain
)


# Actions --------------------------------------------------------------------------------------


class Commit(Struct, frozen=True):
    """Commit this offset with this metadata, under the identity of the assignment."""

    offset: int
    metadata: Metadata


class ReadAgain(Struct, frozen=True):
    """Read ``[first, next)`` again, after making sure that no earlier attempt still runs."""

    first: int
    next: int


class Open(Struct, frozen=True):
    """Let records through, from this offset."""

    offset: int


class Insert(Struct, frozen=True, kw_only=True):
    """Insert ``[first, next)`` minus the excluded offsets, as one block under the token.

    ``attempt`` counts from 1 and tells how long to wait first. ``is_repeat``: an earlier attempt
    may have stored it, so it is sent only while tokens are remembered. ``of_view`` says that a
    view refused the attempt before: an alarm, until it is mended.
    """

    first: int
    next: int
    excluded: tuple[Run, ...]
    token: str
    attempt: int
    is_repeat: bool = False
    of_view: bool = False


class Look(Struct, frozen=True):
    """Ask the table which offsets of ``[first, next)`` it holds."""

    first: int
    next: int


class LookAhead(Struct, frozen=True):
    """Ask log and table what they hold from this offset on, before records are let through."""

    position: int


class Verify(Struct, frozen=True):
    """Compare the offsets of ``[first, next)`` that were inserted with those the table holds."""

    first: int
    next: int


class ReportGap(Struct, frozen=True):
    """The log lost ``[first, next)``; what of it is not stored never will be. Needs no answer."""

    first: int
    next: int


class Search(Struct, frozen=True):
    """Find the rows of ``[first, next)`` that ClickHouse refuses, outside the table."""

    first: int
    next: int


class Quarantine(Struct, frozen=True, kw_only=True):
    """Put records of ``[first, next)`` into quarantine.

    With ``is_complement`` all those that the table does not hold, else the rejected and excluded.
    """

    first: int
    next: int
    excluded: tuple[Run, ...]
    token: str
    is_complement: bool


class Close(Struct, frozen=True):
    """Everything below ``next`` is stored or quarantined, and committed. Needs no answer."""

    next: int


class Hold(Struct, frozen=True):
    """Stop here and tell an operator: going on would lose or double rows. Needs no answer."""

    reason: str


class Drop(Struct, frozen=True):
    """Let go of the partition; what is in memory of it is void. Needs no answer."""


Action = (
    Commit
    | ReadAgain
    | Open
    | Insert
    | Look
    | LookAhead
    | Verify
    | ReportGap
    | Search
    | Quarantine
    | Close
    | Hold
    | Drop
)
