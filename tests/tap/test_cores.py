"""Where the publisher's threads may run."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest

from monitor.tap.cores import allow_cores, spare_cores

BOUND = """
import os, threading
from monitor.tap.cores import allow_cores, spare_cores
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
found = []
def run():
    allow_cores(spare_cores())
    inner = threading.Thread(target=lambda: found.append(sorted(os.sched_getaffinity(0))))
    inner.start(); inner.join()
thread = threading.Thread(target=run)
thread.start(); thread.join()
everywhere, bound = os.sched_getaffinity(os.getppid()), os.sched_getaffinity(0)
print(set(found[0]) == (everywhere - bound or bound), len(bound))
"""


def test_a_thread_of_a_bound_worker_runs_on_its_parents_other_cores() -> None:
    answer = subprocess.run([sys.executable, "-c", BOUND], capture_output=True, text=True, check=True)
    assert answer.stdout.split() == ["True", "1"]


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


def test_a_parent_that_has_ended_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getppid", lambda: 2**22 - 1)
    assert spare_cores() == set()
