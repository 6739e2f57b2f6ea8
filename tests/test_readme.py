"""The README says what the code does: every setting, error code, metric, command and target."""

from __future__ import annotations

import importlib
import pkgutil
import re
from pathlib import Path

import click
import pytest

from deploy.cli import main as command
from shared.datafile.diagnostics import DIAGNOSTIC_CODES
from shared.observe.metrics import METRICS
from shared.settings import SETTINGS
from shared.web.errors import error_codes

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")


def import_everything() -> None:
    """Errors are known once their modules are."""
    for room in ("shared", "ingest", "query", "deploy"):
        package = importlib.import_module(room)
        for module in pkgutil.walk_packages(package.__path__, f"{room}."):
            if module.name not in ("deploy.preflight",):
                importlib.import_module(module.name)


def settings_table() -> list[str]:
    rows = ["| variable | default | meaning |", "|---|---|---|"]
    for s in SETTINGS:
        default = "" if s.default is None else f"`{s.default}`"
        rows.append(f"| `{s.variable}` | {default} | {s.help} Expected: {s.expected}. |")
    return rows


def errors_table() -> list[str]:
    import_everything()
    rows = ["| code | status | meaning |", "|---|---|---|"]
    # Other tests derive errors of their own in this process.
    own = [e for e in error_codes() if not e.code.endswith("_in_a_test")]
    rows += [f"| `{e.code}` | {e.status} | {e.meaning} |" for e in own]
    return rows


def metrics_table() -> list[str]:
    rows = ["| metric | kind | unit | labels | meaning |", "|---|---|---|---|---|"]
    for m in METRICS:
        labels = ", ".join(m.labels)
        rows.append(f"| `{m.name}` | {m.kind} | {m.unit} | {labels} | {m.help} |")
    return rows


def diagnostics_table() -> list[str]:
    rows = ["| code | meaning |", "|---|---|"]
    return rows + [f"| `{code}` | {meaning} |" for code, meaning in DIAGNOSTIC_CODES.items()]


TABLES = {
    "settings": settings_table,
    "errors": errors_table,
    "metrics": metrics_table,
    "diagnostics": diagnostics_table,
}


def section(name: str) -> list[str]:
    found = re.search(rf"<!-- {name} -->\n(.*?)\n<!-- /{name} -->", README, re.DOTALL)
    assert found, f"README.md has no section {name}"
    return found.group(1).strip().split("\n")


@pytest.mark.parametrize("name", TABLES)
def test_a_table_of_the_readme_is_the_one_of_the_code(name: str) -> None:
    assert section(name) == TABLES[name](), "run: python -m tests.test_readme"


def test_every_command_and_its_options_are_in_the_readme() -> None:
    assert isinstance(command, click.Group)
    for name, found in command.commands.items():
        assert f"`pipehouse {name}" in README, name
        for option in (p for p in found.params if isinstance(p, click.Option)):
            flag = max(option.opts, key=len)
            assert flag in README, f"{name} {flag}"


def test_every_make_target_is_in_the_readme() -> None:
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert targets
    for target in targets:
        assert f"make {target}" in README, target


def test_nothing_the_readme_points_to_is_missing() -> None:
    for path in re.findall(r"`((?:deploy|ingest|query|shared|tests)/[\w./-]+)`", README):
        assert (ROOT / path).exists(), path


def rewrite() -> None:
    text = README
    for name, table in TABLES.items():
        body = "\n".join(table())
        text = re.sub(
            rf"(<!-- {name} -->\n).*?(\n<!-- /{name} -->)",
            lambda found, body=body: found.group(1) + body + found.group(2),  # type: ignore[misc]
            text,
            flags=re.DOTALL,
        )
    (ROOT / "README.md").write_text(text, "utf-8")


if __name__ == "__main__":
    rewrite()
