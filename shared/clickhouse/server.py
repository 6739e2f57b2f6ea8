"""Opening a server: everything that can be wrong with it is found out now, in one clear line."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Iterable

from clickhouse_driver import errors

from shared.clickhouse.boot import Boots
from shared.clickhouse.contract import SettingValue
from shared.clickhouse.failures import parse_failure
from shared.clickhouse.hosts import Hosts
from shared.clickhouse.http import HttpPool
from shared.clickhouse.insert import KNOWN_INSERT_SETTINGS
from shared.clickhouse.native import (
    ConnectError,
    NativeClient,
    NativePool,
    failure_text,
    speaks_tls,
)
from shared.clickhouse.profile import ENGINE_PROFILE
from shared.clickhouse.reads import HttpFace, ServerRefusalError
from shared.clickhouse.replicated import DATABASE_ENGINE
from shared.clickhouse.serverengine import READ_OPTIONS, ServerClickHouse
from shared.clickhouse.url import Host, ServerUrl, parse_url
from shared.errors import AppError, ClickHouseUnavailableError, ConfigError

OLDEST = (25, 8)
_MAX_WAITING = 64
_LOGIN_CODES = frozenset({192, 193, 516})
_UNKNOWN_DATABASE, _READONLY = 81, 164
_PORTS_HINT = (
    "The port behind the host is that of the native protocol, 9000 by default; that of HTTP is"
    " named by http_port."
)
_SETTINGS_SQL = "SELECT name FROM system.settings"
_DATABASE_SQL = "SELECT engine FROM system.databases WHERE name = currentDatabase()"
_READONLY_SQL = "SELECT toString(getSetting('readonly'))"


async def open_server(url: str | ServerUrl, *, writes: bool = True) -> ServerClickHouse:
    """Connect to a server and make sure that it can be worked with.

    Args:
        url: See ``shared/clickhouse/url.py``. Of several hosts one has to answer now.
        writes: Whether inserts or DDL will be asked for; a read-only user is refused then.

    Raises:
        ConfigError: Bad URL, unknown user or wrong password, missing database, TLS where there is
            none or the other way round, a certificate that is not trusted, a server that is too
            old, or a user who may not do what is needed.
        ClickHouseUnavailableError: No host can be reached.
    """
    url = parse_url(url) if isinstance(url, str) else url
    hosts, boots = Hosts(url.hosts), Boots()
    tls = _tls_context(url)
    client = NativeClient(url, hosts, boots)
    try:
        unknown, replicates = await asyncio.to_thread(_check_native, client, url, writes)
    finally:
        await asyncio.to_thread(client.disconnect)
    http = HttpPool(
        size=url.http_connections,
        connect_timeout_s=url.connect_timeout_s,
        timeout_s=url.timeout_s,
        tls=tls,
    )
    common = {n: v for n, v in ENGINE_PROFILE.items() if n not in unknown}
    face = HttpFace(url, hosts, http, common)
    try:
        await _check_http(url, face, hosts)
    except BaseException:
        await face.close()
        raise
    pool = NativePool(url, hosts, boots, max_waiting=_MAX_WAITING)
    return ServerClickHouse(
        url,
        face=face,
        pool=pool,
        boots=boots,
        unknown_settings=unknown,
        replicates=replicates,
    )


def _tls_context(url: ServerUrl) -> ssl.SSLContext | None:
    if not url.secure:
        return None
    try:
        context = ssl.create_default_context(cafile=str(url.ca) if url.ca else None)
    except ssl.SSLError:
        raise ConfigError(f"The file '{url.ca}' holds no certificate that can be read.") from None
    if not url.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


# The native side ----------------------------------------------------------------------------------


def _check_native(
    client: NativeClient, url: ServerUrl, writes: bool
) -> tuple[frozenset[str], bool]:
    """Connect, look at version, user and database.

    Returns:
        Our settings that the server does not know, and whether other hosts keep the database too.
    """
    try:
        client.ready()
        info = client.connection.server_info
        _require_version(info.version_major, info.version_minor)
        known = {name for (name,) in client.execute(_SETTINGS_SQL)}
        ((readonly,),) = client.execute(_READONLY_SQL)
        databases = client.execute(_DATABASE_SQL)
    except ConnectError as error:
        raise _unreachable(url, error.host, error.host.native_port, error.cause) from None
    except errors.ServerException as error:
        raise _refused(url, failure_text(error)) from None
    except (errors.Error, OSError, EOFError) as error:
        raise ClickHouseUnavailableError(
            f"ClickHouse at {url} breaks off: {str(error) or type(error).__name__}."
        ) from None
    _require_rights(url, int(readonly), writes)
    replicates = databases == [(DATABASE_ENGINE,)]
    if len(url.hosts) > 1 and not replicates:
        raise ConfigError(
            f"Several hosts are named, but database '{url.database}' is not one that they share:"
            " each would have rows and tokens of its own.",
            hint="Make it with ENGINE = Replicated on every host, or name one host.",
        )
    ours: Iterable[str] = {**ENGINE_PROFILE, **KNOWN_INSERT_SETTINGS, **READ_OPTIONS}
    return frozenset(name for name in ours if name not in known), replicates


def _require_version(major: int, minor: int) -> None:
    if (major, minor) < OLDEST:
        raise ConfigError(
            f"The ClickHouse server is version {major}.{minor};"
            f" {OLDEST[0]}.{OLDEST[1]} or newer is needed."
        )


def _require_rights(url: ServerUrl, readonly: int, writes: bool) -> None:
    if readonly and writes:
        raise ConfigError(
            f"The ClickHouse user '{url.user}' is read-only, but rows or tables will be written.",
            hint="Name a user in PIPEHOUSE_CLICKHOUSE_URL who may write.",
        )
    if readonly == 1:
        raise _no_settings(url)


def _no_settings(url: ServerUrl) -> ConfigError:
    return ConfigError(
        f"The ClickHouse user '{url.user}' has readonly = 1 and cannot choose settings.",
        hint="Give the user readonly = 2.",
    )


def _unreachable(url: ServerUrl, host: Host, port: int, cause: BaseException) -> AppError:
    place = host.at(port)
    if isinstance(cause, socket.gaierror):
        return ClickHouseUnavailableError(f"The host '{host.name}' of ClickHouse is not known.")
    if isinstance(cause, ssl.SSLCertVerificationError):
        return ConfigError(
            f"The certificate of ClickHouse at {place} is not trusted: {cause.verify_message}.",
            hint="Name the file with its authority: ca=/path/to/ca.pem.",
        )
    if isinstance(cause, ssl.SSLError):
        return ConfigError(
            f"ClickHouse at {place} does not speak TLS, but secure=1 asks for it.",
            hint="Name its TLS port, or set secure=0.",
        )
    if isinstance(cause, ConnectionRefusedError):
        return ClickHouseUnavailableError(f"Nothing listens at {place}, where ClickHouse should.")
    if isinstance(cause, TimeoutError):
        return ClickHouseUnavailableError(
            f"ClickHouse at {place} does not answer within {url.connect_timeout_s:g} s."
        )
    if not url.secure and speaks_tls(host, port, url.connect_timeout_s):
        return ConfigError(
            f"ClickHouse at {place} speaks TLS, but secure=0.",
            hint="Set secure=1, or name its plain port.",
        )
    reason = str(cause) or "the connection was closed"
    if isinstance(cause, errors.UnexpectedPacketFromServerError):
        reason = "it does not speak the native protocol"
    return ClickHouseUnavailableError(
        f"ClickHouse at {place} cannot be used: {reason}.",
        hint=_PORTS_HINT if port == host.native_port else None,
    )


def _refused(url: ServerUrl, text: str) -> AppError:
    failure = parse_failure(text)
    if failure.code in _LOGIN_CODES:
        return ConfigError(
            f"ClickHouse refuses the user '{url.user}': unknown user or wrong password.",
            hint="Check PIPEHOUSE_CLICKHOUSE_URL; special characters are percent-encoded there.",
        )
    if failure.code == _READONLY:
        return _no_settings(url)
    if failure.code == _UNKNOWN_DATABASE:
        return ConfigError(
            f"The database '{url.database}' does not exist on the ClickHouse server.",
            hint=f"Create it: CREATE DATABASE {url.database}.",
        )
    return ConfigError(f"ClickHouse refuses us: {failure.message}")


# The HTTP side ------------------------------------------------------------------------------------


async def _check_http(url: ServerUrl, face: HttpFace, hosts: Hosts) -> None:
    host = hosts.in_order()[0]
    options: dict[str, SettingValue] = {"readonly": 2}
    try:
        await face.whole(face.request("SELECT 1", options, host=host), tells=False)
    except ServerRefusalError as error:
        failure = parse_failure(str(error))
        if failure.code:
            raise _refused(url, str(error)) from None
        raise ConfigError(
            f"Not ClickHouse's HTTP interface answers at {host.at(host.http_port)}:"
            f" {failure.message}",
            hint="Name its port: http_port=8123.",
        ) from None
    except ClickHouseUnavailableError as error:
        cause = await _http_cause(url, host)
        if cause is None:
            raise ClickHouseUnavailableError(
                f"The HTTP interface of ClickHouse at {host.at(host.http_port)} does not"
                f" answer as one: {error.message}",
                hint="Name its port: http_port=8123.",
            ) from None
        problem = await asyncio.to_thread(_unreachable, url, host, host.http_port, cause)
        raise type(problem)(
            problem.message, hint=problem.hint or "Name the HTTP port: http_port=8123."
        ) from None


async def _http_cause(url: ServerUrl, host: Host) -> BaseException | None:
    """Why no connection to the HTTP port can be made, or none that says anything."""
    try:
        async with asyncio.timeout(url.connect_timeout_s):
            _, writer = await asyncio.open_connection(
                host.name, host.http_port, ssl=_tls_context(url)
            )
    except OSError as error:
        return error
    writer.close()
    if not url.secure and await asyncio.to_thread(
        speaks_tls, host, host.http_port, url.connect_timeout_s
    ):
        return ConnectionResetError("closed")
    return None
