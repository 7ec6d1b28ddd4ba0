"""`featurewatch verify` as a deployment gate, on a real deployment."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from monitor.cli.demo.servers import Setting

pytestmark = [pytest.mark.engine, pytest.mark.model]


def verify(setting: Setting, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "monitor.cli.main", "verify", "--server", f"http://127.0.0.1:{setting.port}"]
    command += ["--sidecar", setting.target, *options]
    return subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "COLUMNS": "160"}, check=False, timeout=300
    )


def verdict(setting: Setting, *options: str) -> tuple[int, dict[str, Any]]:
    result = verify(setting, "--json", *options)
    assert result.stdout, result.stderr
    return result.returncode, json.loads(result.stdout)


def test_a_sound_deployment_passes(deployment: Setting) -> None:
    result = verify(deployment)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "all well" in result.stdout
    assert "FAIL" not in result.stdout
    for name in ("error at resid_post.10", "error at resid_post.14", "repeated canaries coverage", "overhead"):
        assert name in result.stdout


def test_what_is_wrong_is_named_and_fails(deployment: Setting) -> None:
    code, found = verdict(deployment, "--tolerance", "1e-12", "--max-overhead", "0")
    assert (code, found["ok"]) == (1, False)
    failed = {check["name"] for check in found["checks"] if not check["ok"]}
    assert {"error at resid_post.10", "error at resid_post.14"} < failed
    assert all(name.startswith(("error at", "overhead of")) for name in failed)


def test_a_server_without_a_tap_here_is_told(deployment: Setting) -> None:
    result = verify(deployment, "--sidecar", "unix:/nowhere/sidecar.sock")
    assert result.returncode == 2
    assert "nothing answers there" in result.stderr
    assert "Traceback" not in result.stderr
