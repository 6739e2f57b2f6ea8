"""What readers type, against a running server."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from deploy.cli import main
from tests.e2e.conftest import PROJECT_NAMES, PROJECTS, Server, run_command

Run = Callable[..., Result]


@pytest.fixture(scope="module")
def filled(module_path: Path) -> Iterator[Server]:
    folders = [PROJECTS / name for name in PROJECT_NAMES]
    server = Server(folders, module_path / "filled", "--fixtures")
    for path in PROJECTS.glob("*/fixtures/*.ndjson"):
        server.wait_for_rows(path.stem, len(path.read_bytes().splitlines()))
    yield server
    server.stop()


@pytest.fixture
def run(filled: Server) -> Run:
    def invoke(*arguments: str, **environ: str) -> Result:
        own = {"PIPEHOUSE_URL": filled.url, "PIPEHOUSE_DATA": str(filled.data)}
        return CliRunner().invoke(main, arguments, env={**own, **environ})

    return invoke


def rows(result: Result) -> list[list[str]]:
    """The cells of a printed table, its heads included."""
    assert result.exit_code == 0, result.stderr
    heads, rule, *lines = result.stdout.splitlines()
    starts = [at for at in range(len(rule)) if rule[at] != " " and (not at or rule[at - 1] == " ")]
    ends = [*starts[1:], None]
    return [
        [line[a:b].strip() for a, b in zip(starts, ends, strict=True)] for line in (heads, *lines)
    ]


def of_json(result: Result) -> Any:
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


# endpoints ----------------------------------------------------------------------------------------


def test_endpoints_are_listed_with_their_parameters(run: Run) -> None:
    found = {row[0]: row[1:] for row in rows(run("endpoint", "ls"))}
    assert found["total_events"] == ["", "How many events there are"]
    assert found["get_user_message_stats"][0] == "user_id*, start_date, end_date"
    named = {e["name"] for e in of_json(run("endpoint", "ls", "--json"))}
    assert named == set(found) - {"endpoint"}


def test_an_endpoint_is_shown_with_parameters_columns_and_a_line_to_paste(
    run: Run, filled: Server
) -> None:
    text = run("endpoint", "show", "get_user_message_stats").stdout
    assert f"'{filled.url}/v0/pipes/get_user_message_stats.json?user_id=user_361'" in text
    assert "About whom" in text
    shown = of_json(run("endpoint", "show", "get_popular_pages", "--json"))
    assert shown["columns"][-1] == {"name": "view_count", "type": "UInt64"}
    assert shown["parameters"][-1]["default"] == 10
    missing = run("endpoint", "show", "get_popular_page")
    assert missing.exit_code == 1
    assert "Did you mean 'get_popular_pages'?" in missing.stderr


def test_an_endpoint_answers_as_a_table_or_as_its_own_bytes(run: Run, filled: Server) -> None:
    asked = ("endpoint", "data", "get_popular_pages", "--param", "limit=2")
    table = rows(run(*asked))
    assert table[0] == ["page_url", "page_title", "view_count"]
    assert len(table) == 3
    query = "/v0/pipes/get_popular_pages.csv?limit=2"
    assert run(*asked, "--format", "csv").stdout == filled.client.get(query).text
    assert of_json(run(*asked, "--json"))["rows"] == 2


def test_parameters_that_nobody_reads_are_reported_with_the_near_miss(run: Run) -> None:
    found = run("endpoint", "data", "get_popular_pages", "--param", "limt=1", "--param", "x=a=b")
    assert found.exit_code == 0
    assert "no parameter 'limt', it is ignored. Did you mean 'limit'?" in found.stderr
    assert "no parameter 'x', it is ignored." in found.stderr


def test_what_a_request_would_do_is_explained(run: Run) -> None:
    asked = ("explain", "get_popular_pages", "--param", "limit=7")
    text = run(*asked).stdout
    assert "{p1:Int32}" in text
    assert "at most " in text
    bindings = of_json(run(*asked, "--json"))["bindings"]
    assert {name: str(value) for name, value in bindings.items()} == {"p1": "7"}


# SQL ----------------------------------------------------------------------------------------------


def test_sql_answers_as_a_table_or_in_a_format(run: Run) -> None:
    query = "SELECT 'a b' AS text, 1 AS n -- with a comment"
    assert rows(run("sql", query)) == [["text", "n"], ["a b", "1"]]
    assert run("sql", query, "--format", "csv").stdout == '"text","n"\n"a b",1\n'
    assert run("sql", query, "--format", "TSV").stdout == "a b\t1\n"
    assert of_json(run("sql", query, "--json"))["data"] == [{"text": "a b", "n": 1}]


def test_sql_may_name_its_own_format_and_have_parameters(run: Run) -> None:
    assert run("sql", "SELECT 1 AS n FORMAT CSV;").stdout == "1\n"
    found = run("sql", "% SELECT {{Int32(n)}} AS n", "--param", "n=5")
    assert rows(found) == [["n"], ["5"]]


def test_sql_is_read_from_standard_input(filled: Server) -> None:
    environ = {"PIPEHOUSE_URL": filled.url, "PIPEHOUSE_DATA": str(filled.data)}
    found = CliRunner().invoke(
        main, ["sql", "-", "--format", "tsv"], input="SELECT 1 AS n", env=environ
    )
    assert found.stdout == "n\n1\n"


# tokens -------------------------------------------------------------------------------------------


def test_a_token_is_created_used_refreshed_and_removed(run: Run) -> None:
    secret = run("token", "create", "board", "--scope", "PIPES:READ:total_events").stdout.strip()
    assert ["board", "PIPES:READ:total_events", "API"] in [
        row[:3] for row in rows(run("token", "ls"))
    ]
    named = of_json(run("endpoint", "ls", "--json", PIPEHOUSE_TOKEN=secret))
    assert [e["name"] for e in named] == ["total_events"]
    refused = run("endpoint", "data", "events_by_channel", PIPEHOUSE_TOKEN=secret)
    assert refused.exit_code == 1
    assert "PIPES:READ:events_by_channel" in refused.stderr
    fresh = run("token", "refresh", "board").stdout.strip()
    assert fresh not in ("", secret)
    assert run("endpoint", "ls", PIPEHOUSE_TOKEN=secret).exit_code == 1
    assert run("endpoint", "ls", PIPEHOUSE_TOKEN=fresh).exit_code == 0
    assert run("token", "rm", "board").exit_code == 0
    assert run("token", "rm", "board").exit_code == 1


def test_what_a_jwt_fixes_is_neither_shown_nor_asked_for(run: Run, filled: Server) -> None:
    scope = "PIPES:READ:get_user_message_stats"
    created = run(
        *("token", "create", "one", "--scope", scope),
        *("--expires-in", "600", "--param", "user_id=user_361"),
    )
    jwt = created.stdout.strip()
    shown = of_json(
        run("endpoint", "show", "get_user_message_stats", "--json", PIPEHOUSE_TOKEN=jwt)
    )
    assert [p["name"] for p in shown["parameters"]] == ["start_date", "end_date"]
    own = run("endpoint", "data", "get_user_message_stats", "--json", PIPEHOUSE_TOKEN=jwt)
    known = filled.pipe_rows("get_user_message_stats", user_id="user_361")
    assert of_json(own)["data"] == known


# mistakes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("sql", "SELECT * FROM marketing_event"), "Did you mean 'marketing_events'?"),
        (("endpoint", "data", "get_user_message_stats"), "'user_id' is required"),
        (("endpoint", "data", "total_event"), "Did you mean 'total_events'?"),
        (("explain", "total_event"), "total_event"),
        (("token", "refresh", "nobody"), "nobody"),
        (("token", "create", "x", "--scope", "PIPES:RED:a"), "Did you mean 'PIPES:READ'?"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_1(
    run: Run, arguments: tuple[str, ...], said: str
) -> None:
    found = run(*arguments)
    assert found.exit_code == 1
    assert said in found.stderr
    assert len(found.stderr.splitlines()) == 1


def test_a_parameter_without_a_value_is_a_usage_error(run: Run) -> None:
    found = run("endpoint", "data", "total_events", "--param", "limit")
    assert found.exit_code == 2
    assert "KEY=VALUE" in found.stderr


def test_a_server_that_does_not_run_is_one_line_and_exit_code_5() -> None:
    # A process of its own: this is what people see first.
    environ = {"PIPEHOUSE_URL": "http://127.0.0.1:1", "PIPEHOUSE_TOKEN": "t" * 16}
    found = run_command("endpoint", "ls", environ=environ)
    assert found.returncode == 5
    assert found.stderr.startswith("pipehouse: No server answers at http://127.0.0.1:1.")
    assert len(found.stderr.splitlines()) == 1


def test_no_token_is_one_line_that_says_where_to_set_one(run: Run, tmp_path: Path) -> None:
    found = run("endpoint", "ls", PIPEHOUSE_DATA=str(tmp_path))
    assert found.exit_code == 4
    assert "PIPEHOUSE_TOKEN" in found.stderr
