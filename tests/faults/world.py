"""What rounds share, a broker behind a proxy and a ClickHouse server, and what each has of it."""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from msgspec import Struct

from deploy.kafka.broker import HOST, Broker, open_broker
from tests.chaos.site import ask
from tests.faults.bugs import VARIABLE
from tests.proxy import Proxy
from tests.standin.process import Standin

ROOT = Path(__file__).parents[2]
PROJECT = Path(__file__).parent / "project"
# What was lost is found out within seconds, not within minutes.
_SHORT = "&timeout_s=6&connect_timeout_s=2"
TABLE = "readings"


class World(Struct, frozen=True, kw_only=True):
    """Processes that live through many rounds; workers reach the broker through the proxy."""

    folder: Path
    broker: Broker
    proxy: Proxy
    standin: Standin


class Place(Struct, frozen=True, kw_only=True):
    """What one round has for itself: a database, a topic, a group, a folder for logs.

    ``bug`` is planted into its workers.
    """

    world: World
    name: str
    bug: str = ""

    @property
    def folder(self) -> Path:
        return self.world.folder / self.name

    @property
    def topic(self) -> str:
        return f"{self.name}.{TABLE}"

    @property
    def group(self) -> str:
        return f"{self.name}-group.{TABLE}"

    def environ(self, *, proxied: bool) -> Mapping[str, str]:
        """The settings of every process of the round."""
        world = self.world
        kept = {n: v for n, v in os.environ.items() if not n.startswith("PIPEHOUSE_")}
        broker = f"{HOST}:{world.proxy.port}" if proxied else world.broker.bootstrap_servers
        return {
            **kept,
            "PIPEHOUSE_ADMIN_TOKEN": "chaos-" + self.name + secrets.token_hex(16),
            "PIPEHOUSE_SECRET": "chaos-of-" + self.name + "-0123456789abcdef",
            "PIPEHOUSE_DATA": str(self.folder / "data"),
            "PIPEHOUSE_KAFKA_BOOTSTRAP_SERVERS": broker,
            "PIPEHOUSE_CLICKHOUSE_URL": world.standin.url(database=self.name) + _SHORT,
            "PIPEHOUSE_TOPIC_PREFIX": f"{self.name}.",
            "PIPEHOUSE_GROUP_PREFIX": f"{self.name}-group.",
            "PIPEHOUSE_BATCH_MAX_AGE_S": "0.1",
            "PIPEHOUSE_LOG_FORMAT": "json",
            "PIPEHOUSE_LOG_LEVEL": "info",
            VARIABLE: self.bug,
        }

    def ask(self, sql: str) -> list[list[str]]:
        """Rows of a query over the tables of the round."""
        rows = ask(self.world.standin, sql.replace("DB.", f"{self.name}."))
        return [line.split("\t") for line in rows.splitlines()]

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run one of the commands that operators type."""
        return subprocess.run(
            [sys.executable, "-m", "deploy.cli", *arguments],
            cwd=ROOT,
            env=dict(self.environ(proxied=False)),
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )


@contextlib.contextmanager
def open_world(folder: Path) -> Iterator[World]:
    """Start the processes; they end with the context.

    Raises:
        ConfigError: There is no Java for a broker.
    """
    with contextlib.ExitStack() as parts:
        kafka = folder / "kafka"
        kafka.mkdir(parents=True)
        proxy = parts.enter_context(Proxy(HOST, 0))
        broker = open_broker(kafka, proxy_port=proxy.port)
        proxy.target(HOST, broker.ports.behind_proxy)
        parts.callback(broker.kill)
        broker.start()
        standin = parts.enter_context(Standin(folder / "clickhouse"))
        yield World(folder=folder, broker=broker, proxy=proxy, standin=standin)


def open_place(world: World, name: str, bug: str = "") -> Place:
    """Make the database, deploy the project, and add what only ClickHouse refuses."""
    place = Place(world=world, name=name, bug=bug)
    place.folder.mkdir()
    ask(world.standin, f"CREATE DATABASE {name} ENGINE = Atomic")
    done = place.command("deploy", str(PROJECT))
    assert done.returncode == 0, done.stderr + done.stdout
    place.ask(f"ALTER TABLE DB.{TABLE} ADD CONSTRAINT positive CHECK value >= 0")
    return place
