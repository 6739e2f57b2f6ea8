"""Every interleaving of a small world: exactly once, in the table and in its view."""

from __future__ import annotations

import os

import pytest

from tests.unit.ingest.delivery_explorer import Explorer
from tests.unit.ingest.delivery_world import Bug, Violation

DEPTH = int(os.environ.get("PIPEHOUSE_TEST_MODEL_DEPTH", "0"))


@pytest.mark.parametrize(
    ("records", "crashes", "faults", "moves"),
    [(3, 2, 2, 0), (3, 1, 1, 1), (4, 1, 1, 0)],
)
def test_no_interleaving_loses_or_doubles_a_record(
    records: int, crashes: int, faults: int, moves: int
) -> None:
    explorer = Explorer(
        records=records + DEPTH, crashes=crashes, faults=faults + DEPTH, moves=moves
    )
    assert explorer.run() > 1_000
    assert explorer.finished > 0


def test_where_tokens_are_forgotten_the_table_still_has_each_record_once() -> None:
    assert Explorer(records=3, crashes=2, faults=1, moves=0, remembers=False).run() > 1_000


def test_what_a_dying_engine_loses_is_announced() -> None:
    """A plain server may come back with a token and without its rows; views are served then."""
    explorer = Explorer(records=3, crashes=1, faults=0, moves=1, deaths=1)
    assert explorer.run() > 1_000
    assert explorer.announced > 0


def test_trusting_an_engine_that_was_restarted_is_found() -> None:
    bug = Bug(name="trust a restarted engine", trusts_restarted_engine=True)
    with pytest.raises(Violation):
        Explorer(records=3, crashes=0, faults=0, moves=0, deaths=1, bug=bug).run()


def test_a_group_that_is_moved_back_stores_nothing_twice() -> None:
    assert Explorer(records=3, crashes=1, faults=1, moves=0, rewinds=1).run() > 1_000


def test_not_looking_ahead_is_found() -> None:
    bug = Bug(name="look not ahead", looks_not_ahead=True)
    with pytest.raises(Violation):
        Explorer(records=3, crashes=0, faults=0, moves=0, rewinds=1, bug=bug).run()


BUGS = [
    Bug(name="no intent", forgets_intent=True),
    Bug(name="a new owner declares its own range", overwrites_intent=True),
    # While intents never change no two ranges of a walk begin at one offset; `next` in the token
    # is the second line of defence, so it is taken away together with the first.
    Bug(name="token without next", overwrites_intent=True, token=lambda s, t: t.rsplit("-", 1)[0]),
    Bug(name="a second token for a repair", token=lambda s, t: f"{t}:r{s.attempt}"),
    Bug(name="commit before insert", commits_before_insert=True),
    Bug(name="skip what the table has", skips_replay=True),
    Bug(name="commit under a newer generation", commits_unfenced=True),
    Bug(name="insert after the lease ran out", ignores_lease=True),
    Bug(name="take a block apart that a view refused", splits_view_errors=True),
]


@pytest.mark.parametrize("bug", BUGS, ids=lambda b: b.name)
def test_a_planted_bug_is_found(bug: Bug) -> None:
    with pytest.raises(Violation):
        # The smallest worlds in which any of them shows.
        for records, crashes in ((3, 0), (2, 1)):
            Explorer(records=records, crashes=crashes, faults=1, moves=1, bug=bug).run()


def test_repeating_under_a_token_that_is_forgotten_is_found() -> None:
    bug = Bug(name="repeat what may be forgotten", repeats_forgotten=True)
    with pytest.raises(Violation):
        Explorer(records=3, crashes=1, faults=1, moves=0, bug=bug, remembers=False).run()
