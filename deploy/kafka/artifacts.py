"""The broker's Java artifacts: resolved once with Maven, checked against a list at every start.

They are kept in the user's cache folder. Renew the list after a change of ``pom.xml`` with
``python -m deploy.kafka.artifacts``.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

from shared.errors import ConfigError

_HERE = Path(__file__).parent
LIST = _HERE / "artifacts.sha256"
_RESOLVE_TIMEOUT_S = 900.0
_COPY = "org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy-dependencies"


def cache_folder(environ: Mapping[str, str] = os.environ) -> Path:
    """Where what was downloaded is kept between runs."""
    base = environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "pipehouse"


def read_list(text: str) -> dict[str, str]:
    """The SHA-256 of each artifact by file name."""
    return {name: digest for digest, name in (line.split() for line in text.splitlines())}


def find_mistakes(folder: Path, wanted: Mapping[str, str]) -> list[str]:
    """What is missing, differs or does not belong there; empty when the folder is right."""
    found = {path.name: path for path in folder.glob("*.jar")}
    mistakes = [f"{name} is missing" for name in sorted(wanted.keys() - found.keys())]
    mistakes += [f"{name} is not on the list" for name in sorted(found.keys() - wanted.keys())]
    mistakes += [
        f"{name} has another checksum"
        for name, path in sorted(found.items())
        if name in wanted and digest(path) != wanted[name]
    ]
    return mistakes


def digest(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def broker_artifacts() -> Path:
    """The folder with all artifacts of the broker, downloaded when it is not there yet.

    Raises:
        ConfigError: Java or Maven is missing, the download fails, or a checksum differs.
    """
    text = LIST.read_text()
    wanted = read_list(text)
    key = hashlib.sha256(text.encode()).hexdigest()[:12]
    folder = cache_folder() / f"kafka-{key}"
    if folder.is_dir() and not find_mistakes(folder, wanted):
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        fresh = Path(temporary) / "jars"
        resolve(fresh)
        if mistakes := find_mistakes(fresh, wanted):
            raise ConfigError(f"The Kafka artifacts are not what they must be: {mistakes[0]}.")
        shutil.rmtree(folder, ignore_errors=True)
        try:
            fresh.rename(folder)
        except OSError:
            # Another process was quicker; what it put there must be right as well.
            if mistakes := find_mistakes(folder, wanted):
                raise ConfigError(f"The Kafka artifacts in {folder}: {mistakes[0]}.") from None
    return folder


def require_tool(name: str) -> str:
    """The path of a program.

    Raises:
        ConfigError: It is not installed.
    """
    path = shutil.which(name)
    if path is None:
        raise ConfigError(
            f"The Kafka broker needs '{name}', which is not installed.",
            hint="Install Java 17 and Maven, or use a broker that runs elsewhere.",
        )
    return path


def resolve(folder: Path) -> None:
    """Download all artifacts of ``pom.xml`` into a folder."""
    command = [require_tool("mvn"), "--batch-mode", "--quiet", "--file", str(_HERE / "pom.xml")]
    command += [_COPY, f"-DoutputDirectory={folder}", "-DincludeScope=runtime"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_RESOLVE_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise ConfigError("Maven did not finish downloading the Kafka artifacts.") from error
    if done.returncode != 0:
        reason = next((line for line in done.stdout.splitlines() if "ERROR" in line), done.stderr)
        raise ConfigError(f"Maven cannot get the Kafka artifacts: {reason.strip()[:300]}")


def write_list() -> None:
    """Resolve the artifacts and write the list down anew."""
    with tempfile.TemporaryDirectory() as temporary:
        resolve(Path(temporary))
        lines = [f"{digest(jar)}  {jar.name}\n" for jar in sorted(Path(temporary).glob("*.jar"))]
        LIST.write_text("".join(lines))


if __name__ == "__main__":
    write_list()
