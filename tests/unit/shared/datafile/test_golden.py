"""Every folder of tests/golden/datafiles is a project; expected.txt is what is wrong with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared.datafile.diagnostics import DIAGNOSTIC_CODES
from shared.datafile.project import load_project

GOLDEN = Path(__file__).parents[3] / "golden" / "datafiles"
CASES = sorted(path.name for path in GOLDEN.iterdir())
ENVIRON = {"KAFKA_KEY": "k"}
# Needs a file that cannot be opened, see test_project.py; a thousand columns, see test_schema.py.
NOT_IN_GOLDEN = {"unreadable_file", "unreadable_folder", "too_many_columns"}


def rendered(case: str) -> str:
    project = load_project([GOLDEN / case], ENVIRON)
    return "\n".join(d.render() for d in project.diagnostics) + "\n"


@pytest.mark.parametrize("case", CASES)
def test_a_project_gives_exactly_the_expected_diagnostics(case: str) -> None:
    assert rendered(case) == (GOLDEN / case / "expected.txt").read_text()


def test_every_code_is_shown_by_a_golden_project() -> None:
    shown = {
        diagnostic.code
        for case in CASES
        for diagnostic in load_project([GOLDEN / case], ENVIRON).diagnostics
    }
    assert shown == DIAGNOSTIC_CODES.keys() - NOT_IN_GOLDEN
