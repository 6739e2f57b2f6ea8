"""What ``pipehouse dev`` prints: what is served, and lines to paste."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlencode

import msgspec

from deploy.generate import sample_rows
from deploy.release import Released, endpoints
from query.template.compile import compile_template
from query.template.describe import Parameter, parameters
from shared.model.resources import Datasource, Pipe
from shared.model.types import parse_type

# Enough that every value of a short list comes up.
CANDIDATES = 50


def welcome(
    released: Released, url: str, token_file: Path | None, token: str | None
) -> Iterator[str]:
    """The lines.

    Args:
        released: What is served.
        url: Where.
        token_file: Where the token is kept; None where it came by setting.
        token: The token, where it may be shown.
    """
    workspace = released.workspace
    yield f"Pipehouse serves {url}"
    yield f"  endpoints   {url}/docs"
    if token_file is not None:
        yield f"  token file  {token_file}"
    if token is not None:
        yield f"  token       {token}"
    yield ""
    if token_file is not None:
        yield f"  export TOKEN=$(cat {shlex.quote(str(token_file))})"
    else:
        yield '  export TOKEN="$PIPEHOUSE_ADMIN_TOKEN"'
    for name, datasource in sorted(workspace.datasources.items()):
        if not any(c.jsonpath for c in datasource.columns):
            continue
        pipes = [p for p in endpoints(workspace) if name in released.reads.get(p.name, ())]
        yield ""
        yield f"{name}: send an event, read it back"
        event = _event(datasource, pipes)
        yield (
            f"  curl '{url}/v0/events?name={name}&wait=true'"
            f' -H "Authorization: Bearer $TOKEN" -d {shlex.quote(event)}'
        )
        values = _texts(datasource, msgspec.json.decode(event))
        for pipe in pipes:
            query = urlencode(_arguments(pipe, values))
            question = f"?{query}" if query else ""
            yield (
                f"  curl '{url}/v0/pipes/{pipe.name}.json{question}'"
                f' -H "Authorization: Bearer $TOKEN"'
            )


def _event(datasource: Datasource, pipes: Sequence[Pipe]) -> str:
    """An event that the endpoints show: of some, the one with most values that their SQL names."""
    sql = "\n".join(node.sql for pipe in pipes for node in pipe.nodes)

    def named(event: bytes) -> int:
        texts = _texts(datasource, msgspec.json.decode(event)).values()
        return sum(f"'{text}'" in sql for text in texts if text)

    until = datetime.now(UTC)
    return max(sample_rows(datasource, CANDIDATES, seed=None, until=until), key=named).decode()


def _texts(datasource: Datasource, event: object) -> dict[str, str]:
    """The text columns of an event, as parameters of the same names would be given."""
    texts = {}
    for column in datasource.columns:
        is_text = parse_type(column.type).unwrapped.name == "String"
        key = (column.jsonpath or "").removeprefix("$.")
        if is_text and isinstance(event, dict) and isinstance(event.get(key), str):
            texts[column.name] = event[key]
    return texts


def _arguments(pipe: Pipe, values: Mapping[str, str]) -> list[tuple[str, str]]:
    """Ids of the event for the parameters that ask for one, so that the answer shows it."""
    found = []
    for parameter in _parameters(pipe):
        if parameter.name in values and parameter.name.endswith("_id"):
            found.append((parameter.name, values[parameter.name]))
        elif parameter.name == "user_id" and "sender_id" in values:
            found.append((parameter.name, values["sender_id"]))
    return found[:1]


def _parameters(pipe: Pipe) -> tuple[Parameter, ...]:
    return tuple(p for n in pipe.nodes for p in parameters(compile_template(n.sql)))
