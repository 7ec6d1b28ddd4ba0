"""Real vLLM servers and a real sidecar, as child processes of a benchmark."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from monitor.cli.demo.processes import Child
from monitor.cli.demo.servers import sidecar_ready, vllm_ready
from serving.load import SERVED


@dataclass(frozen=True)
class Serving:
    """How every vLLM of a run serves."""

    model: str
    dtype: str
    compiled: bool
    folder: Path


def start_vllm(
    serving: Serving, name: str, port: int, tap: object = None, environment: Mapping[str, str] | None = None
) -> Child:
    """`tap` is the tap's configuration; None is a plain engine."""
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", serving.model]
    command += ["--served-model-name", SERVED, "--host", "127.0.0.1", "--port", str(port), "--dtype", serving.dtype]
    command += ["--max-model-len", "2048"]
    if tap is not None:
        command += ["--additional-config", json.dumps({"featurewatch": tap})]
    if not serving.compiled:
        command.append("--enforce-eager")
    env = {
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_USE_V2_MODEL_RUNNER": "0",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
        **(environment or {}),
    }
    return Child(f"vLLM {name}", command, serving.folder / f"{name}.log", env)


def wait_for_vllm(server: Child, port: int) -> None:
    server.wait_until(lambda: vllm_ready(port), 900, _say)


def start_sidecar(folder: Path, target: str, policies: Path, metrics_port: int, cores: str = "") -> Child:
    """`cores` is a list as taskset reads it; empty leaves the choice to the kernel."""
    command = ["taskset", "-c", cores] if cores else []
    command += [sys.executable, "-m", "monitor.cli.main", "sidecar", "--listen", target, "--policies", str(policies)]
    command += ["--zoo", str(folder / "zoo"), "--store", str(folder / "audit.sqlite")]
    command += ["--alerts-jsonl", str(folder / "alerts.jsonl"), "--metrics", f"127.0.0.1:{metrics_port}"]
    return Child("the sidecar", command, folder / "sidecar.log")


def wait_for_sidecar(sidecar: Child, target: str) -> None:
    sidecar.wait_until(lambda: sidecar_ready(target), 300, _say)


def cpu_seconds(pid: int) -> float:
    """User and system time of a process (Linux)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _say(line: str) -> None:
    """Waiting is silent; a failure prints the log's end."""
