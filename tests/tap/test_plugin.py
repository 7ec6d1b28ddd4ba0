"""The entry point: one wrapped method, and nothing at all without configuration."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from monitor.tap import plugin


class Wrapper:
    """As vLLM's WorkerWrapperBase after `init_worker`."""

    def __init__(self, additional_config: Any) -> None:
        self.vllm_config = SimpleNamespace(additional_config=additional_config)
        self.worker = SimpleNamespace(model_runner=None)

    def init_device(self) -> None:
        self.worker.model_runner = "made"


@pytest.fixture
def wrapper_class(monkeypatch: pytest.MonkeyPatch) -> type[Wrapper]:
    """vLLM's module, replaced, with the plugin registered twice as vLLM may do."""

    class Fresh(Wrapper):
        init_device = Wrapper.init_device

    module: Any = ModuleType("vllm.v1.worker.worker_base")
    module.WorkerWrapperBase = Fresh
    for name in ("vllm", "vllm.v1", "vllm.v1.worker"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    for name in ("FEATUREWATCH_SIDECAR", "FEATUREWATCH_HOOK_POINTS"):
        monkeypatch.delenv(name, raising=False)
    plugin.register()
    once = Fresh.init_device
    plugin.register()
    assert Fresh.init_device is once
    return Fresh


@pytest.fixture
def attached(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    calls: list[Any] = []
    module: Any = ModuleType("monitor.tap.attach")
    module.attach = lambda worker, vllm_config: calls.append(worker.model_runner)
    monkeypatch.setitem(sys.modules, "monitor.tap.attach", module)
    return calls


@pytest.mark.parametrize("additional", [{}, {"other": 1}, None])
def test_without_configuration_nothing_is_attached(
    wrapper_class: type[Wrapper], attached: list[Any], additional: Any
) -> None:
    wrapper = wrapper_class(additional)
    wrapper.init_device()
    assert wrapper.worker.model_runner == "made"
    assert attached == []


def test_the_tap_is_attached_after_the_runner_was_made(wrapper_class: type[Wrapper], attached: list[Any]) -> None:
    wrapper_class({"featurewatch": {}}).init_device()
    assert attached == ["made"]


def test_the_environment_configures_too(
    wrapper_class: type[Wrapper], attached: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEATUREWATCH_HOOK_POINTS", "resid_post.1")
    wrapper_class({}).init_device()
    assert attached == ["made"]


def test_vllm_finds_the_plugin() -> None:
    (entry,) = importlib.metadata.entry_points(group="vllm.general_plugins", name="featurewatch")
    assert entry.load() is plugin.register


def test_importing_the_plugin_imports_no_torch_no_vllm_and_no_grpc() -> None:
    code = "import sys, monitor.tap.plugin; print([m for m in ('torch', 'vllm', 'grpc', 'numpy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
