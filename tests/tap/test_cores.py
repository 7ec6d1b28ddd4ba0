"""Where the publisher's threads may run."""

from __future__ import annotations

import multiprocessing
import os
import threading
from multiprocessing.queues import Queue

from monitor.tap.cores import allow_cores, spare_cores


def _bound_worker(found: Queue[tuple[set[int], set[int]]]) -> None:
    """As vLLM's worker: bound to a core before its threads begin."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})

    def run() -> None:
        allow_cores(spare_cores())
        inner = threading.Thread(target=lambda: found.put((os.sched_getaffinity(0), spare)))
        inner.start()
        inner.join()

    spare = spare_cores()
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()


def test_a_thread_of_a_bound_worker_runs_on_its_parents_other_cores() -> None:
    context = multiprocessing.get_context("spawn")
    found: Queue[tuple[set[int], set[int]]] = context.Queue()
    worker = context.Process(target=_bound_worker, args=(found,))
    worker.start()
    threads_cores, spare = found.get(timeout=60)
    worker.join()
    ours = os.sched_getaffinity(0)
    assert spare == ours - {min(ours)}
    assert threads_cores == (spare or {min(ours)})


def test_cores_that_are_not_there_leave_the_thread_alone() -> None:
    found = []

    def run() -> None:
        before = os.sched_getaffinity(0)
        allow_cores({4095})
        allow_cores(set())
        found.append(os.sched_getaffinity(0) == before)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found == [True]


def test_without_a_process_of_vllms_above_nothing_is_known() -> None:
    assert multiprocessing.parent_process() is None
    assert spare_cores() == set()
