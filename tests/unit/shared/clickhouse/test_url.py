from __future__ import annotations

from pathlib import Path

import pytest

from shared.clickhouse.url import Host, parse_url
from shared.errors import ConfigError


def test_every_part_is_read_and_percent_encoding_undone() -> None:
    url = parse_url(
        "clickhouse://an%40na:p%3A%2Fw%20@h1:9001,[::1]:9002/my%2Ddb"
        "?http_port=8124,8125&compression=lz4&timeout_s=7.5&insert_connections=2&verify=0"
    )
    assert url.hosts == (Host("h1", 9001, 8124), Host("::1", 9002, 8125))
    assert (url.user, url.password, url.database) == ("an@na", "p:/w ", "my-db")
    assert (url.compression, url.timeout_s, url.insert_connections) == ("lz4", 7.5, 2)
    assert url.verify is False


def test_what_is_left_out_has_clickhouses_own_defaults() -> None:
    url = parse_url("clickhouse://localhost")
    assert url.hosts == (Host("localhost", 9000, 8123),)
    assert (url.user, url.password, url.database, url.secure) == ("default", "", "default", False)
    assert parse_url("clickhouse://h?secure=1").hosts == (Host("h", 9440, 8443),)
    assert parse_url("clickhouse://a,b?http_port=1").hosts == (
        Host("a", 9000, 1),
        Host("b", 9000, 1),
    )


def test_the_password_is_never_shown() -> None:
    url = parse_url("clickhouse://u:sesame@[::1]/d")
    assert str(url) == repr(url) == "clickhouse://u@[::1]:9000/d"


@pytest.mark.parametrize("password", ["ses@me/key", "ses/same", "ses?ame", "ses?a=me", "12?ame"])
def test_nothing_of_a_password_that_is_not_encoded_is_shown(password: str) -> None:
    with pytest.raises(ConfigError, match="percent-encoded") as caught:
        parse_url(f"clickhouse://u:{password}@h:9000/d?http_port=8123")
    assert "me" not in str(caught.value).replace("name", "")


def test_an_at_sign_within_a_password_is_no_end_of_it() -> None:
    assert parse_url("clickhouse://u:ses@me@h/d?ca=").password == "ses@me"


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("http://h:9000/d", "clickhouse://"),
        ("clickhouse://u:p@/d", "no host"),
        ("clickhouse://h:port/d", "'h:port'"),
        ("clickhouse://h:99999/d", "'99999' is not a port"),
        ("clickhouse://h/d?http_port=0", "'0' is not a port"),
        ("clickhouse://a,b/d?http_port=1,2,3", "2 hosts and 3 HTTP ports"),
        ("clickhouse://h/d?secure=maybe", "secure is 'maybe'"),
        ("clickhouse://h/d?tls=1", "no option 'tls'"),
        ("clickhouse://h/d?compression=gzip", "compression is 'gzip'"),
        ("clickhouse://h/d?timeout_s=soon", "timeout_s is 'soon'"),
        ("clickhouse://h/d?timeout_s=0", "not from 0.1 to 3600"),
        ("clickhouse://h/d?secure=1&ca=/no/such.pem", "'/no/such.pem'"),
    ],
)
def test_a_url_that_cannot_be_used_says_which_part_is_wrong(text: str, part: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_url(text)
    assert part in caught.value.message
    assert caught.value.exit_code == 4


def test_a_ca_file_is_kept_as_a_path(tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    file.write_text("")
    assert parse_url(f"clickhouse://h?secure=1&ca={file}").ca == file
