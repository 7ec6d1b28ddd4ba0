"""SIGKILL to the real sidecar while the real vLLM serves: no request fails, judging resumes, the gap is counted."""

import os
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from support.deployment import connected

from monitor.cli.common import default_policies, default_zoo, resolve_model
from monitor.cli.demo.processes import running
from monitor.cli.demo.prompts import PROMPTS
from monitor.cli.demo.servers import Setting, free_port, start_sidecar, start_vllm, vllm_ready
from monitor.cli.demo.traffic import Answer, send_all
from monitor.cli.demo.watch import SidecarView
from monitor.v1 import generations_pb2

pytestmark = [pytest.mark.engine, pytest.mark.model]


@pytest.fixture
def setting(tmp_path: Path) -> Iterator[Setting]:
    with tempfile.TemporaryDirectory(prefix="fw-") as sockets:
        yield Setting(
            model=resolve_model("smollm2"),
            served_name="smollm2-135m-instruct",
            target=f"unix:{sockets}/sidecar.sock",
            folder=tmp_path,
            policies=default_policies(),
            zoo=default_zoo(),
            hook_points=["resid_post.10", "resid_post.14"],
            compiled=False,
            port=free_port(),
        )


class Traffic:
    """Sends all prompts again and again from a thread until told to end."""

    def __init__(self, setting: Setting) -> None:
        self.answers: list[Answer] = []
        self.rounds = 0
        self._end = threading.Event()
        self._setting = setting
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        url = f"http://127.0.0.1:{self._setting.port}/v1"
        while not self._end.is_set():
            self.answers += send_all(PROMPTS[:8], base_url=url, model=self._setting.served_name, max_tokens=60)
            self.rounds += 1

    def end(self) -> None:
        self._end.set()
        self._thread.join()


def total(summary: generations_pb2.GenerationSummary) -> int:
    seen = summary.coverage
    return seen.observed + seen.restored + seen.dropped + seen.unseen


def test_sigkill_during_traffic(setting: Setting) -> None:
    first = start_sidecar(setting)
    with running(first), running(start_vllm(setting)) as vllm:
        vllm.wait_until(lambda: vllm_ready(setting.port) and connected(setting), 300, lambda _: None)
        traffic = Traffic(setting)
        try:
            vllm.wait_until(lambda: traffic.rounds >= 1, 120, lambda _: None)
            time.sleep(1)
            os.kill(first.pid, signal.SIGKILL)
            time.sleep(2)
            second = start_sidecar(replace(setting, folder=setting.folder))
            with running(second):
                second.wait_until(lambda: connected(setting), 60, lambda _: None)
                rounds = traffic.rounds
                vllm.wait_until(lambda: traffic.rounds >= rounds + 2, 120, lambda _: None)
                traffic.end()
                _check(setting, traffic.answers)
        finally:
            traffic.end()


def _check(setting: Setting, answers: list[Answer]) -> None:
    assert [answer.error for answer in answers if answer.error] == []
    with SidecarView(setting.target, lambda _: None) as view:
        ids = [answer.external_id for answer in answers]
        last_round = ids[-8:]
        view.ended_generations(last_round, 15)
        known = view.ended_generations(ids, 0)
    assert all(total(summary) == summary.coverage.positions > 0 for summary in known.values())
    # Judging goes on: what began after the restart is seen whole but for what the prefix cache held.
    for one in last_round:
        assert known[one].coverage.dropped == 0
        assert total(known[one]) == known[one].coverage.positions
        assert known[one].peaks
    # The gap is on record with the requests that lived through it.
    assert any(summary.coverage.dropped for summary in known.values())
