"""What readers type: SQL, endpoints and explanations, all asked of the running server."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import sys
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote, urlencode

import click
import msgspec

from deploy.client import Params, ServerClient, connect
from deploy.commands.base import complain, say
from deploy.commands.output import (
    AS_JSON,
    print_answer,
    print_json,
    print_table,
    print_text,
    require_no_terminal,
    write_bytes,
)
from query.formats import FORMATS
from shared.errors import NotFoundError
from shared.model.workspace import did_you_mean
from shared.settings import load_settings

_OWN_FORMAT = re.compile(r"\bFORMAT\s+\w+(\s+SETTINGS\b[^']*)?[\s;]*\Z", re.IGNORECASE)
_SQL_FORMATS = {**{f.ending: f.clickhouse for f in FORMATS.values()}, "tsv": "TSVWithNames"}
_BINARY = frozenset({"parquet"})
_PATH = re.compile(r"/v0/pipes/(?P<name>.+)\.\{format\}")


def _pairs(
    ctx: click.Context, option: click.Parameter, given: tuple[str, ...]
) -> tuple[tuple[str, str], ...]:
    """``KEY=VALUE`` texts as pairs; a value may hold equal signs of its own."""
    for text in given:
        if "=" not in text or text.startswith("="):
            raise click.BadParameter(f"'{text}' is not KEY=VALUE.", ctx, option)
    return tuple((text.partition("=")[0], text.partition("=")[2]) for text in given)


PARAMS = click.option(
    "--param",
    "params",
    metavar="KEY=VALUE",
    callback=_pairs,
    multiple=True,
    help="A parameter; may be given again.",
)


@contextlib.contextmanager
def running_server() -> Iterator[ServerClient]:
    """The server that the environment names."""
    client = connect(load_settings(os.environ))
    try:
        yield client
    finally:
        client.close()


@click.command()
@click.argument("query")
@click.option("--format", "format_", help="json, ndjson, csv, tsv, parquet or a ClickHouse format.")
@AS_JSON
@PARAMS
def sql(
    query: str, format_: str | None, as_json: bool, params: tuple[tuple[str, str], ...]
) -> None:
    """Run one SELECT on the running server; '-' reads it from standard input."""
    text = (sys.stdin.read() if query == "-" else query).strip().rstrip(";").rstrip()
    wanted = "json" if as_json else format_
    has_own = _OWN_FORMAT.search(text) is not None
    if wanted in _BINARY:
        require_no_terminal(wanted)
    if not has_own:
        # On a line of its own: the text may end with a comment.
        text += f"\nFORMAT {_SQL_FORMATS.get(wanted or 'json', wanted)}"
    body = {"q": text}
    with running_server() as server:
        if has_own or wanted:
            server.stream(write_bytes, "POST", "/v0/sql", params=params, body=body)
        else:
            print_answer(server.call("POST", "/v0/sql", params=params, body=body))


@click.group()
def endpoint() -> None:
    """The endpoints of the running server."""


@endpoint.command("ls")
@AS_JSON
def list_endpoints(as_json: bool) -> None:
    """List the endpoints that the token can read; a star marks required parameters."""
    with running_server() as server:
        found = _endpoints(server)
    if as_json:
        print_json(list(found.values()))
        return
    rows = [
        [name, ", ".join(_starred(p) for p in e["parameters"]), e["summary"]]
        for name, e in found.items()
    ]
    print_table(["endpoint", "parameters", "description"], rows)


@endpoint.command("show")
@click.argument("name")
@AS_JSON
def show_endpoint(name: str, as_json: bool) -> None:
    """Show what an endpoint takes and answers."""
    with running_server() as server:
        found = _endpoints(server)
        if name not in found:
            hint = did_you_mean(name, found) or "'pipehouse endpoint ls' lists them."
            raise NotFoundError(f"The token can read no endpoint '{name}'.", hint=hint)
        shown = found[name]
        if as_json:
            print_json(shown)
            return
        say(f"{name}: {' '.join(shown['description'].split()) or 'no description'}")
        say(f"  {_curl(server.url, shown)}")
    if shown["parameters"]:
        say()
        print_table(
            ["parameter", "type", "required", "default", "description"],
            [
                [p["name"], p["type"], "yes" if p["required"] else "", p["default"], p["text"]]
                for p in shown["parameters"]
            ],
        )
    if shown["columns"]:
        say()
        print_table(["column", "type"], [[c["name"], c["type"]] for c in shown["columns"]])


@endpoint.command("data")
@click.argument("name")
@PARAMS
@click.option("--format", "format_", type=click.Choice(list(FORMATS)), help="Print it as it is.")
@AS_JSON
def endpoint_data(
    name: str, params: tuple[tuple[str, str], ...], format_: str | None, as_json: bool
) -> None:
    """Ask an endpoint."""
    wanted = "json" if as_json else format_
    if wanted in _BINARY:
        require_no_terminal(wanted)
    path = f"/v0/pipes/{quote(name, safe='')}.{wanted or 'json'}"
    with running_server() as server:
        _report_unknown(server, name, params)
        if wanted:
            server.stream(write_bytes, "GET", path, params=params)
        else:
            print_answer(server.call("GET", path, params=params))


@click.command()
@click.argument("name")
@PARAMS
@AS_JSON
def explain(name: str, params: tuple[tuple[str, str], ...], as_json: bool) -> None:
    """Show what an endpoint runs: its SQL and bindings, the indexes used, the rows to be read."""
    with running_server() as server:
        _report_unknown(server, name, params)
        path = f"/v0/pipes/{quote(name, safe='')}/explain"
        found = server.call("GET", path, params=params)
    if as_json:
        print_json(found)
    else:
        _print_explanation(found)


def _print_explanation(found: Mapping[str, Any]) -> None:
    print_text(found["sql"])
    if found["bindings"]:
        say()
        print_table(["binding", "value"], list(found["bindings"].items()))
    if found["indexes"]:
        say()
        heads = ["table", "index", "keys", "condition", "parts", "granules"]
        print_table(heads, [_index(index) for index in found["indexes"]])
    if found["reads"]:
        say()
        heads = ["table", "parts", "marks", "rows"]
        rows = [[read[head] for head in heads] for read in found["reads"]]
        print_table(heads, rows, numeric=(1, 2, 3))
    say()
    say(f"Reads {', '.join(found['tables']) or 'no table'}: at most {found['rows']} rows.")
    if found["filtered"]:
        say("The token sees some of the rows only.")
    if found["cache_ttl_s"] is not None:
        say(f"An answer is kept for {found['cache_ttl_s']} s.")
    for name, value in found["settings"].items():
        say(f"With {name} = {value}.")


def _index(index: Mapping[str, Any]) -> list[str]:
    return [
        index["table"],
        " ".join(filter(None, (index["type"], index["name"]))),
        ", ".join(index["keys"]),
        index["condition"],
        f"{index['selected_parts']}/{index['parts']}",
        f"{index['selected_granules']}/{index['granules']}",
    ]


def _report_unknown(server: ServerClient, name: str, params: Params) -> None:
    """Say which parameters the endpoint will not look at."""
    if not params:
        return
    found = _endpoints(server).get(name)
    if found is None:
        # The server itself says why it cannot be read.
        return
    known = [p["name"] for p in found["parameters"]]
    for given in dict.fromkeys(key for key, _ in params):
        if given not in known and given not in ("q", "token"):
            hint = did_you_mean(given, known)
            complain(
                f"pipehouse: {name} has no parameter '{given}', it is ignored."
                + (f" {hint}" if hint else "")
            )


def _endpoints(server: ServerClient) -> dict[str, dict[str, Any]]:
    """What the token can read, by name, from the server's own OpenAPI document."""
    document = server.call("GET", "/v0/pipes/openapi.json")
    found = {}
    for path, item in document["paths"].items():
        if matched := _PATH.fullmatch(path):
            found[matched["name"]] = _endpoint(matched["name"], path, item["get"])
    return found


def _endpoint(name: str, path: str, get: Mapping[str, Any]) -> dict[str, Any]:
    answer = get["responses"]["200"]["content"]["application/json"]["schema"]
    columns = answer["properties"]["data"]["items"].get("properties", {})
    return {
        "name": name,
        "path": path,
        "summary": get["summary"],
        "description": get["description"],
        "parameters": [
            {
                "name": p["name"],
                "type": p["x-type"],
                "required": p["required"],
                "default": p["schema"].get("default", ""),
                "example": next(iter(p["schema"].get("examples", ())), None),
                "text": p.get("description", ""),
            }
            for p in get["parameters"]
        ],
        "columns": [{"name": n, "type": s["x-clickhouse-type"]} for n, s in columns.items()],
    }


def _starred(parameter: Mapping[str, Any]) -> str:
    return str(parameter["name"]) + ("*" if parameter["required"] else "")


def _curl(url: str, shown: Mapping[str, Any]) -> str:
    query = urlencode([(p["name"], _sample(p)) for p in shown["parameters"] if p["required"]])
    address = url + shown["path"].replace("{format}", "json") + (f"?{query}" if query else "")
    return f'curl -H "Authorization: Bearer $TOKEN" {shlex.quote(address)}'


def _sample(parameter: Mapping[str, Any]) -> str:
    example = parameter["example"]
    if isinstance(example, str):
        return example
    return "" if example is None else msgspec.json.encode(example).decode().strip("[]")
