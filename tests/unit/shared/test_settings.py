from pathlib import Path

import pytest

from shared.errors import ConfigError
from shared.settings import SETTINGS, Settings, load_settings


def test_a_flag_wins_over_the_environment_and_the_environment_over_the_default() -> None:
    environ = {"PIPEHOUSE_PORT": "8000", "PIPEHOUSE_HOST": "0.0.0.0"}
    settings = load_settings(environ, {"port": 9000, "host": None})
    assert (settings.port, settings.host) == (9000, "0.0.0.0")
    assert settings.url == "http://127.0.0.1:7181"


def test_an_empty_variable_counts_as_not_set() -> None:
    assert load_settings({"PIPEHOUSE_PORT": "", "PIPEHOUSE_ADMIN_TOKEN": ""}) == Settings()


def test_every_setting_can_be_given_as_text_of_its_default() -> None:
    environ = {s.variable: str(s.default) for s in SETTINGS if s.default is not None}
    assert load_settings(environ) == Settings()


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("PORT", "abc", "an integer at least 0 and at most 65535"),
        ("PORT", "65536", "at most 65535"),
        ("PORT", "-1", "at least 0"),
        ("PORT", "80.5", "an integer"),
        ("URL", "ftp://x", "a URL that starts with http:// or https://"),
        ("CLICKHOUSE_URL", "http://x", "a URL that starts with clickhouse://"),
        ("LOG_FORMAT", "XML", "one of json, console"),
        ("LOG_LEVEL", "loud", "one of debug, info, warning, error"),
        ("FSYNC", "maybe", "true or false"),
        ("BATCH_MAX_AGE_S", "nan", "a number more than 0"),
        ("QUERY_TIMEOUT_S", "inf", "a number more than 0"),
        ("QUERY_TIMEOUT_S", "0", "a number more than 0"),
        ("TOPIC_PREFIX", "a b", "letters, digits"),
    ],
)
def test_a_bad_value_is_named_with_its_variable_and_what_is_expected(
    name: str, text: str, expected: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load_settings({f"PIPEHOUSE_{name}": text})
    message = str(caught.value)
    assert message.startswith(f"PIPEHOUSE_{name} is '{text}', expected ")
    assert expected in message


def test_a_bad_flag_is_named_as_a_flag() -> None:
    with pytest.raises(ConfigError, match=r"^--max-body-bytes is 'big', expected an integer"):
        load_settings({}, {"max_body_bytes": "big"})


@pytest.mark.parametrize("text", ["true", "TRUE", "1"])
def test_switches_and_choices_ignore_case(text: str) -> None:
    settings = load_settings({"PIPEHOUSE_FSYNC": text, "PIPEHOUSE_LOG_LEVEL": "Debug"})
    assert (settings.fsync, settings.log_level) == (True, "debug")


def test_a_folder_may_start_at_the_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    assert load_settings({"PIPEHOUSE_DATA": "~/data"}).data == Path("/home/somebody/data")


def test_secrets_are_masked_in_repr_and_defaults_are_left_out() -> None:
    environ = {
        "PIPEHOUSE_ADMIN_TOKEN": "p.very-secret-token",
        "PIPEHOUSE_CLICKHOUSE_URL": "clickhouse://default:hidden@db:9000/x",
    }
    shown = repr(load_settings(environ))
    assert (
        shown == "Settings(admin_token='***', clickhouse_url='clickhouse://default:***@db:9000/x')"
    )


def test_a_secret_is_masked_in_an_error_too() -> None:
    with pytest.raises(ConfigError) as caught:
        load_settings({"PIPEHOUSE_CLICKHOUSE_URL": "http://default:hidden@db"})
    assert "hidden" not in str(caught.value)


def test_every_setting_has_help_and_says_what_is_expected() -> None:
    assert SETTINGS
    for setting in SETTINGS:
        assert setting.help.endswith("."), setting.name
        assert setting.expected, setting.name
        assert setting.variable == "PIPEHOUSE_" + setting.name.upper()
