from __future__ import annotations

import re
from pathlib import Path

from deploy.plan import Plan
from deploy.release import Released
from deploy.welcome import welcome
from shared.datafile.project import load_project
from shared.model.workspace import Workspace

DATASOURCE = """SCHEMA >
    `event_type` String `json:$.event_type`,
    `user_id` String `json:$.user_id`

ENGINE "MergeTree"
"""
PIPE = """NODE purchases_node
SQL >
    SELECT count() FROM events WHERE event_type = 'purchase'

TYPE endpoint
"""


def lines(folder: Path, token: str | None = None) -> list[str]:
    (folder / "events.datasource").write_text(DATASOURCE)
    (folder / "purchases.pipe").write_text(PIPE)
    workspace = load_project([folder], {}).workspace
    released = Released(workspace=workspace, plan=Plan(), reads={"purchases": ("events",)})
    return list(welcome(released, "http://127.0.0.1:7181", Path("/data/admin_token"), token))


def test_the_event_is_one_that_the_endpoints_show(tmp_path: Path) -> None:
    for _ in range(5):
        posted = next(line for line in lines(tmp_path) if "/v0/events" in line)
        assert '"event_type":"purchase"' in posted


def test_the_token_is_printed_only_where_it_is_given(tmp_path: Path) -> None:
    assert not any(re.search(r"token +secret", line) for line in lines(tmp_path))
    assert any(re.search(r"token +secret", line) for line in lines(tmp_path, "secret"))


def test_a_token_that_came_by_setting_is_taken_from_there() -> None:
    released = Released(workspace=Workspace(), plan=Plan())
    printed = list(welcome(released, "http://127.0.0.1:7181", None, None))
    assert '  export TOKEN="$PIPEHOUSE_ADMIN_TOKEN"' in printed
    assert not any("cat " in line for line in printed)
