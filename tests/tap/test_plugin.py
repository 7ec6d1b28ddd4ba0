"""The entry point: two wrapped methods, and nothing at all without configuration."""

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


class Scheduler:
    """As vLLM's."""

    def __init__(self, vllm_config: Any, kv_cache_config: Any) -> None:
        self.vllm_config, self.kv_cache_config = vllm_config, kv_cache_config


class AsyncScheduler(Scheduler):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)


@pytest.fixture
def wrapper_class(monkeypatch: pytest.MonkeyPatch) -> type[Wrapper]:
    """vLLM's module, replaced, with the plugin registered twice as vLLM may do."""

    class Fresh(Wrapper):
        init_device = Wrapper.init_device

    module: Any = ModuleType("vllm.v1.worker.worker_base")
    module.WorkerWrapperBase = Fresh
    scheduler: Any = ModuleType("vllm.v1.core.sched.scheduler")
    scheduler.Scheduler = Scheduler
    monkeypatch.setattr(Scheduler, "__init__", Scheduler.__init__)
    for name in ("vllm", "vllm.v1", "vllm.v1.worker", "vllm.v1.core", "vllm.v1.core.sched"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(sys.modules, scheduler.__name__, scheduler)
    for name in ("FEATUREWATCH_SIDECAR", "FEATUREWATCH_HOOK_POINTS"):
        monkeypatch.delenv(name, raising=False)
    plugin.register()
    once = Fresh.init_device, Scheduler.__init__
    plugin.register()
    assert (Fresh.init_device, Scheduler.__init__) == once
    return Fresh


@pytest.fixture
def attached(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    calls: list[Any] = []
    module: Any = ModuleType("monitor.tap.attach")
    module.attach = lambda worker, vllm_config: calls.append(worker.model_runner)
    monkeypatch.setitem(sys.modules, "monitor.tap.attach", module)
    beside: Any = ModuleType("monitor.tap.scheduler.side")
    beside.attach_scheduler = lambda scheduler, vllm_config: calls.append((scheduler.kv_cache_config, vllm_config))
    monkeypatch.setitem(sys.modules, "monitor.tap.scheduler.side", beside)
    return calls


@pytest.mark.parametrize("additional", [{}, {"other": 1}, None])
def test_without_configuration_nothing_is_attached(
    wrapper_class: type[Wrapper], attached: list[Any], additional: Any
) -> None:
    wrapper = wrapper_class(additional)
    wrapper.init_device()
    assert wrapper.worker.model_runner == "made"
    Scheduler(wrapper.vllm_config, kv_cache_config="layout")
    assert attached == []


def test_the_tap_is_attached_after_the_runner_was_made(wrapper_class: type[Wrapper], attached: list[Any]) -> None:
    wrapper_class({"featurewatch": {}}).init_device()
    assert attached == ["made"]


@pytest.mark.usefixtures("wrapper_class")
@pytest.mark.parametrize("kind", [Scheduler, AsyncScheduler])
def test_a_scheduler_is_attended_once_it_is_made_also_a_subclass(kind: type[Scheduler], attached: list[Any]) -> None:
    config = SimpleNamespace(additional_config={"featurewatch": {}})
    kind(vllm_config=config, kv_cache_config="layout")
    assert attached == [("layout", config)]


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
