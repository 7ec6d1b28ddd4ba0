"""One real deployment, vLLM with SmolLM2 beside the sidecar, for all tests that leave it as they found it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.deployment import connected

from monitor.cli.common import default_policies, default_zoo, resolve_model
from monitor.cli.demo.processes import running
from monitor.cli.demo.servers import Setting, free_port, start_sidecar, start_vllm, vllm_ready


@pytest.fixture(scope="session")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setting]:
    folder = tmp_path_factory.mktemp("deployment")
    # A copy: tests may add policies of their own.
    policies = shutil.copytree(default_policies(), folder / "policies")
    with tempfile.TemporaryDirectory(prefix="fw-") as sockets:
        setting = Setting(
            model=resolve_model("smollm2"),
            served_name="smollm2-135m-instruct",
            target=f"unix:{Path(sockets) / 'sidecar.sock'}",
            folder=folder,
            policies=policies,
            zoo=default_zoo(),
            hook_points=["resid_post.10", "resid_post.14"],
            compiled=False,
            port=free_port(),
        )
        with running(start_sidecar(setting)), running(start_vllm(setting)) as vllm:
            vllm.wait_until(lambda: vllm_ready(setting.port) and connected(setting), 300, lambda _: None)
            yield setting
