"""Rendering templates, against Jinja2's sandbox rendering equivalent ones in the same run.

An equivalent has the same text and conditions and writes escaped literals, through filters, which
are the cheapest call that Jinja2 has. Ours reads and checks each value as its type and binds it.
Before anything is measured both texts are compared, our bindings written out as literals. Rounds
alternate, so that a change of the machine's pace hits both sides.
"""

from __future__ import annotations

import ast
import re
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from jinja2 import StrictUndefined
from jinja2.sandbox import SandboxedEnvironment
from msgspec import Struct

from query.template.compile import Template, compile_template
from query.template.describe import parameters
from query.template.render import render
from query.template.values import SCALARS
from shared.clickhouse.sql import literal, quote_identifier
from shared.datafile.project import load_project
from shared.model.resources import Pipe

PROJECTS = Path("deploy/projects")
LARGER = Path(__file__).parent / "pipes"
ROUNDS = 15
SECONDS_A_ROUND = 0.02

_TAG = re.compile(r"\{\{(.*?)\}\}|\{%(.*?)%\}", re.DOTALL)
_ESCAPED = str.maketrans({"\\": "\\\\", "'": "\\'"})
_INTEGERS = re.compile(r"U?Int\d*$")


class Case(Struct, frozen=True, kw_only=True):
    """One pipe with one set of values; the templates of its nodes on both sides."""

    name: str
    arguments: Mapping[str, str]
    ours: tuple[Template, ...]
    theirs: tuple[Any, ...]


def _environment() -> SandboxedEnvironment:
    def text(value: object) -> str:
        return f"'{str(value).translate(_ESCAPED)}'"

    def whole(value: object) -> str:
        return str(int(str(value)))

    def fraction(value: object) -> str:
        return str(float(str(value)))

    def items(value: str, kind: str) -> str:
        write = whole if _INTEGERS.match(kind) else text
        return "[" + ",".join(map(write, value.split(","))) + "]"

    environment = SandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True)
    environment.filters.update(
        {name: whole for name in SCALARS if _INTEGERS.match(name)}
        | dict.fromkeys(("String", "Date", "DateTime", "DateTime64"), text)
        | {"Float32": fraction, "Float64": fraction, "Array": items, "column": quote_identifier}
    )
    return environment


def equivalent(sql: str) -> str:
    """The template in Jinja2's language."""
    ends: list[str] = []

    def tag(found: re.Match[str]) -> str:
        if found[1] is not None:
            return "{{ " + _expression(found[1], write=True) + " }}"
        word, _, rest = found[2].strip().partition(" ")
        if word == "end":
            return "{% " + ends.pop() + " %}"
        if word in ("if", "for"):
            ends.append(f"end{word}")
        if word == "set":
            name, _, value = rest.partition("=")
            return "{% set " + name + "= " + _expression(value, write=False) + " %}"
        return "{% " + f"{word} {_condition(rest)}".strip() + " %}"

    return _TAG.sub(tag, sql)


def _condition(text: str) -> str:
    # A name without value is nothing in ours; Jinja2 would refuse it.
    text = re.sub(r"\b(\w+) ==", r"\1|default('') ==", text)
    return re.sub(r"defined\((\w+)\)", r"\1 is defined", text)


def _expression(text: str, *, write: bool) -> str:
    call = ast.parse(text.strip(), mode="eval").body
    if isinstance(call, ast.Name):
        return f"{call.id}|Int32" if write else call.id
    assert isinstance(call, ast.Call) and isinstance(call.func, ast.Name)
    name, kind = ast.unparse(call.args[0]), call.func.id
    rest = [ast.unparse(arg) for arg in call.args[1:]]
    if kind == "Array":
        return f"{name}|Array({rest[0]})"
    shown = f"{name}|default({rest[0]})" if rest else name
    return f"{shown}|{kind}" if write else shown


def cases() -> list[Case]:
    """Every pipe with a template, once with all values and once with none that can be left out."""
    environment = _environment()
    found = []
    for pipe in _pipes():
        nodes = [node for node in pipe.nodes if node.is_template]
        ours = tuple(compile_template(node.sql) for node in nodes)
        theirs = tuple(environment.from_string(equivalent(node.sql)) for node in nodes)
        said = parameters(*ours)
        given = {p.name: _value(p.name, p.type) for p in said}
        needed = {p.name: given[p.name] for p in said if p.required}
        for label, arguments in (("all values", given), ("few values", needed)):
            if ours:
                name = f"{pipe.name}, {label}"
                found.append(Case(name=name, arguments=arguments, ours=ours, theirs=theirs))
    return found


def _pipes() -> Iterable[Pipe]:
    folders = [*sorted(PROJECTS.iterdir()), LARGER]
    for folder in folders:
        yield from load_project([folder], {}).workspace.pipes.values()


def _value(name: str, kind: str) -> str:
    if name in ("order_by", "column"):
        return "day"
    if kind.startswith("Array"):
        return "1,2,3"
    known = {"Date": "2025-05-01", "DateTime": "2025-05-01 00:00:00"}
    return known.get(kind) or (SCALARS[kind].example if kind in SCALARS else "done")


def render_ours(case: Case) -> list[tuple[str, Mapping[str, Any]]]:
    """The nodes as one request renders them: bindings are numbered through."""
    found: list[tuple[str, Mapping[str, Any]]] = []
    number = 1
    for template in case.ours:
        rendered = render(template, case.arguments, first_binding=number)
        number = rendered.next_binding
        found.append((rendered.sql, rendered.bindings))
    return found


def render_theirs(case: Case) -> list[str]:
    """The same nodes by Jinja2."""
    return [template.render(case.arguments) for template in case.theirs]


def check_equal(case: Case) -> None:
    """Both sides say the same, once our bindings are written out."""
    for (sql, bindings), other in zip(render_ours(case), render_theirs(case), strict=True):
        for name, value in bindings.items():
            sql = re.sub(rf"\{{{name}:[^}}]*\}}", _written(value).replace("\\", r"\\"), sql)
        if " ".join(sql.split()) != " ".join(other.split()):
            raise AssertionError(f"{case.name} differs:\n{sql}\n---\n{other}")


def _written(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ",".join(map(_written, value)) + "]"
    return literal(value) if isinstance(value, str) else str(value)


def measure(case: Case) -> tuple[float, float]:
    """Microseconds of CPU of one render, ours and theirs, medians over alternating rounds."""
    sides: tuple[Callable[[Case], object], ...] = (render_ours, render_theirs)
    calls = [max(3, int(SECONDS_A_ROUND / _seconds(side, case, 20))) for side in sides]
    rounds = [
        [_seconds(side, case, count) for side, count in zip(sides, calls, strict=True)]
        for _ in range(ROUNDS)
    ]
    ours, theirs = (statistics.median(side) * 1e6 for side in zip(*rounds, strict=True))
    return ours, theirs


def _seconds(side: Callable[[Case], object], case: Case, calls: int) -> float:
    started_s = time.process_time()
    for _ in range(calls):
        side(case)
    return (time.process_time() - started_s) / calls


def main() -> None:
    print(
        "Rendering, µs of CPU a pipe; ours checks and binds values, Jinja2's sandbox escapes them"
    )
    print(f"{'pipe':<46}{'ours':>8}{'jinja2':>8}{'ratio':>7}")
    totals = [0.0, 0.0]
    for case in cases():
        check_equal(case)
        ours, theirs = measure(case)
        totals[0] += ours
        totals[1] += theirs
        print(f"{case.name:<46}{ours:>8.1f}{theirs:>8.1f}{ours / theirs:>7.2f}")
    print(f"{'together':<46}{totals[0]:>8.1f}{totals[1]:>8.1f}{totals[0] / totals[1]:>7.2f}")


if __name__ == "__main__":
    main()
