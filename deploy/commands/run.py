"""The commands that run a process until it is told to stop."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import click

from deploy.commands.base import FOLDERS, complain, report, say
from deploy.dev import DevOptions, start_dev
from deploy.release import Released, endpoints
from deploy.roles import PORTS, Role, start_role
from deploy.welcome import welcome
from shared.errors import ConfigError
from shared.logs import configure_logging
from shared.settings import Settings, load_settings
from shared.supervise import Service, run_service

# On an address that others can reach.
SHORTEST_TOKEN = 20
EXAMPLE_TOKENS = ("example", "changeme", "change-me", "secret", "password", "admin", "token")


@click.command()
@FOLDERS
@click.option("--host", help="Address to listen on.")
@click.option("--port", type=int, help="Port to listen on; 0 picks a free one.")
@click.option("--data", type=click.Path(path_type=Path), help="Folder for data.")
@click.option("--fixtures", is_flag=True, help="Load fixtures/ into empty data sources.")
@click.option("--no-watch", is_flag=True, help="Do not reload when files change.")
def dev(folders: tuple[Path, ...], fixtures: bool, no_watch: bool, **flags: Any) -> None:
    """Run projects on this machine: engine, log, ingestion and endpoints in one process."""
    settings = load_settings(os.environ, flags)
    require_safe_address(settings)
    configure_logging(form=settings.log_format, level=settings.log_level)
    if settings.kafka_bootstrap_servers is not None:
        complain(
            "pipehouse dev keeps events in a log of its own in the data folder;"
            " PIPEHOUSE_KAFKA_BOOTSTRAP_SERVERS is for ingest, events and serve."
        )

    async def serve(service: Service) -> None:
        first = True

        def on_release(released: Released) -> None:
            nonlocal first
            report(released.diagnostics)
            if not first:
                count = len(endpoints(released.workspace))
                say(f"Reloaded: {len(released.plan.steps)} changes, {count} endpoints served.")
                if not released.is_clean:
                    say("What is broken goes on as it was before.")
            first = False

        options = DevOptions(
            folders=folders,
            environ=tuple(os.environ.items()),
            fixtures=fixtures,
            watch=not no_watch,
            on_release=on_release,
        )
        running = await start_dev(service, settings, options)
        is_own = settings.admin_token is None
        shown = running.token if is_own and sys.stdout.isatty() else None
        token_file = (settings.data / "admin_token").resolve() if is_own else None
        say("\n".join(welcome(running.released, running.url, token_file, shown)))
        sys.stdout.flush()

    sys.exit(run_service(serve, shutdown_timeout_s=settings.shutdown_timeout_s))


def require_safe_address(settings: Settings) -> None:
    """A token that others may know must not guard an address that others can reach.

    Raises:
        ConfigError: The token was generated, is short, or stands in an example.
    """
    if settings.host in ("127.0.0.1", "::1", "localhost"):
        return
    own = "Set PIPEHOUSE_ADMIN_TOKEN to a secret of your own, for instance openssl rand -hex 32."
    if settings.admin_token is None:
        raise ConfigError(
            f"Refusing to listen on {settings.host} with a generated token.", hint=own
        )
    token = settings.admin_token.lower()
    if len(token) < SHORTEST_TOKEN or any(word in token for word in EXAMPLE_TOKENS):
        raise ConfigError(
            f"Refusing to listen on {settings.host} with a token that can be guessed.", hint=own
        )


# Roles --------------------------------------------------------------------------------------------


def _role(role: Role, does: str) -> click.Command:
    """The command of one process of an installation."""

    @click.command(role, help=does)
    @click.option("--host", help="Address to listen on.")
    @click.option("--port", type=int, help=f"Port to listen on, {PORTS[role]} by default.")
    @click.option("--data", type=click.Path(path_type=Path), help="Folder for the token.")
    def run(**flags: Any) -> None:
        settings = load_settings(os.environ, flags, {"port": PORTS[role]})
        require_safe_address(settings)
        configure_logging(form=settings.log_format, level=settings.log_level)

        async def start(service: Service) -> None:
            started = await start_role(service, settings, role, os.environ)
            say(f"Pipehouse {role} serves {started.url}")
            sys.stdout.flush()

        sys.exit(run_service(start, shutdown_timeout_s=settings.shutdown_timeout_s))

    if role == "ingest":
        run = click.option(
            "--max-quarantine-ratio",
            type=float,
            help="Share of the last rows that may be bad before a pipeline stops.",
        )(run)
    return run


ROLES = [
    _role("ingest", "Read Kafka into ClickHouse; start as many as there are partitions."),
    _role("events", "Take events over HTTP into Kafka."),
    _role("query", "Answer endpoints and SQL from ClickHouse."),
    _role("serve", "Take events and answer queries on one port."),
]
