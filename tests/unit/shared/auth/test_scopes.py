import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.auth.scopes import (
    SCOPE_TYPES,
    ScopeObject,
    checked_scope,
    merge_scopes,
    parse_scope,
    scope_from_object,
    scope_object,
    scope_text,
    unknown_resources,
)
from shared.auth.tokens import Scope
from shared.errors import BadRequestError

NAMES = st.from_regex(r"\*|[A-Za-z_][A-Za-z0-9_.-]{0,20}", fullmatch=True)
FILTERS = st.text(min_size=1).filter(lambda text: bool(text.strip()))
PARAMS = st.dictionaries(st.text(), st.one_of(st.text(), st.integers(), st.booleans()))


@st.composite
def good_scopes(draw: st.DrawFn) -> Scope:
    scope = Scope(
        type=draw(st.sampled_from(SCOPE_TYPES)),
        resource=draw(st.none() | NAMES),
        filter=draw(st.none() | FILTERS),
    )
    while True:
        try:
            return checked_scope(scope)
        except BadRequestError:
            # Take away what does not fit, until the scope is one.
            if scope.filter is not None:
                scope = Scope(type=scope.type, resource=scope.resource)
            elif scope.resource is not None:
                scope = Scope(type=scope.type)
            else:
                scope = Scope(type=scope.type, resource=draw(NAMES))


@given(good_scopes())
def test_the_text_of_a_scope_is_read_back_as_the_same_scope(scope: Scope) -> None:
    assert parse_scope(scope_text(scope)) == scope


@given(good_scopes())
def test_the_object_of_a_scope_is_read_back_as_the_same_scope(scope: Scope) -> None:
    assert scope_from_object(ScopeObject(**scope_object(scope))) == scope  # type: ignore[arg-type]


@given(st.text() | st.builds(":".join, st.lists(st.sampled_from(["ADMIN", "READ", "*", "", "é"]))))
def test_any_text_is_a_scope_or_a_bad_request(text: str) -> None:
    try:
        scope = parse_scope(text)
    except BadRequestError:
        return
    assert scope.type in SCOPE_TYPES


@given(st.text(), st.none() | st.text(), st.none() | st.text(), PARAMS)
def test_any_object_is_a_scope_or_a_bad_request(
    type_: str, resource: str | None, condition: str | None, params: dict[str, object]
) -> None:
    value = ScopeObject(type=type_, resource=resource, filter=condition, fixed_params=params)
    try:
        scope_from_object(value)
    except BadRequestError:
        return


@pytest.mark.parametrize(
    ("text", "scope"),
    [
        ("ADMIN", Scope(type="ADMIN")),
        ("TOKENS", Scope(type="TOKENS")),
        ("WORKSPACE:READ_ALL", Scope(type="WORKSPACE:READ_ALL")),
        ("DATASOURCES:CREATE", Scope(type="DATASOURCES:CREATE")),
        ("DATASOURCES:CREATE:new", Scope(type="DATASOURCES:CREATE", resource="new")),
        ("DATASOURCES:DROP:old", Scope(type="DATASOURCES:DROP", resource="old")),
        ("PIPES:READ:*", Scope(type="PIPES:READ", resource="*")),
        ("DATASOURCES:READ:a", Scope(type="DATASOURCES:READ", resource="a")),
        (
            "DATASOURCES:READ:a:b = 'c:d'",
            Scope(type="DATASOURCES:READ", resource="a", filter="b = 'c:d'"),
        ),
    ],
)
def test_scopes_are_read_as_clients_write_them(text: str, scope: Scope) -> None:
    assert parse_scope(text) == scope


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "'' is not a scope"),
        ("PIPES:REED:a", "Did you mean 'PIPES:READ'"),
        ("admin", "Did you mean 'ADMIN'"),
        ("ADMIN:x", "takes no resource"),
        ("WORKSPACE:READ_ALL:x", "takes no resource"),
        ("PIPES:READ", "needs a resource"),
        ("PIPES:READ:", "needs a resource"),
        ("DATASOURCES:APPEND", "needs a resource"),
        ("PIPES:READ:a b", "not the name"),
        ("PIPES:READ:a'", "not the name"),
        ("PIPES:READ:a:b = 1", "takes no row filter"),
        ("DATASOURCES:APPEND:a:b = 1", "takes no row filter"),
        ("DATASOURCES:READ:*:b = 1", "by name"),
        ("DATASOURCES:READ:a:", "is empty"),
        ("DATASOURCES:READ:a:  ", "is empty"),
    ],
)
def test_a_bad_scope_is_refused_with_what_is_wrong(text: str, message: str) -> None:
    with pytest.raises(BadRequestError, match=message):
        parse_scope(text)


def test_fixed_parameters_belong_to_pipes_only() -> None:
    with pytest.raises(BadRequestError, match="fixed_params"):
        scope_from_object(ScopeObject(type="DATASOURCES:READ", resource="a", fixed_params={"x": 1}))


@pytest.mark.parametrize("condition", ["", "  "])
def test_an_empty_filter_is_refused_and_does_not_open_every_row(condition: str) -> None:
    with pytest.raises(BadRequestError, match="is empty"):
        scope_from_object(ScopeObject(type="DATASOURCES:READ", resource="a", filter=condition))


def test_an_empty_filter_says_nothing_where_there_could_be_none() -> None:
    found = scope_from_object(ScopeObject(type="PIPES:READ", resource="a", filter=""))
    assert found == Scope(type="PIPES:READ", resource="a")


def test_a_fixed_parameter_cannot_be_null() -> None:
    value = ScopeObject(type="PIPES:READ", resource="a", fixed_params={"org": None})
    with pytest.raises(BadRequestError, match="'org' of 'a' is null"):
        scope_from_object(value)


def test_scopes_are_merged_in_order_and_once() -> None:
    a, b = Scope(type="PIPES:READ", resource="a"), Scope(type="PIPES:READ", resource="b")
    assert merge_scopes([b, a, b]) == (b, a)


def test_resources_that_do_not_exist_are_named_with_the_near_miss() -> None:
    scopes = [
        Scope(type="PIPES:READ", resource="tpo"),
        Scope(type="DATASOURCES:READ", resource="event"),
        Scope(type="DATASOURCES:READ", resource="top"),
        Scope(type="PIPES:READ", resource="*"),
        Scope(type="DATASOURCES:CREATE", resource="later"),
        Scope(type="DATASOURCES:READ", resource="events_quarantine"),
        Scope(type="DATASOURCES:APPEND", resource="events"),
        Scope(type="ADMIN"),
    ]
    assert unknown_resources(scopes, {"events": 1}, {"top": 1}) == [
        "Pipe 'tpo' not found. Did you mean 'top'?",
        "Data source 'event' not found. Did you mean 'events'?",
        "Data source 'top' not found.",
    ]
