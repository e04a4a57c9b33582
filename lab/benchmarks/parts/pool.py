"""Processes that simulate beside each other, and end with the command."""

from __future__ import annotations

import multiprocessing
import signal
from concurrent.futures import ProcessPoolExecutor

from flexspec_mq.daemon.children import end_with_parent


def pool(jobs: int) -> ProcessPoolExecutor:
    """So many processes."""
    # A process that has loaded models is no parent to fork from.
    spawn = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(jobs, mp_context=spawn, initializer=_end_with_parent)


def _end_with_parent() -> None:
    """A simulation is of no use to anybody when the command has ended."""
    end_with_parent(signal.SIGKILL)()
