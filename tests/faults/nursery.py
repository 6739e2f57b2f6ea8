"""Workers that need not import everything: forked from a process that has done so once."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Mapping, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path


def start_worker(log: Path, environ: Mapping[str, str], crash: Sequence[str] = ()) -> BaseProcess:
    """``python -m tests.faults.victim`` with these arguments, as a process of its own."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([f"{__package__}.victim"])
    process = context.Process(target=_live, args=(log, dict(environ), list(crash)))
    process.start()
    return process


def _live(log: Path, environ: Mapping[str, str], crash: Sequence[str]) -> None:
    os.environ.clear()
    os.environ.update(environ)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    from tests.faults import victim

    sys.argv[1:] = crash
    victim.main()
