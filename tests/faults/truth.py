"""What the log really has, against what tables, views and quarantine hold."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from msgspec import Struct

from ingest.log.kafka_facts import KafkaLogFacts
from tests.chaos.site import orphans
from tests.faults.messages import Message, fate_of
from tests.faults.world import TABLE, Place

_SHOWN = 5


class Record(Struct, frozen=True, kw_only=True):
    """A record of the log: where it is, and what must become of it."""

    stream: int
    partition: int
    offset: int
    message: Message

    @property
    def place(self) -> tuple[int, int, int]:
        return self.stream, self.partition, self.offset


class Figures(Struct, frozen=True, kw_only=True):
    """What a round came to, in numbers."""

    produced: int
    stored: int
    quarantined: int
    tombstones: int
    view_lacks: int = 0


async def read_everything(facts: KafkaLogFacts, topic: str) -> list[Record]:
    """Every record that the topic has now."""
    found = []
    for part in await facts.partitions(topic):
        for chunk in await facts.read(part.partition, part.start, part.end):
            found += [
                Record(
                    stream=part.stream,
                    partition=part.partition.number,
                    offset=offset,
                    message=fate_of(value),
                )
                for offset, value in zip(chunk.offsets, chunk.values, strict=True)
                if offset < part.end
            ]
    return found


def verify(place: Place, truth: Sequence[Record], *, engine_died: bool) -> Figures:
    """Compare record by record.

    Args:
        place: Whose tables.
        truth: Everything that was ever in the topic.
        engine_died: Whether targets of views may lack rows without anybody noticing.

    Raises:
        AssertionError: Something is lost, doubled, or where it does not belong.
    """
    wanted = {r.place: r.message.id for r in truth if r.message.fate == "stored"}
    bad = {r.place for r in truth if r.message.fate == "quarantined"}
    stored = _stored(place)
    _same("table", wanted.items(), stored)
    quarantined = [
        (int(s), int(p), int(o))
        for s, p, o in place.ask(
            f"SELECT __stream, __partition, __offset FROM DB.{TABLE}_quarantine FINAL"
        )
    ]
    _same("quarantine", bad, quarantined)
    return Figures(
        produced=len(truth),
        stored=len(stored),
        quarantined=len(quarantined),
        tombstones=len(truth) - len(wanted) - len(bad),
        view_lacks=_verify_views(place, [i for i in wanted.values() if i], engine_died),
    )


def _stored(place: Place) -> list[tuple[tuple[int, int, int], int]]:
    rows = place.ask(f"SELECT __stream, __partition, __offset, id FROM DB.{TABLE}")
    return [((int(s), int(p), int(o)), int(i)) for s, p, o, i in rows]


def _verify_views(place: Place, ids: Sequence[int], engine_died: bool) -> int:
    """How many rows the views lack, which only the death of a plain server excuses."""
    listed = Counter(int(i) for (i,) in place.ask("SELECT id FROM DB.reading_ids"))
    lacking = Counter(ids) - listed
    _same("view", [], (listed - Counter(ids)).elements())
    ((count, total),) = place.ask("SELECT sum(readings), sum(ids) FROM DB.readings_by_month")
    lacks = max(lacking.total(), len(ids) - int(count))
    if engine_died and lacks and orphans_of(place, "reading_ids", "readings_by_month"):
        return lacks
    _same("view", lacking.elements(), [])
    assert (int(count), int(total)) == (len(ids), sum(ids)), f"the sums are {count}, {total}"
    return 0


def orphans_of(place: Place, *tables: str) -> int:
    """How many tokens these tables remember whose rows went with the engine."""
    names = ", ".join(f"'{name}'" for name in tables)
    uuids = place.ask(
        f"SELECT uuid FROM system.tables WHERE database = '{place.name}' AND name IN ({names})"
    )
    lost = orphans(place.world.folder / "clickhouse")
    return sum(lost.get(uuid, 0) for (uuid,) in uuids)


def _same(where: str, wanted: Iterable[object], found: Iterable[object]) -> None:
    expected, there = Counter(wanted), Counter(found)
    lost, surplus = expected - there, there - expected
    assert not lost and not surplus, (
        f"{where}: {lost.total()} lost {sorted(lost, key=str)[:_SHOWN]},"
        f" {surplus.total()} too many {sorted(surplus, key=str)[:_SHOWN]}"
    )


def verify_audit(place: Place, truth: Sequence[Record]) -> None:
    """What operators are told of a whole round must be what is so, record by record.

    Of a topic that is gone nobody can tell a tombstone from a lost record, unless it was recorded
    before its worker died: these alone may be called unexplained.

    Raises:
        AssertionError: It is told otherwise.
    """
    audited = _audit(place)
    fates = {r.place: r.message.fate for r in truth}
    counted: Counter[str] = Counter()
    for part in audited["partitions"]:
        verdict = part["verdict"]
        counted["stored"] += verdict["stored"]
        counted["quarantined"] += verdict["quarantined"]
        for finding in verdict["findings"]:
            offsets = [o for r in finding["offsets"] for o in range(r["first"], r["next"])]
            named = {fates.get((part["stream"], part["partition"], o)) for o in offsets}
            is_excused = finding["kind"] == "unexplained" and not part["is_current"]
            assert is_excused and named == {"nothing"}, f"{part['partition']}: {finding}"
        assert not part["held_because"] and verdict["in_flight"] is None, part
    wanted = Counter(r.message.fate for r in truth if r.message.fate != "nothing")
    assert counted == wanted, f"audit counts {counted}, there are {wanted}"


def verify_alarm(place: Place, truth: Sequence[Record]) -> None:
    """A loss was announced: there must be one, operators must be told of it, nothing be doubled.

    Raises:
        AssertionError: It is not so.
    """
    assert orphans_of(place, TABLE), "held, although the engine has lost nothing"
    wanted = {(r.place, r.message.id) for r in truth if r.message.fate == "stored"}
    stored = Counter(_stored(place))
    _same("table", [], [row for row in stored.elements() if stored[row] > 1 or row not in wanted])
    audited = _audit(place)
    assert not audited["is_ok"], audited
    assert any("not in the table" in part["held_because"] for part in audited["partitions"])


def _audit(place: Place) -> dict[str, Any]:
    done = place.command("audit", TABLE, "--json")
    assert done.returncode in (0, 1), done.stderr
    (found,) = json.loads(done.stdout)["datasources"]
    assert found["is_ok"] is (done.returncode == 0), found
    audited: dict[str, Any] = found
    return audited
