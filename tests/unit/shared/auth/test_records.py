import pytest
from msgspec import structs

from shared.auth.records import (
    Details,
    FileToken,
    Origin,
    TokenRecord,
    changed_by_files,
    checked_description,
    checked_name,
    file_tokens,
)
from shared.auth.tokens import DATASOURCES_APPEND, DATASOURCES_READ, PIPES_READ, Scope
from shared.errors import BadRequestError
from shared.model.resources import Datasource, Node, Pipe, TokenGrant
from shared.model.workspace import Workspace

EVENTS = Datasource(
    name="events",
    columns=(),
    tokens=(TokenGrant("tracker", "APPEND"), TokenGrant("app", "READ")),
)
TOP = Pipe(name="top", nodes=(Node(name="n", sql="SELECT 1"),), tokens=(TokenGrant("app", "READ"),))
WORKSPACE = Workspace(datasources={"events": EVENTS}, pipes={"top": TOP})

READ_EVENTS = Scope(type=DATASOURCES_READ, resource="events")
READ_TOP = Scope(type=PIPES_READ, resource="top")
READ_OTHER = Scope(type=PIPES_READ, resource="other")


def record(name: str, details: Details) -> TokenRecord:
    return TokenRecord(id=name, name=name, digest="d", sealed="s", details=details)


def test_the_lines_of_all_datafiles_make_one_token_a_name() -> None:
    assert file_tokens(WORKSPACE) == {
        "tracker": FileToken(
            (Scope(type=DATASOURCES_APPEND, resource="events"),), Origin("DS", "events")
        ),
        "app": FileToken((READ_EVENTS, READ_TOP), Origin("DS", "events")),
    }


def test_a_token_has_what_the_api_and_what_the_files_gave_it() -> None:
    details = Details(scopes=(READ_OTHER, READ_TOP), file_scopes=(READ_TOP, READ_EVENTS))
    assert record("app", details).grant.scopes == (READ_OTHER, READ_TOP, READ_EVENTS)


def test_a_line_that_goes_away_takes_its_scope_and_no_other() -> None:
    before = record("app", Details(scopes=(READ_OTHER,), file_scopes=(READ_EVENTS, READ_TOP)))
    wanted = file_tokens(Workspace(pipes={"top": TOP}))
    (after,) = changed_by_files([before], wanted)
    assert after.scopes == (READ_OTHER, READ_TOP)
    assert (after.digest, after.sealed) == (before.digest, before.sealed)
    (bare,) = changed_by_files([after], {})
    assert bare.scopes == (READ_OTHER,)


def test_tokens_that_the_files_leave_as_they_are_do_not_change() -> None:
    app = record("app", Details(file_scopes=(READ_TOP, READ_EVENTS)))
    mine = record("mine", Details(scopes=(READ_TOP,)))
    wanted = file_tokens(WORKSPACE)
    assert changed_by_files([app, mine], wanted) == []
    assert changed_by_files([structs.replace(mine, name="tracker")], {"tracker": wanted["tracker"]})


@pytest.mark.parametrize(
    "name", ["", "  ", "me", "admin", "workspace admin token", "a/b", "a\nb", "x" * 201]
)
def test_a_name_that_would_be_in_the_way_is_refused(name: str) -> None:
    with pytest.raises(BadRequestError):
        checked_name(name)


def test_a_name_may_have_spaces_and_any_letters() -> None:
    assert checked_name(" für mich: №1 ") == "für mich: №1"


def test_a_description_has_an_end() -> None:
    assert checked_description("x" * 2000)
    with pytest.raises(BadRequestError):
        checked_description("x" * 2001)
