"""A real vLLM engine in a subprocess, for tests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from support.glassllm import glassllm_folder

_DRIVER = Path(__file__).with_name("engine_driver.py")


class EngineDied(AssertionError):  # noqa: N818 -- a test failure, not an error to handle
    """The engine's process ended; the message holds the end of its log."""


class EngineProcess:
    """One engine serving glassllm in float32. Use as a context manager.

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
        self.log = log
        engine_args = {
            "model": str(glassllm_folder()),
            "skip_tokenizer_init": True,
            "dtype": "float32",
            "enforce_eager": True,
            "max_model_len": 512,
            "seed": 0,
            **({"additional_config": {"featurewatch": featurewatch}} if featurewatch else {}),
            **args,
        }
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("FEATUREWATCH_")}
        with log.open("wb") as stderr:
            self._process = subprocess.Popen(
                [sys.executable, str(_DRIVER)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                start_new_session=True,
                env={
                    **inherited,
                    "VLLM_CPU_KVCACHE_SPACE": "1",
                    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
                    "VLLM_NO_USAGE_STATS": "1",
                    # Only for `changes_on_runner`, which sends a function to the worker.
                    "VLLM_ALLOW_INSECURE_SERIALIZATION": "1",
                    "PYTHONPATH": os.pathsep.join([str(_DRIVER.parent.parent), *sys.path[1:]]),
                    "TOKENIZERS_PARALLELISM": "false",
                    **(environment or {}),
                },
            )
        self._say({"args": engine_args})

    def wait_ready(self) -> None:
        """Returns when the engine can serve; raises EngineDied when it refuses to start."""
        assert self._hear() == {"ready": True}

    def run(self, requests: list[dict[str, Any]]) -> dict[str, list[list[int]]]:
        """Runs all requests at once; returns the sampled token ids per request and completion."""
        self.start(requests)
        return self.results()

    def start(self, requests: list[dict[str, Any]]) -> None:
        """Begins to run requests; `results` waits for them."""
        self._say({"requests": requests})

    def results(self) -> dict[str, list[list[int]]]:
        answer = self._hear()
        self.preemptions = answer["preemptions"]
        outputs: dict[str, list[list[int]]] = answer["outputs"]
        return outputs

    def changes_on_runner(self) -> list[str]:
        """Methods of the model runner that are wrapped, then modules of the model that are hooked."""
        self._say({"inspect": True})
        changes: list[str] = self._hear()["changes"]
        return changes

    def stop(self) -> None:
        """Shuts the engine down and waits for its process."""
        self._say({"stop": True})
        self._hear()
        self._process.wait(60)

    def __enter__(self) -> EngineProcess:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, 9)
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def _say(self, message: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(message) + "\n")
        self._process.stdin.flush()

    def _hear(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            raise EngineDied(self.log.read_text(errors="replace")[-6000:])
        message: dict[str, Any] = json.loads(line)
        return message
