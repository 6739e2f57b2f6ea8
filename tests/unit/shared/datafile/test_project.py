from __future__ import annotations

import os
from pathlib import Path

import pytest

from shared.datafile.project import load_project, parse_project
from shared.errors import DatafileError

SCHEMA = "SCHEMA >\n    a String `json:$.a`\n"
TUTORIALS = Path(__file__).parents[3] / "golden" / "tutorials"


def write(folder: Path, **files: str) -> None:
    for name, text in files.items():
        stem, _, extension = name.rpartition("_")
        path = folder / f"{stem.replace('__', '/')}.{extension}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.mark.parametrize(
    ("tutorial", "pipes", "warnings"),
    [
        ("000", 3, {"template_without_percent"}),
        ("001", 3, set()),
        ("002", 3, {"template_without_percent"}),
        ("003", 1, set()),
        ("004", 3, {"flattened_line"}),
    ],
)
def test_the_tutorials_load_as_printed(tutorial: str, pipes: int, warnings: set[str]) -> None:
    project = load_project([TUTORIALS / tutorial], {})
    workspace = project.checked()
    assert len(workspace.pipes) == pipes
    assert all(pipe.endpoint for pipe in workspace.pipes.values())
    assert len(workspace.datasources) == 1
    assert all(c.jsonpath for d in workspace.datasources.values() for c in d.columns)
    assert {d.code for d in project.diagnostics} == warnings


def test_the_tutorials_know_which_of_their_pipes_are_templates() -> None:
    workspace = load_project([TUTORIALS / "000"], {}).workspace
    assert {name: pipe.nodes[0].is_template for name, pipe in workspace.pipes.items()} == {
        "user_activity_metrics": False,
        "user_event_timeline": True,
        "user_session_stats": True,
    }


def test_only_datafiles_of_the_right_depth_and_folders_are_read(tmp_path: Path) -> None:
    write(
        tmp_path,
        a_datasource=SCHEMA,
        one__b_datasource=SCHEMA,
        one__two__c_datasource=SCHEMA,
        one__two__three__d_datasource=SCHEMA,
        vendor__e_datasource=SCHEMA,
        **{".hidden__f_datasource": SCHEMA},
        g_txt="SCHEMA",
        one__b_pipe="SELECT 1",
    )
    (tmp_path / "h.pipe").mkdir()
    project = load_project([tmp_path], {})
    assert [path for path, _ in project.files] == [
        "a.datasource",
        "one/b.datasource",
        "one/b.pipe",
        "one/two/c.datasource",
    ]
    assert sorted(project.workspace.datasources) == ["a", "b", "c"]


def test_several_folders_become_one_workspace(tmp_path: Path) -> None:
    write(tmp_path / "x", a_datasource=SCHEMA, b_datasource=SCHEMA)
    write(tmp_path / "y", a_datasource=SCHEMA, p_pipe="SELECT 1")
    project = load_project([tmp_path / "x", tmp_path / "y"], {})
    assert sorted(project.workspace.datasources) == ["a", "b"]
    assert sorted(project.workspace.pipes) == ["p"]
    (found,) = project.diagnostics
    assert found.code == "duplicate_name"
    assert found.span.path.endswith("y/a.datasource")
    assert "x/a.datasource" in found.message


def test_secrets_come_from_the_environment_and_two_files_above_it(tmp_path: Path) -> None:
    names = ("ONE", "TWO", "THREE")
    calls = " ".join(f'{{{{ tb_secret("{name}") }}}}' for name in names)
    write(tmp_path, c_connection=f"TYPE kafka\nKAFKA_BOOTSTRAP_SERVERS {calls}\n")
    (tmp_path / ".env").write_text("TWO=file\nTHREE=file\n")
    (tmp_path / ".env.local").write_text("THREE=local\n")
    project = load_project([tmp_path], dict.fromkeys(names, "environ"))
    settings = dict(project.checked().connections["c"].settings)
    assert settings["KAFKA_BOOTSTRAP_SERVERS"] == "environ file local"


def test_a_broken_file_does_not_hide_the_others() -> None:
    project = parse_project(
        [
            ("a.datasource", "SCHEMA >\n    a Strin\n"),
            ("b.datasource", SCHEMA),
            ("p.pipe", "NODE n\nSQL >\n    SELECT 1\nTYPE materialized\nDATASOURCE a\n"),
            ("q.pipe", "NODE n\n"),
            ("readme.md", "nothing of ours"),
        ]
    )
    assert sorted(project.workspace.datasources) == ["b"]
    assert sorted(project.workspace.pipes) == ["p"]
    assert [(d.span.path, d.code) for d in project.diagnostics] == [
        ("a.datasource", "bad_type"),
        ("q.pipe", "empty_node"),
    ]
    with pytest.raises(DatafileError) as raised:
        project.checked()
    assert [e["filename"] for e in raised.value.errors] == ["a.datasource", "q.pipe"]


def test_a_target_in_another_file_is_looked_up_with_its_line() -> None:
    pipe = "NODE n\nSQL >\n    SELECT 1\nTYPE copy\n\n  TARGET_DATASOURCE  totals\n"
    project = parse_project([("total.datasource", SCHEMA), ("p.pipe", pipe)])
    (found,) = project.diagnostics
    assert (found.code, found.span.line, found.span.column) == ("unknown_datasource", 6, 22)
    assert found.hint == "Did you mean 'total'?"


def test_a_folder_that_is_not_there_is_a_diagnostic(tmp_path: Path) -> None:
    project = load_project([tmp_path / "nowhere"], {})
    assert [d.code for d in project.diagnostics] == ["unreadable_folder"]
    assert project.has_errors


@pytest.mark.parametrize("path", ["a/b/shop/datasources/c", "a/b/shop/more/c", "a/b/shop/c"])
def test_a_folder_above_a_project_is_told_which_to_give(tmp_path: Path, path: str) -> None:
    write(tmp_path, **{f"x/{path}_datasource": SCHEMA, ".git/a/b/c/d_pipe": ""})
    (problem,) = load_project([tmp_path], {}).diagnostics
    home = "shop/more" if "more" in path else "shop"
    expected = f"Give the folder of a project, such as {tmp_path}/x/a/b/{home}."
    assert (problem.code, problem.hint) == ("no_datafiles", expected)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_file_without_permission_is_a_diagnostic(tmp_path: Path) -> None:
    write(tmp_path, a_datasource=SCHEMA, b_datasource=SCHEMA)
    (tmp_path / "a.datasource").chmod(0)
    project = load_project([tmp_path], {})
    assert [(d.code, d.span.path) for d in project.diagnostics] == [
        ("unreadable_file", "a.datasource")
    ]
    assert sorted(project.workspace.datasources) == ["b"]


def test_a_link_that_leads_nowhere_is_a_diagnostic(tmp_path: Path) -> None:
    (tmp_path / "a.pipe").symlink_to(tmp_path / "gone.pipe")
    assert [d.code for d in load_project([tmp_path], {}).diagnostics] == ["unreadable_file"]


def test_a_name_is_taken_by_data_sources_and_pipes_alike() -> None:
    project = parse_project(
        [("a/x.datasource", SCHEMA), ("b/x.pipe", "SELECT 1"), ("x.connection", "TYPE bigquery")]
    )
    assert [(d.span.path, d.code) for d in project.diagnostics] == [("b/x.pipe", "duplicate_name")]
    assert project.workspace.pipes == {}


@pytest.mark.parametrize(
    "text", ['"\\', "{{", "{{ tb_secret('a',", "`", "f(", "a TYPE ", ". NODE a "]
)
def test_a_long_line_of_nonsense_is_read_in_linear_time(text: str) -> None:
    # A parser that looks through the rest of the line at every character would take minutes.
    lines = "".join(f"{command} {text * 20_000}\n" for command in ("TAGS", "DESCRIPTION"))
    assert parse_project([("a.datasource", f"SCHEMA >\n    a String\n{lines}")]).files


def test_two_data_sources_do_not_share_a_group_on_one_topic() -> None:
    kafka = "KAFKA_CONNECTION_NAME k\nKAFKA_TOPIC t\nKAFKA_GROUP_ID {}\n"
    connection = ("k.connection", "TYPE kafka\nKAFKA_BOOTSTRAP_SERVERS b:9092\n")
    files = [(f"{name}.datasource", SCHEMA + kafka.format("g")) for name in ("one", "two")]
    (found,) = parse_project([connection, *files]).diagnostics
    assert (found.severity, found.span.path) == ("error", "two.datasource")
    assert "for data source 'one' already" in found.message
    files[1] = ("two.datasource", SCHEMA + kafka.format("h"))
    assert parse_project([connection, *files]).diagnostics == ()
