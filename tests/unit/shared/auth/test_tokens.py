import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from shared.auth.tokens import (
    ADMIN,
    DATASOURCES_APPEND,
    DATASOURCES_CREATE,
    DATASOURCES_READ,
    PIPES_READ,
    TOKENS,
    WORKSPACE_READ_ALL,
    AdminTokenStore,
    Grant,
    Scope,
    TokenStore,
    load_or_create_admin_token,
)
from shared.errors import AuthenticationError, ConfigError, PermissionDeniedError


def grant(*scopes: Scope) -> Grant:
    return Grant(name="test", scopes=scopes)


def test_an_administrator_may_do_everything() -> None:
    admin = grant(Scope(type=ADMIN))
    assert admin.allows(DATASOURCES_APPEND, "events")
    assert admin.allows("TOKENS")


def test_a_scope_covers_its_own_resource_only() -> None:
    writer = grant(Scope(type=DATASOURCES_APPEND, resource="events"))
    assert writer.allows(DATASOURCES_APPEND, "events")
    assert not writer.allows(DATASOURCES_APPEND, "messages")
    assert not writer.allows(DATASOURCES_READ, "events")
    assert not writer.allows(ADMIN)


def test_reading_a_data_source_covers_its_quarantine_and_appending_does_not() -> None:
    reader = grant(Scope(type=DATASOURCES_READ, resource="events"))
    writer = grant(Scope(type=DATASOURCES_APPEND, resource="events"))
    assert reader.allows(DATASOURCES_READ, "events_quarantine")
    assert not writer.allows(DATASOURCES_APPEND, "events_quarantine")


def test_a_scope_for_everything_of_a_kind_covers_each_of_that_kind() -> None:
    reader = grant(Scope(type=PIPES_READ, resource="*"))
    assert reader.allows(PIPES_READ, "top")
    assert not reader.allows(DATASOURCES_READ, "events")
    assert not reader.allows(ADMIN)


def test_who_reads_the_workspace_reads_everything_and_changes_nothing() -> None:
    reader = grant(Scope(type=WORKSPACE_READ_ALL))
    assert reader.allows(PIPES_READ, "top")
    assert reader.allows(DATASOURCES_READ, "events_quarantine")
    assert not reader.allows(DATASOURCES_APPEND, "events")
    assert not reader.allows(TOKENS)


def test_who_may_create_data_sources_may_fill_them() -> None:
    assert grant(Scope(type=DATASOURCES_CREATE)).allows(DATASOURCES_APPEND, "events")
    one = grant(Scope(type=DATASOURCES_CREATE, resource="events"))
    assert one.allows(DATASOURCES_APPEND, "events")
    assert not one.allows(DATASOURCES_APPEND, "messages")
    assert not one.allows(DATASOURCES_READ, "events")


def test_who_sees_some_rows_only_does_not_see_the_quarantine() -> None:
    some = Scope(type=DATASOURCES_READ, resource="events", filter="tenant = 1")
    assert grant(some).allows(DATASOURCES_READ, "events")
    assert not grant(some).allows(DATASOURCES_READ, "events_quarantine")


def test_a_condition_on_everything_opens_nothing() -> None:
    odd = grant(Scope(type=DATASOURCES_READ, resource="*", filter="tenant = 1"))
    assert not odd.allows(DATASOURCES_READ, "events")
    assert not odd.allows(DATASOURCES_READ, "*")


@pytest.mark.parametrize(
    "wide",
    [
        Scope(type=DATASOURCES_READ, resource="*"),
        Scope(type=WORKSPACE_READ_ALL),
        Scope(type=ADMIN),
    ],
)
def test_who_reads_all_data_sources_has_no_row_filters(wide: Scope) -> None:
    some = Scope(type=DATASOURCES_READ, resource="events", filter="tenant = 1")
    assert grant(some, wide).row_filters() == {}
    assert grant(some).row_filters() == {"events": ("tenant = 1",)}


def test_parameters_fixed_for_all_pipes_are_fixed_for_each() -> None:
    holder = grant(
        Scope(type=PIPES_READ, resource="*", fixed_params={"tenant": 1, "city": "x"}),
        Scope(type=PIPES_READ, resource="top", fixed_params={"tenant": 2}),
    )
    assert holder.fixed_params("top") == {"tenant": 2, "city": "x"}
    assert holder.fixed_params("other") == {"tenant": 1, "city": "x"}


def test_a_missing_scope_is_named() -> None:
    with pytest.raises(PermissionDeniedError, match=r"DATASOURCES:APPEND:events\."):
        grant().require(DATASOURCES_APPEND, "events")


def test_fixed_parameters_are_those_of_the_pipe() -> None:
    holder = grant(
        Scope(type=PIPES_READ, resource="top", fixed_params={"tenant": "a"}),
        Scope(type=PIPES_READ, resource="other", fixed_params={"tenant": "b"}),
    )
    assert holder.fixed_params("top") == {"tenant": "a"}


def test_a_data_source_opened_without_a_condition_has_no_row_filter() -> None:
    holder = grant(
        Scope(type=DATASOURCES_READ, resource="events", filter="tenant = 1"),
        Scope(type=DATASOURCES_READ, resource="events", filter="tenant = 2"),
        Scope(type=DATASOURCES_READ, resource="messages", filter="tenant = 1"),
        Scope(type=DATASOURCES_READ, resource="messages"),
    )
    assert holder.row_filters() == {"events": ("tenant = 1", "tenant = 2")}


@pytest.mark.parametrize("token", [b"", b"p.wrong", "p.sécret-and-lông".encode(), b"\xff\xfe"])
def test_an_unknown_token_is_refused_whatever_its_bytes(token: bytes) -> None:
    with pytest.raises(AuthenticationError):
        AdminTokenStore("p.secret-and-long").grant(token)


def test_the_admin_token_may_have_other_letters_than_ascii() -> None:
    store: TokenStore = AdminTokenStore("geheimnis-für-große")
    assert store.grant("geheimnis-für-große".encode()).allows(ADMIN)


def test_the_store_does_not_show_its_token() -> None:
    assert "secret" not in repr(AdminTokenStore("p.secret-and-long"))


def test_a_new_token_is_kept_in_a_file_that_only_its_owner_can_read(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    token = load_or_create_admin_token(folder, None)
    assert token.startswith("p.")
    assert len(token) == 45
    assert stat.S_IMODE((folder / "admin_token").stat().st_mode) == 0o600
    assert load_or_create_admin_token(folder, None) == token
    assert [path.name for path in folder.iterdir()] == ["admin_token"]


def test_processes_that_start_at_once_agree_on_one_token(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = pool.map(lambda _: load_or_create_admin_token(tmp_path, None), range(16))
    assert len(set(found)) == 1


def test_a_file_that_others_could_read_is_closed_to_them(tmp_path: Path) -> None:
    path = tmp_path / "admin_token"
    path.write_text("p.0123456789abcdef\n")
    path.chmod(0o644)
    assert load_or_create_admin_token(tmp_path, None) == "p.0123456789abcdef"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_setting_is_used_as_it_is_and_not_written_down(tmp_path: Path) -> None:
    assert load_or_create_admin_token(tmp_path, "0123456789abcdef") == "0123456789abcdef"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("setting", ["short", "0123456789abcde", "0123456789 abcdef"])
def test_a_weak_setting_is_refused_without_showing_it(tmp_path: Path, setting: str) -> None:
    with pytest.raises(ConfigError, match="PIPEHOUSE_ADMIN_TOKEN") as caught:
        load_or_create_admin_token(tmp_path, setting)
    assert setting not in str(caught.value)


def test_a_damaged_file_is_refused_with_its_path(tmp_path: Path) -> None:
    (tmp_path / "admin_token").write_text("")
    with pytest.raises(ConfigError, match="admin_token"):
        load_or_create_admin_token(tmp_path, None)


def test_a_folder_that_cannot_be_made_is_a_configuration_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be kept"):
        load_or_create_admin_token(tmp_path / "file", None)
