"""A dev server that ends itself with SIGKILL at a chosen step of a delivery.

Usage: python -m tests.chaos.victim DATA PROJECT [ACTION MOMENT COUNT]
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from deploy.dev import DevOptions, start_dev
from ingest.chunk import Partition
from shared.logs import configure_logging
from shared.settings import load_settings
from shared.supervise import Service, run_service


def main() -> int:
    data, project = Path(sys.argv[1]), Path(sys.argv[2])
    action, moment, count = sys.argv[3:6] if len(sys.argv) > 3 else ("", "", "0")
    left = int(count)

    def on_step(partition: Partition, at: str, when: str) -> None:
        nonlocal left
        if (at, when) == (action, moment):
            left -= 1
            if left <= 0:
                os.kill(os.getpid(), signal.SIGKILL)

    configure_logging(form="json", level="error")
    settings = load_settings(os.environ, {"data": str(data), "port": 0, "batch_max_age_s": 0.05})
    options = DevOptions(folders=(project,), watch=False, on_step=on_step)

    async def serve(service: Service) -> None:
        running = await start_dev(service, settings, options)
        sys.stdout.write(f"{running.url} {running.token}\n")
        sys.stdout.flush()

    return run_service(serve, shutdown_timeout_s=10)


if __name__ == "__main__":
    sys.exit(main())
