"""One Kafka broker in KRaft mode: start it, stop it, kill it, start it again on the same data.

``python -m deploy.kafka.broker`` starts one, prints its address and runs until Ctrl-C.
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct

from deploy.kafka.artifacts import broker_artifacts, require_tool
from shared.errors import AppError, ConfigError

HOST = "127.0.0.1"
# Small and quick to start: it serves one machine.
_JVM = ("-Xms128m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto")
_LOGGING = (
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
    "-Dorg.slf4j.simpleLogger.log.kafka.server.KafkaRaftServer=info",
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
)
_STARTED = "Kafka Server started"
_MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
_LOGIN_MODULES = {
    "PLAIN": "org.apache.kafka.common.security.plain.PlainLoginModule",
    "SCRAM": "org.apache.kafka.common.security.scram.ScramLoginModule",
}


class Security(Struct, frozen=True, kw_only=True):
    """A second listener with SASL over TLS, and one with TLS alone.

    ``certificate`` is a PEM file with the private key and the chain; the user may log in with
    every mechanism.
    """

    certificate: Path
    user: str
    password: str


class Ports(Struct, frozen=True, kw_only=True):
    """Where the broker listens; they stay the same when it is started again.

    Who connects to ``behind_proxy`` is told to come back to the port of a proxy.
    """

    plain: int
    controller: int
    sasl_tls: int
    tls: int
    behind_proxy: int


def free_ports() -> Ports:
    """Ports that nobody uses at this moment."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(5)]
        for opened in sockets:
            opened.bind((HOST, 0))
        plain, controller, sasl_tls, tls, behind = (s.getsockname()[1] for s in sockets)
    return Ports(
        plain=plain, controller=controller, sasl_tls=sasl_tls, tls=tls, behind_proxy=behind
    )


def server_properties(
    folder: Path, ports: Ports, security: Security | None, proxy_port: int | None = None
) -> dict[str, str]:
    """The configuration of a single broker that is its own controller."""
    listeners = {"PLAINTEXT": ports.plain, "CONTROLLER": ports.controller}
    protocols = {"PLAINTEXT": "PLAINTEXT", "CONTROLLER": "PLAINTEXT"}
    properties = {
        "process.roles": "broker,controller",
        "node.id": "1",
        "controller.quorum.voters": f"1@{HOST}:{ports.controller}",
        "controller.listener.names": "CONTROLLER",
        "inter.broker.listener.name": "PLAINTEXT",
        "log.dirs": str(folder / "data"),
        # Topics appear when somebody asks for them, never by a mistyped name.
        "auto.create.topics.enable": "false",
        "offsets.topic.replication.factor": "1",
        "offsets.topic.num.partitions": "4",
        "transaction.state.log.replication.factor": "1",
        "transaction.state.log.min.isr": "1",
        "transaction.state.log.num.partitions": "2",
        "group.initial.rebalance.delay.ms": "0",
        "group.min.session.timeout.ms": "1000",
        "log.retention.check.interval.ms": "1000",
        # A killed broker is taken for alive so long, and may not come back before.
        "broker.heartbeat.interval.ms": "300",
        "broker.session.timeout.ms": "1500",
        "num.recovery.threads.per.data.dir": "1",
    }
    if security is not None:
        listeners |= {"SASL_SSL": ports.sasl_tls, "SSL": ports.tls}
        protocols |= {"SASL_SSL": "SASL_SSL", "SSL": "SSL"}
        properties |= _security_properties(security)
    if proxy_port is not None:
        listeners["PROXIED"] = ports.behind_proxy
        protocols["PROXIED"] = "PLAINTEXT"
        advertised = {**listeners, "PROXIED": proxy_port}
        del advertised["CONTROLLER"]
        properties["advertised.listeners"] = _addresses(advertised)
    properties["listeners"] = _addresses(listeners)
    properties["listener.security.protocol.map"] = ",".join(
        f"{name}:{protocol}" for name, protocol in protocols.items()
    )
    return properties


def _addresses(listeners: Mapping[str, int]) -> str:
    return ",".join(f"{name}://{HOST}:{port}" for name, port in listeners.items())


def _security_properties(security: Security) -> dict[str, str]:
    properties = {"sasl.enabled.mechanisms": ",".join(_MECHANISMS)}
    for mechanism in _MECHANISMS:
        plain = mechanism == "PLAIN"
        module = _LOGIN_MODULES["PLAIN" if plain else "SCRAM"]
        users = f' user_{security.user}="{security.password}"' if plain else ""
        key = f"listener.name.sasl_ssl.{mechanism.lower()}.sasl.jaas.config"
        properties[key] = f"{module} required{users};"
    for listener in ("sasl_ssl", "ssl"):
        properties[f"listener.name.{listener}.ssl.keystore.type"] = "PEM"
        properties[f"listener.name.{listener}.ssl.keystore.location"] = str(security.certificate)
    return properties


class Broker:
    """A broker process with a data folder of its own.

    Args:
        folder: Configuration, data and log file; made by ``open_broker``.
        ports: Where it listens.
        artifacts: The Java artifacts.
    """

    def __init__(self, folder: Path, ports: Ports, artifacts: Path) -> None:
        self.folder = folder
        self.ports = ports
        self._artifacts = artifacts
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def bootstrap_servers(self) -> str:
        """The address of the listener without security."""
        return f"{HOST}:{self.ports.plain}"

    @property
    def is_running(self) -> bool:
        """Whether the process is there."""
        return self._process is not None and self._process.poll() is None

    def start(self, timeout_s: float = 60.0) -> None:
        """Start the process and return once it serves.

        Raises:
            ConfigError: It ended, or does not serve in time; the message has its last words.
        """
        log_path = self.folder / "broker.log"
        start = log_path.stat().st_size if log_path.exists() else 0
        with log_path.open("ab") as output:
            self._process = subprocess.Popen(
                self._java("kafka.Kafka", str(self.folder / "server.properties")),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        end_s = time.monotonic() + timeout_s
        while _STARTED not in (text := self._log_from(start)):
            if not self.is_running or time.monotonic() > end_s:
                self.kill()
                raise ConfigError(f"The Kafka broker does not start: {_last_words(text)}")
            time.sleep(0.05)

    def stop(self, timeout_s: float = 30.0) -> None:
        """Stop it as an operator would, and wait for the end."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """End it at once, as a crash would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def suspend(self) -> None:
        """Stop it from running without ending it; ``resume`` lets it go on."""
        if self._process is not None:
            self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Undo ``suspend``."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)

    def format(self, security: Security | None, proxy_port: int | None = None) -> None:
        """Make the data folder of a new cluster.

        Raises:
            ConfigError: Kafka's own tool refuses.
        """
        properties = server_properties(self.folder, self.ports, security, proxy_port)
        path = self.folder / "server.properties"
        path.write_text("".join(f"{key}={value}\n" for key, value in properties.items()))
        cluster_id = urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        # Written as one word: an id may begin with a dash.
        command = ["format", f"--cluster-id={cluster_id}", "--config", str(path)]
        if security is not None:
            for mechanism in _MECHANISMS[1:]:
                login = f"name={security.user},password={security.password}"
                command += ["--add-scram", f"{mechanism}=[{login}]"]
        done = subprocess.run(
            self._java("kafka.tools.StorageTool", *command), capture_output=True, text=True
        )
        if done.returncode != 0:
            raise ConfigError(f"The Kafka data folder cannot be made: {_last_words(done.stderr)}")

    def _java(self, main: str, *arguments: str) -> list[str]:
        classes = str(self._artifacts / "*")
        return [require_tool("java"), *_JVM, *_LOGGING, "-cp", classes, main, *arguments]

    def _log_from(self, start: int) -> str:
        with (self.folder / "broker.log").open("rb") as log:
            log.seek(start)
            return log.read().decode(errors="replace")


def _last_words(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return next((x for x in lines if "rror" in x or "xception" in x), (lines or ["no output"])[-1])


def open_broker(
    folder: Path, security: Security | None = None, *, proxy_port: int | None = None
) -> Broker:
    """A broker with an empty data folder, not started yet.

    Args:
        folder: An existing, empty folder.
        security: Adds listeners with TLS.
        proxy_port: Adds a listener (``Ports.behind_proxy``) for a proxy that listens there.

    Raises:
        ConfigError: Java or Maven is missing, or the artifacts cannot be had.
    """
    broker = Broker(folder, free_ports(), broker_artifacts())
    broker.format(security, proxy_port)
    return broker


def main() -> int:
    """Run a broker until Ctrl-C; its data goes with it."""
    folder = Path(tempfile.mkdtemp(prefix="pipehouse-kafka-"))
    broker: Broker | None = None
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        broker = open_broker(folder)
        broker.start()
        sys.stdout.write(f"{broker.bootstrap_servers}\n")
        sys.stdout.flush()
        while broker.is_running:
            time.sleep(0.2)
        sys.stderr.write("The Kafka broker ended.\n")
        return 5
    except KeyboardInterrupt:
        return 0
    except AppError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    finally:
        if broker is not None:
            broker.stop()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
