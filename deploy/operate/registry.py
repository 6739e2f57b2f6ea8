"""Every operator command: its name, its arguments, its one function.

HTTP (``POST /v0/operate/<name>``) and the command line both go through here.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from msgspec import Struct

from deploy.operate.audit import AuditArguments, AuditResult, audit
from deploy.operate.doctor import DoctorArguments, DoctorResult, doctor
from deploy.operate.partitions import (
    PartitionsArguments,
    PartitionsResult,
    ResolveArguments,
    ResolveResult,
    list_partitions,
    resolve,
)
from deploy.operate.quarantine import (
    ListArguments,
    ListResult,
    PurgeArguments,
    PurgeResult,
    ReplayArguments,
    ShowArguments,
    ShowResult,
    list_quarantine,
    purge_quarantine,
    replay_quarantine,
    show_quarantine,
)
from deploy.operate.services import OperatorServices
from deploy.operate.trace import TraceArguments, TraceResult, trace
from ingest.replay import ReplayReport


class Command(Struct, frozen=True, kw_only=True):
    """One command; results have ``is_ok``, which decides the exit code."""

    name: str
    arguments: type[Struct]
    result: type[Struct]
    run: Callable[[OperatorServices, Any], Awaitable[Struct]]


AUDIT = Command(name="audit", arguments=AuditArguments, result=AuditResult, run=audit)
TRACE = Command(name="trace", arguments=TraceArguments, result=TraceResult, run=trace)
DOCTOR = Command(name="doctor", arguments=DoctorArguments, result=DoctorResult, run=doctor)
PARTITIONS = Command(
    name="partitions", arguments=PartitionsArguments, result=PartitionsResult, run=list_partitions
)
RESOLVE = Command(name="resolve", arguments=ResolveArguments, result=ResolveResult, run=resolve)
QUARANTINE_LIST = Command(
    name="quarantine-list", arguments=ListArguments, result=ListResult, run=list_quarantine
)
QUARANTINE_SHOW = Command(
    name="quarantine-show", arguments=ShowArguments, result=ShowResult, run=show_quarantine
)
QUARANTINE_REPLAY = Command(
    name="quarantine-replay", arguments=ReplayArguments, result=ReplayReport, run=replay_quarantine
)
QUARANTINE_PURGE = Command(
    name="quarantine-purge", arguments=PurgeArguments, result=PurgeResult, run=purge_quarantine
)

COMMANDS: Mapping[str, Command] = {
    command.name: command
    for command in (
        AUDIT,
        TRACE,
        DOCTOR,
        PARTITIONS,
        RESOLVE,
        QUARANTINE_LIST,
        QUARANTINE_SHOW,
        QUARANTINE_REPLAY,
        QUARANTINE_PURGE,
    )
}
