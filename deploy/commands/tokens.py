"""``pipehouse token``: who may do what, asked of the running server."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import click

from deploy.commands.base import complain, say
from deploy.commands.output import AS_JSON, print_json, print_table
from deploy.commands.readers import PARAMS, running_server
from shared.auth.scopes import parse_scope, scope_text
from shared.auth.tokens import PIPES_READ, Scope

_ORIGINS = {"ADMIN": "admin", "C": "API", "DS": "data source", "P": "pipe"}


@click.group()
def token() -> None:
    """The tokens of the running server."""


@token.command("ls")
@AS_JSON
def list_tokens(as_json: bool) -> None:
    """List the tokens; secrets are shown with --json only."""
    with running_server() as server:
        found = server.call("GET", "/v0/tokens")["tokens"]
    if as_json:
        print_json(found)
        return
    rows = [
        [t["name"], ", ".join(map(_scope_text, t["scopes"])), _origin(t), t["id"]] for t in found
    ]
    print_table(["token", "scopes", "from", "id"], rows)


@token.command("create")
@click.argument("name")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    required=True,
    help="TYPE[:resource[:row filter]], for instance PIPES:READ:top_pages; may be given again.",
)
@click.option("--description", help="What it is for.")
@click.option(
    "--expires-in",
    "expires_in_s",
    type=click.IntRange(min=1),
    metavar="SECONDS",
    help="Make a JWT that ends then; it is not kept and cannot be taken back.",
)
@click.option("--rps", type=click.IntRange(min=1), help="Most requests a second.")
@PARAMS
@AS_JSON
def create_token(
    name: str,
    scopes: tuple[str, ...],
    description: str | None,
    expires_in_s: int | None,
    rps: int | None,
    params: tuple[tuple[str, str], ...],
    as_json: bool,
) -> None:
    """Create a token and print its secret; --param fixes parameters of a JWT's endpoints."""
    parsed = [parse_scope(text) for text in scopes]
    if expires_in_s is None and (params or rps):
        raise click.UsageError("--param and --rps are for tokens with --expires-in.")
    query = [("name", name)]
    body: dict[str, object] | None = None
    if expires_in_s is None:
        query += [("scope", scope_text(scope)) for scope in parsed]
        query += [("description", description)] if description else []
    else:
        # A moment of the server's clock; those of two machines differ by little.
        query.append(("expiration_time", str(int(time.time()) + expires_in_s)))
        body = {"scopes": [_scope_object(scope, dict(params)) for scope in parsed]}
        if rps is not None:
            body["limits"] = {"rps": rps}
    with running_server() as server:
        made = server.call("POST", "/v0/tokens", params=query, body=body)
    if as_json:
        print_json(made)
    else:
        say(made["token"])


@token.command("rm")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
def remove_tokens(names: tuple[str, ...]) -> None:
    """Remove tokens, by name or id; requests with them are refused from then on."""
    with running_server() as server:
        for name in names:
            server.call("DELETE", f"/v0/tokens/{quote(name, safe='')}")
            complain(f"Removed {name}.")


@token.command("refresh")
@click.argument("name")
@AS_JSON
def refresh_token(name: str, as_json: bool) -> None:
    """Give a token a new secret and print it; the old one is void."""
    with running_server() as server:
        made = server.call("POST", f"/v0/tokens/{quote(name, safe='')}/refresh")
    if as_json:
        print_json(made)
    else:
        say(made["token"])


def _scope_object(scope: Scope, fixed: Mapping[str, str]) -> dict[str, object]:
    parts = {"type": scope.type, "resource": scope.resource, "filter": scope.filter}
    found: dict[str, object] = {key: value for key, value in parts.items() if value is not None}
    if fixed and scope.type == PIPES_READ:
        found["fixed_params"] = dict(fixed)
    return found


def _scope_text(scope: Mapping[str, Any]) -> str:
    parts = (scope["type"], scope.get("resource"), scope.get("filter"))
    return ":".join(str(part) for part in parts if part)


def _origin(token: Mapping[str, Any]) -> str:
    origin = token.get("origin") or {}
    kind = str(origin.get("type", ""))
    resource = origin.get("resource_name")
    return " ".join(filter(None, (_ORIGINS.get(kind, kind), resource)))
