"""The arrows between the rooms, and no cycles inside them."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MAY_IMPORT = {
    "shared": {"shared"},
    "ingest": {"shared", "ingest"},
    "query": {"shared", "query"},
    "deploy": {"shared", "ingest", "query", "deploy"},
}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def sources() -> dict[str, str]:
    return {
        module_name(path): path.read_text()
        for room in MAY_IMPORT
        for path in sorted((ROOT / room).rglob("*.py"))
    }


def imports(name: str, text: str) -> Iterator[str]:
    """Modules of ours that this text imports anywhere, also inside functions."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found: Iterable[str] = (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: relative import"
            found = [f"{node.module}.{a.name}" for a in node.names] + [node.module or ""]
        else:
            continue
        yield from (target for target in found if target.split(".")[0] in {*MAY_IMPORT, "tests"})


def wrong_arrows(modules: Mapping[str, str]) -> list[str]:
    return [
        f"{name} imports {target}"
        for name, text in modules.items()
        for target in imports(name, text)
        if target.split(".")[0] not in MAY_IMPORT[name.split(".")[0]]
    ]


def cycle(modules: Mapping[str, str]) -> list[str]:
    """One import cycle between modules, empty where there is none."""
    edges = {n: {t for t in imports(n, text) if t in modules} for n, text in modules.items()}
    done: set[str] = set()

    def visit(name: str, path: list[str]) -> list[str]:
        if name in path:
            return [*path[path.index(name) :], name]
        if name in done:
            return []
        for target in sorted(edges[name]):
            if found := visit(target, [*path, name]):
                return found
        done.add(name)
        return []

    return next((found for name in modules if (found := visit(name, []))), [])


def test_rooms_import_only_what_their_arrows_allow() -> None:
    assert wrong_arrows(sources()) == []


def test_there_is_no_import_cycle() -> None:
    assert cycle(sources()) == []


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("query.plan", "from ingest.batch import Batch"),
        ("query.plan", "def f():\n    import ingest.batch"),
        ("shared.clock", "import deploy.cli"),
        ("ingest.batch", "from tests import x"),
    ],
)
def test_a_planted_wrong_import_is_found(name: str, text: str) -> None:
    assert wrong_arrows({name: text})


def test_a_planted_cycle_is_found() -> None:
    modules = {"shared.a": "import shared.b", "shared.b": "from shared.a import x"}
    assert cycle(modules) == ["shared.a", "shared.b", "shared.a"]


def test_packages_re_export_nothing() -> None:
    for name, text in sources().items():
        if (ROOT / name.replace(".", "/") / "__init__.py").exists():
            assert not list(imports(name, text)), name
