"""Where the publisher's threads may run.

vLLM binds a CPU worker, with every thread that it starts, to the cores of its computation, and leaves others free for
serving. On the worker's cores each frame would push the computation aside, and wait for it.
"""

from __future__ import annotations

import multiprocessing
import os

from monitor.tap.log import logger


def spare_cores() -> set[int]:
    """Cores that vLLM's process which made this one may use and this one may not: vLLM has bound it. Empty when there
    are none, or when it cannot be known. For the only worker of a CPU engine: others have cores that are not spare."""
    parent = multiprocessing.parent_process()
    if parent is None or parent.pid != os.getppid():
        # Within the process of whoever uses vLLM, or the parent has ended: there is nobody whose cores tell.
        return set()
    try:
        return os.sched_getaffinity(os.getppid()) - os.sched_getaffinity(0)
    except (AttributeError, OSError):
        # Not Linux, or the parent has just ended: the threads stay where they are.
        return set()


def allow_cores(cores: set[int]) -> None:
    """Lets the calling thread, and those that it starts, run on `cores`."""
    if not cores:
        return
    try:
        os.sched_setaffinity(0, cores)
    except OSError as error:
        logger.info("featurewatch: the publisher's thread stays on the worker's cores: %s", error)
