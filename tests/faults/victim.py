"""``pipehouse ingest`` that ends itself with SIGKILL at a chosen step of a delivery.

Usage: python -m tests.faults.victim [ACTION MOMENT COUNT]

It is the process that operators start, but for two things: its sessions are short, so that a round
takes seconds, and it knows where to die.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

import deploy.feed
from deploy.commands.run import ROLES
from ingest.chunk import Partition
from ingest.observe import MetricsObserver
from ingest.source.kafka_options import KafkaSourceOptions
from tests.faults.bugs import BUGS, VARIABLE

SESSION_S = 3.0


class QuickOptions(KafkaSourceOptions, frozen=True, kw_only=True):
    """Everything that waits for somebody waits a short time."""

    session_timeout_s: float = SESSION_S
    heartbeat_interval_s: float = 0.3
    rebalance_timeout_s: float = 8.0
    revoke_timeout_s: float = 4.0
    commit_timeout_s: float = 2.0

    def consumer_options(self) -> dict[str, Any]:
        return {**super().consumer_options(), "metadata_max_age_ms": 1_000}


def die_at(action: str, moment: str, count: int) -> None:
    """End this process at the ``count``-th time that any partition comes to a step."""
    left = count
    make = MetricsObserver.__init__

    def on_step(partition: Partition, at: str, when: str) -> None:
        nonlocal left
        if (at, when) == (action, moment):
            left -= 1
            if left <= 0:
                os.kill(os.getpid(), signal.SIGKILL)

    def made(self: MetricsObserver, *given: Any, **more: Any) -> None:
        make(self, *given, **more)
        self.step = on_step

    MetricsObserver.__init__ = made  # type: ignore[method-assign]


def main() -> None:
    vars(deploy.feed)["KafkaSourceOptions"] = QuickOptions
    if bug := os.environ.get(VARIABLE):
        BUGS[bug]()
    if sys.argv[1:]:
        action, moment, count = sys.argv[1:]
        die_at(action, moment, int(count))
    next(role for role in ROLES if role.name == "ingest")(["--port", "0"])


if __name__ == "__main__":
    main()
