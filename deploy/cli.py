"""The ``pipehouse`` command: one function a command; our errors are one line and an exit code.

Exit codes: 0 done; 1 the thing asked about is bad; 2 usage; 3 the project does not load; 4 cannot
start; 5 a needed service cannot be reached; 130 and 143 after a drain on a signal.
"""

from __future__ import annotations

import click

from deploy.commands import deploy, operate, project, readers, run, tokens
from deploy.commands.base import Group


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="pipehouse", message="%(prog)s %(version)s")
def main() -> None:
    """Real-time analytics from files: events in, ClickHouse in the middle, endpoints out."""


for command in (run.dev, project.check, project.test, project.generate, deploy.deploy, *run.ROLES):
    main.add_command(command)
for reading in (readers.sql, readers.endpoint, readers.explain, tokens.token):
    main.add_command(reading)
for operating in operate.COMMANDS:
    main.add_command(operating)


if __name__ == "__main__":
    main()
