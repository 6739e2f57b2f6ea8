"""Where an operator command runs: in the running server, or here against a ClickHouse server."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import msgspec
from msgspec import Struct

from deploy.client import ServerClient, find_token
from deploy.engine import open_server_engine
from deploy.operate.http import PATH
from deploy.operate.logs import KafkaFeeds
from deploy.operate.registry import Command
from deploy.operate.services import OperatorServices
from deploy.record import DeploymentRecord
from shared.clock import SystemClock
from shared.datafile.project import parse_project
from shared.errors import UnavailableError
from shared.settings import Settings

# Longest silence of the server: it may have billions of offsets to count.
TIMEOUT_S = 3_600.0


def run_command(settings: Settings, command: Command, arguments: Struct) -> Struct:
    """Run a command where the settings say, and return its result.

    Directly against the ClickHouse server that ``PIPEHOUSE_CLICKHOUSE_URL`` names; without one in
    the server at ``PIPEHOUSE_URL``, because an embedded engine has one owner.

    Raises:
        AppError: What the command raised; UnavailableError where nothing answers.
    """
    if settings.clickhouse_url is not None:
        return asyncio.run(_run_here(settings, command, arguments))
    return _run_there(settings, command, arguments)


def _run_there(settings: Settings, command: Command, arguments: Struct) -> Struct:
    server = ServerClient(settings.url, find_token(settings), timeout_s=TIMEOUT_S)
    try:
        body = server.read("POST", f"{PATH}/{command.name}", body=arguments)
    finally:
        server.close()
    try:
        result: Struct = msgspec.json.decode(body, type=command.result)
    except msgspec.MsgspecError as error:
        raise UnavailableError(
            f"What answers at {settings.url} is not this version of Pipehouse: {error}."
        ) from error
    return result


async def _run_here(settings: Settings, command: Command, arguments: Struct) -> Struct:
    async with open_services(settings) as services:
        return await command.run(services, arguments)


@asynccontextmanager
async def open_services(settings: Settings) -> AsyncIterator[OperatorServices]:
    """What commands work with when they run here.

    Raises:
        ConfigError: A setting is wrong.
        ClickHouseUnavailableError: The server cannot be reached.
    """
    clock = SystemClock()
    async with AsyncExitStack() as stack:
        clickhouse = await open_server_engine(settings, "operator commands")
        stack.push_async_callback(clickhouse.close)
        live = await DeploymentRecord(clickhouse).live()
        files = live.files if live is not None else ()
        connections = parse_project(files, os.environ).workspace.connections
        feeds = KafkaFeeds(settings, lambda: connections)
        stack.push_async_callback(feeds.close)
        yield OperatorServices(
            clickhouse=clickhouse,
            clock=clock,
            feed=feeds.feed,
            worker=f"{socket.gethostname()}-{os.getpid()}",
        )
