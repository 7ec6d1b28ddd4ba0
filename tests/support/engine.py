"""A real vLLM engine as a server runs it (AsyncLLM, its core in a process of its own), for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from support.driver_process import DriverProcess, EngineDied
from support.glassllm import glassllm_folder

__all__ = ["EngineDied", "EngineProcess", "engine_args"]


def engine_args(featurewatch: dict[str, Any] | None, **args: Any) -> dict[str, Any]:
    """vLLM's arguments for an engine that serves glassllm in float32, with the tap's configuration, or None for a plain
    engine, and with `args` put over it."""
    return {
        "model": str(glassllm_folder()),
        "skip_tokenizer_init": True,
        "dtype": "float32",
        "enforce_eager": True,
        "max_model_len": 512,
        "seed": 0,
        **({"additional_config": {"featurewatch": featurewatch}} if featurewatch else {}),
        **args,
    }


class EngineProcess(DriverProcess):
    """One engine. Use as a context manager.

    Args:
        log: file for everything the engine prints.
        featurewatch: the tap's configuration, or None for a plain engine.
        environment: more environment variables.
        args: more `AsyncEngineArgs`.
    """

    def __init__(
        self,
        log: Path,
        featurewatch: dict[str, Any] | None,
        environment: dict[str, str] | None = None,
        **args: Any,
    ) -> None:
        # Insecure serialization is only for `changes_on_runner`, which sends a function to the worker.
        super().__init__("engine_driver.py", log, {"VLLM_ALLOW_INSECURE_SERIALIZATION": "1", **(environment or {})})
        self.say({"args": engine_args(featurewatch, **args)})

    def wait_ready(self) -> None:
        """Returns when the engine can serve; raises EngineDied when it refuses to start."""
        assert self.hear() == {"ready": True}

    def run(self, requests: list[dict[str, Any]]) -> dict[str, list[list[int]]]:
        """Runs all requests at once; returns the sampled token ids per request and completion."""
        self.start(requests)
        return self.results()

    def start(self, requests: list[dict[str, Any]]) -> None:
        """Begins to run requests; `results` waits for them."""
        self.say({"requests": requests})

    def results(self) -> dict[str, list[list[int]]]:
        answer = self.hear()
        self.preemptions = answer["preemptions"]
        outputs: dict[str, list[list[int]]] = answer["outputs"]
        return outputs

    def changes_on_runner(self) -> list[str]:
        """Methods of the model runner that are wrapped, then modules of the model that are hooked."""
        self.say({"inspect": True})
        changes: list[str] = self.hear()["changes"]
        return changes

    def stop(self) -> None:
        """Shuts the engine down and waits for its process."""
        self.say({"stop": True})
        self.hear()
        self.wait()
