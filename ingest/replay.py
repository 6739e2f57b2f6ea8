"""Stores quarantined records that can be stored by now, each once however often it is run.

One replay of a data source runs at a time, under a lease. For each partition, in groups:

1. Records that the table holds already leave quarantine; those whose range is open stay for later.
2. The others are decoded as they would be on arrival, and tried outside the table; what is still
   bad stays, with its fresh reason.
3. The rest is *announced* with its exact offsets; the token is a digest of them.
4. It is inserted under that token, through the table into every view.
5. It leaves quarantine, and the announcement is done.

Whatever ends it in between, the next run first completes what was announced: the same offsets under
the same token, so that ClickHouse drops what it has, in the table and in each view.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence

import msgspec
import structlog
from msgspec import Struct

from ingest.batch import Batch
from ingest.chunk import Partition, Rejection
from ingest.landing import Landing
from ingest.lease import Lease, take_lease
from ingest.ledger import Ledger
from ingest.messages import Holding, Intent
from ingest.replay_decode import ReadLog, RecordDecoder
from ingest.replay_store import (
    Announcement,
    Place,
    Quarantined,
    ReplayStore,
    Selection,
)
from shared.clickhouse.contract import ClickHouse, Run
from shared.clock import Clock
from shared.model.resources import Datasource

log = structlog.get_logger(__name__)

GROUP_ROWS = 10_000


class ReplayNeeds(Struct, frozen=True, kw_only=True):
    """What a replay works with, beside the data source.

    ``positions`` asks what the group has committed, by stream and partition: records at or behind
    that belong to ranges that are open. ``read`` asks the log, None where it cannot be asked.
    ``on_step`` is told of every step before it is done; tests end the replay there.
    """

    clickhouse: ClickHouse
    clock: Clock
    window: int
    holder: str
    positions: Callable[[], Awaitable[Mapping[tuple[int, int], int]]] | None = None
    read: ReadLog | None = None
    on_step: Callable[[str], None] = lambda step: None


class ReplayReport(Struct, kw_only=True):
    """What became of the selected records; mutable while they are counted.

    ``stored`` by this run or one that it completed, ``already_stored`` found in the table,
    ``still_bad`` stay in quarantine, ``in_flight`` belong to a range that is open. With
    ``is_check`` nothing was changed.
    """

    is_ok: bool = True
    is_check: bool = False
    datasource: str = ""
    stored: int = 0
    already_stored: int = 0
    still_bad: int = 0
    in_flight: int = 0
    notes: list[str] = msgspec.field(default_factory=list)


class _Group(Struct, frozen=True, kw_only=True):
    """Some records of one place, sorted by what can be done with them.

    ``changed`` are those of ``bad`` whose reason is another one by now.
    """

    place: Place
    batch: Batch
    held: list[int]
    bad: list[Rejection]
    changed: list[Rejection]
    in_flight: int


class Replay:
    """Replays the quarantine of one data source.

    Args:
        datasource: Whose quarantine, as it is deployed.
        schema: The revision of the data source.
        needs: What it works with.
    """

    def __init__(self, datasource: Datasource, schema: str, needs: ReplayNeeds) -> None:
        self._name = datasource.name
        self._schema = schema
        self._needs = needs
        self._store = ReplayStore(needs.clickhouse, datasource.name)
        self._landing = Landing(needs.clickhouse, datasource, needs.window)
        self._decoder = RecordDecoder(
            self._landing, has_keys=datasource.kafka is not None, read=needs.read
        )
        self._report = ReplayReport(datasource=datasource.name)
        # What an earlier run may have stored a part of: to be left alone.
        self._stuck: dict[Place, set[int]] = {}

    async def check(self, selection: Selection) -> ReplayReport:
        """Say what a replay would do; nothing is changed."""
        self._report.is_check = True
        for place in await self._store.places(selection):
            async for group in self._groups(selection, place):
                self._count(group)
                self._report.stored += group.batch.row_count
        return self._report

    async def run(self, selection: Selection) -> ReplayReport:
        """Complete what was announced earlier, then replay what is selected.

        Raises:
            ConflictError: Another replay of the data source runs.
            InsertError: ClickHouse did not take a group; the next run completes it.
        """
        needs = self._needs
        name = f"replay of {needs.clickhouse.database}.{self._name}"
        async with take_lease(needs.clickhouse, needs.clock, name, needs.holder) as lease:
            await self._store.prepare()
            for announcement in await self._store.open_announcements():
                await lease.renew()
                await self._complete(announcement)
            for place in await self._store.places(selection):
                async for group in self._groups(selection, place):
                    await self._store_group(group, lease)
        return self._report

    # Groups -----------------------------------------------------------------------------------

    async def _groups(self, selection: Selection, place: Place) -> AsyncIterator[_Group]:
        after = -1
        while records := await self._store.records(selection, place, after=after, limit=GROUP_ROWS):
            after = records[-1].offset
            yield await self._sorted(place, records)

    async def _sorted(self, place: Place, records: Sequence[Quarantined]) -> _Group:
        position = await self._position(place)
        closed = [r for r in records if position is None or r.offset < position]
        in_flight = len(records) - len(closed)
        closed = [r for r in closed if r.offset not in self._stuck.get(place, ())]
        held: set[int] = set()
        if closed and self._landing.carries_identity:
            held = await self._landing.held_offsets(
                place.stream, place.partition, closed[0].offset, closed[-1].offset + 1
            )
        batch, bad = await self._decoder.decode(place, [r for r in closed if r.offset not in held])
        return _Group(
            place=place,
            batch=batch,
            held=[r.offset for r in closed if r.offset in held],
            bad=bad,
            changed=_changed(bad, closed),
            in_flight=in_flight,
        )

    async def _position(self, place: Place) -> int | None:
        """Asked each time: a group may be moved back while a replay runs."""
        if self._needs.positions is None:
            return None
        return (await self._needs.positions()).get((place.stream, place.partition))

    # Storing ----------------------------------------------------------------------------------

    def _count(self, group: _Group) -> None:
        self._report.already_stored += len(group.held)
        self._report.still_bad += len(group.bad)
        self._report.in_flight += group.in_flight

    async def _store_group(self, group: _Group, lease: Lease) -> None:
        self._count(group)
        place = group.place
        await lease.renew()
        self._needs.on_step("tidy")
        await self._store.release(place, group.held)
        await self._renew_reasons(group)
        if not group.batch.row_count:
            return
        announcement = Announcement(
            topic=place.topic,
            stream=place.stream,
            partition=place.partition,
            token=self._token(place, group.batch.runs),
            offsets=group.batch.runs,
            schema=self._schema,
            begun_ms=self._needs.clock.now_ms(),
        )
        self._needs.on_step("announce")
        await self._store.announce(announcement)
        await self._insert(announcement, group.batch)

    async def _renew_reasons(self, group: _Group) -> None:
        now_ms = self._needs.clock.now_ms()
        place = group.place
        # The time: the same offsets may get one reason now and another the next time.
        token = f"ph1:{self._name}:{place.stream:016x}:{place.partition}:reasons:{now_ms}"
        await self._landing.quarantine(
            group.changed,
            stream=place.stream,
            partition=Partition(place.topic, place.partition),
            token=token,
            now_s=now_ms // 1000,
        )

    def _token(self, place: Place, runs: Sequence[Run]) -> str:
        digest = hashlib.blake2b(msgspec.json.encode(runs), digest_size=12).hexdigest()
        return f"ph1:{self._name}:{place.stream:016x}:{place.partition}:{digest}:replay"

    async def _insert(self, announcement: Announcement, batch: Batch) -> None:
        self._needs.on_step("insert")
        await self._landing.insert(
            batch,
            stream=announcement.stream,
            partition=announcement.partition,
            token=announcement.token,
        )
        self._needs.on_step("acknowledge")
        if self._landing.needs_verification and await self._held(announcement) is not Holding.ALL:
            # Restarted since an earlier attempt: it may remember a token whose rows it lost.
            self._leave(
                announcement,
                "ClickHouse takes them for stored, and the table does not hold them; they stay in"
                " quarantine until it has forgotten their token",
            )
            return
        await self._store.stored(announcement)
        await self._leave_quarantine(announcement)
        self._report.stored += batch.row_count

    async def _leave_quarantine(self, announcement: Announcement) -> None:
        self._needs.on_step("release")
        await self._store.release(announcement.place, announcement.offset_list())
        self._needs.on_step("done")
        await self._store.done(announcement)

    # Completing -------------------------------------------------------------------------------

    async def _complete(self, announcement: Announcement) -> None:
        """Finish what an earlier run announced, exactly as it was announced."""
        log.info("replay_completed", datasource=self._name, token=announcement.token)
        if announcement.is_stored:
            await self._leave_quarantine(announcement)
            return
        # What an earlier run sent may still be running.
        await self._landing.settle(announcement.token)
        offsets = announcement.offset_list()
        position = await self._position(announcement.place)
        if position is not None and offsets[-1] >= position:
            self._stuck.setdefault(announcement.place, set()).update(offsets)
            self._report.in_flight += len(offsets)
            return
        records = await self._store.records_at(announcement.place, offsets)
        batch, _ = await self._decoder.decode(announcement.place, records)
        is_same = batch.row_count == len(offsets) and announcement.schema == self._schema
        if is_same and await self._is_repeatable(announcement):
            # Also where the table has it already: that heals views.
            await self._insert(announcement, batch)
            return
        await self._look(announcement, batch, is_whole=batch.row_count == len(offsets))

    async def _is_repeatable(self, announcement: Announcement) -> bool:
        """Whether the token is remembered, and no pipeline had the records since.

        A group that was moved back may have stored them under a token of its own.
        """
        offsets = announcement.offset_list()
        batches = await Ledger(self._needs.clickhouse).entries(
            self._name,
            kinds=("batch",),
            stream=announcement.stream,
            partition=announcement.partition,
            overlapping=(offsets[0], offsets[-1] + 1),
        )
        if any(batch.at_ms >= announcement.begun_ms for batch in batches):
            return False
        intent = Intent(next=0, at_ms=announcement.begun_ms, boot="", schema=announcement.schema)
        return await self._landing.remembers(intent)

    async def _look(self, announcement: Announcement, batch: Batch, *, is_whole: bool) -> None:
        """The token may be forgotten, or the rows changed: the table decides."""
        holding = Holding.PART
        if self._landing.carries_identity:
            holding = await self._held(announcement)
        match holding:
            case Holding.ALL:
                self._note(announcement, "the table holds them; its views were not verified")
                await self._leave_quarantine(announcement)
            case Holding.NOTHING if is_whole:
                await self._insert(announcement, batch)
            case Holding.NOTHING:
                # Nothing went in, and the same block cannot be made any more.
                await self._store.done(announcement)
            case Holding.PART:
                self._leave(
                    announcement,
                    "an earlier replay may have stored a part of them and the table cannot tell;"
                    " purge what is stored, or leave them",
                )

    async def _held(self, announcement: Announcement) -> Holding:
        wanted = set(announcement.offset_list())
        held = await self._landing.held_offsets(
            announcement.stream, announcement.partition, min(wanted), max(wanted) + 1
        )
        if not held & wanted:
            return Holding.NOTHING
        return Holding.ALL if wanted <= held else Holding.PART

    def _leave(self, announcement: Announcement, text: str) -> None:
        """Leave the records alone, and say why."""
        self._report.is_ok = False
        offsets = announcement.offset_list()
        self._stuck.setdefault(announcement.place, set()).update(offsets)
        self._note(announcement, text)

    def _note(self, announcement: Announcement, text: str) -> None:
        count = sum(run.count for run in announcement.offsets)
        self._report.notes.append(
            f"{count} records of {announcement.topic}:{announcement.partition} from offset"
            f" {announcement.offsets[0].first} on: {text}."
        )


def _changed(bad: Sequence[Rejection], records: Sequence[Quarantined]) -> list[Rejection]:
    """The rejections whose reasons are not those that quarantine has."""
    known = {r.offset: list(zip(r.columns, r.messages, strict=False)) for r in records}
    return [r for r in bad if [(e.column, e.message) for e in r.errors] != known.get(r.offset)]
